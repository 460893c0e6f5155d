"""What a call adds to a conversation's token stream where the server writes the prompt itself, by its own chat template.

Invariant: nothing is taken on trust. A prompt goes on in its segment only if its first ids are, one by one, those the engine has
seen and sampled; any other begins a segment, and its cause says where it departs.
"""

import hashlib
from array import array
from collections.abc import Sequence

import msgspec

from perdure.core.model import Prompt
from perdure.core.tokens import RendererInfo, Span
from perdure.providers.base import TokenStream
from perdure.providers.token_plan import Plan, begun_segment, break_of, common_prefix
from perdure.tokens.base import NoBridge

NOT_OURS = hashlib.sha256(b"").hexdigest()


def served_renderer(engine: str, version: str | None) -> RendererInfo:
    """Who wrote the prompts: the server, whose template and settings are not known here."""
    return RendererInfo(name=f"{engine}-chat", version=version or "unknown", config_sha256=NOT_OURS)


def served_plan(
    prompt: Prompt,
    tokens: TokenStream,
    prompt_ids: Sequence[int],
    *,
    written_by: RendererInfo,
    handle: str,
    model_name: str,
) -> Plan:
    """`prompt_ids` [P]: the prompt as the server says it used it. `tokens` is only read. Which of the ids say which message
    is not known, so all that is new is scaffold."""
    ids = array("i", prompt_ids)
    prompt = msgspec.structs.replace(prompt, shown_tools=None)  # the server is told of those that may be called
    held = break_of(None, written_by, prompt, tokens, model_name)
    if isinstance(held, int):
        shared = common_prefix(tokens.ids, ids)
        if shared == len(tokens.ids):
            assert tokens.segment is not None
            return _plan(prompt, ids, shared, held, tokens)
        held = NoBridge("renderer_fallback", _departure(tokens, shared))
    begun = begun_segment(prompt, tokens, held, ids, handle, model_name, None, written_by)
    kind = "fallback" if held.cause == "renderer_fallback" else "render"
    return Plan(
        ids=ids,
        delta=ids.tolist(),
        highest_id=max(ids, default=0),
        segment=begun,
        begins=begun,
        bridge=kind,
        spans=(Span(len(ids), "", 0, False),),
        synthesized=(),
        message_ids=tuple(message.id for message in prompt.messages),
        reasoning_open=False,
    )


def _plan(prompt: Prompt, ids: "array[int]", shared: int, held: int, tokens: TokenStream) -> Plan:
    """The prompt, written anew as a whole, that begins with all the engine has seen."""
    assert tokens.segment is not None
    delta = ids[shared:].tolist()
    return Plan(
        ids=ids,
        delta=delta,
        highest_id=max(ids, default=0),
        segment=tokens.segment,
        begins=None,
        bridge="render",
        spans=(Span(len(delta), "", 0, False),) if delta else (),
        synthesized=(),
        message_ids=tuple(message.id for message in prompt.messages[held:]),
        reasoning_open=False,
    )


def _departure(tokens: TokenStream, shared: int) -> str:
    where = "in the last answer" if shared >= tokens.last_completion_start else "before the last answer"
    return (
        "the server's chat template wrote the conversation anew, and not as the engine had seen it: "
        f"it departs after {shared} of {len(tokens.ids)} ids, {where}"
    )
