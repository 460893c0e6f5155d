"""What one call adds to a conversation's token stream: decided before the call, applied after its commit.

Invariant: a stream grows only by what a committed call recorded, so `restore` of its calls gives the same stream.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from perdure.core.errors import ProviderError
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message
from perdure.core.model import Prompt, TokenCapture, ToolSpec
from perdure.core.tokens import (
    Cause,
    RendererInfo,
    Segment,
    Span,
    Synthesized,
    TokenCall,
    TokenizerInfo,
    bytes_to_ids,
)
from perdure.providers.base import TokenStream
from perdure.tokens.base import NoBridge, Rendered, Renderer


class Plan(Struct, frozen=True, kw_only=True):
    """`ids` [T] the whole prompt, of which `delta` [D] are new in the segment. `begins`: the segment, where this call begins it.

    `highest_id`: the highest of `ids`. `message_ids`: the messages the delta renders, in order.
    """

    ids: "array[int]"
    delta: list[int]
    highest_id: int
    segment: Segment
    begins: Segment | None
    bridge: Literal["render", "bridge", "fallback"]
    spans: tuple[Span, ...]
    synthesized: tuple[Synthesized, ...]
    message_ids: tuple[str, ...]
    reasoning_open: bool


def shown_tools(prompt: Prompt) -> Sequence[ToolSpec]:
    """What the prompt tells of tools: it stays the same while rules change what may be called."""
    return prompt.tools if prompt.shown_tools is None else prompt.shown_tools


def make_plan(renderer: Renderer, prompt: Prompt, tokens: TokenStream, handle: str, model_name: str) -> Plan:
    """Extend the stream if that is exact, else begin a new segment for the cause that prevents it. `tokens` is only read."""
    segment = tokens.segment
    stopped = break_of(renderer.tokenizer.info, renderer.info, prompt, tokens, model_name)
    if isinstance(stopped, int):
        assert segment is not None
        new = prompt.messages[stopped:]
        bridged = renderer.bridge(
            tokens.ids,
            tokens.last_completion_start,
            new,
            shown_tools(prompt),
            enable_thinking=prompt.settings.enable_thinking,
            retention=prompt.thinking_retention,
        )
        if isinstance(bridged, Rendered):
            _check_ids(renderer, bridged.ids)
            ids = tokens.ids[:]
            ids.extend(bridged.ids)
            return _plan(ids, bridged, segment, None, "bridge", new)
        stopped = bridged
    rendered = renderer.render(
        prompt.system,
        prompt.messages,
        shown_tools(prompt),
        enable_thinking=prompt.settings.enable_thinking,
        retention=prompt.thinking_retention,
        system_message_id=prompt.system_message_id,
    )
    _check_ids(renderer, rendered.ids)
    ids = array("i", rendered.ids)
    begun = begun_segment(prompt, tokens, stopped, ids, handle, model_name, renderer.tokenizer.info, renderer.info)
    kind = "fallback" if stopped.cause == "renderer_fallback" else "render"
    return _plan(ids, rendered, begun, begun, kind, prompt.messages)


def begun_segment(
    prompt: Prompt,
    tokens: TokenStream,
    why: NoBridge,
    ids: "array[int]",
    handle: str,
    model_name: str,
    tokenizer: TokenizerInfo | None,
    written_by: RendererInfo,
) -> Segment:
    """The segment that `ids`, a whole prompt, begins."""
    return Segment(
        id=new_id("segment"),
        conversation_id=prompt.conversation_id,
        agent_id=prompt.agent_id,
        index=tokens.last_index + 1,
        cause=why.cause,
        cause_detail=why.detail or None,
        created_us=now_us(),
        parent_segment_id=tokens.segment.id if tokens.segment else None,
        parent_offset=common_prefix(tokens.ids, ids) if tokens.segment else 0,
        model_handle=handle,
        model_name=model_name,
        tokenizer=tokenizer,
        renderer=written_by,
        system_sha256=_sha(prompt.system.encode("utf-8", "surrogatepass")),
        tools_sha256=tools_sha256(shown_tools(prompt)),
        settings={
            "enable_thinking": prompt.settings.enable_thinking,
            "thinking_retention": prompt.thinking_retention,
        },
    )


def _plan(
    ids: "array[int]",
    rendered: Rendered,
    segment: Segment,
    begins: Segment | None,
    kind: Literal["render", "bridge", "fallback"],
    messages: Sequence[Message],
) -> Plan:
    return Plan(
        ids=ids,
        delta=rendered.ids,
        highest_id=max(ids, default=0),
        segment=segment,
        begins=begins,
        bridge=kind,
        spans=rendered.spans,
        synthesized=rendered.synthesized,
        message_ids=tuple(message.id for message in messages),
        reasoning_open=rendered.reasoning_open,
    )


def break_of(
    tokenizer: TokenizerInfo | None, written_by: RendererInfo, prompt: Prompt, tokens: TokenStream, model_name: str
) -> NoBridge | int:
    """How many of the prompt's messages the stream holds, or why it cannot go on. `tokenizer`: None where it is not known."""
    segment = tokens.segment
    if tokens.break_cause is not None:
        return NoBridge(cast(Cause, tokens.break_cause[0]), tokens.break_cause[1])
    if segment is None:
        return NoBridge("root", "")
    if segment.model_name != model_name:
        return NoBridge("model_change", f"from {segment.model_name} to {model_name}")
    if (segment.tokenizer is None) != (tokenizer is None):
        return NoBridge("model_change", f"{model_name} is asked by another API now")
    if segment.tokenizer and tokenizer and segment.tokenizer.sha256 != tokenizer.sha256:
        return NoBridge("model_change", f"{model_name} has another tokenizer now")
    if segment.renderer is None or segment.renderer != written_by:
        return NoBridge("model_change", f"{model_name} has another chat template or renderer version now")
    if segment.tools_sha256 != tools_sha256(shown_tools(prompt)):
        return NoBridge("tools_change", "other tools are shown")
    if segment.system_sha256 != _sha(prompt.system.encode("utf-8", "surrogatepass")):
        return NoBridge("memory_rewrite", "the system prompt changed")
    held = covered_count(prompt.messages, tokens.covered)
    if held is None:
        return NoBridge("history_edit", "the context no longer begins with the messages the model has seen")
    return held


def covered_count(messages: Sequence[Message], covered: Sequence[str]) -> int | None:
    """How many messages at the beginning are the covered ones; None if these are not the beginning."""
    if len(covered) > len(messages) or any(messages[at].id != held for at, held in enumerate(covered)):
        return None
    return len(covered)


def extend(tokens: TokenStream, capture: TokenCapture) -> None:
    """Take a committed call into the stream it was planned on."""
    if capture.segment is not None:
        tokens.segment = capture.segment
        tokens.last_index = max(tokens.last_index, capture.segment.index)
        tokens.ids = array("i")
        tokens.covered = []
        tokens.routed = 0
        tokens.break_cause = None
    _append(tokens, capture.call)


def note_summary(tokens: TokenStream, capture: TokenCapture, *, extends: bool) -> None:
    """Take a committed call for a summary into account: into the stream itself, or beside it."""
    if extends:
        extend(tokens, capture)
    elif capture.segment is not None:
        tokens.last_index = max(tokens.last_index, capture.segment.index)


def restore(segment: Segment, calls: Iterable[TokenCall]) -> TokenStream:
    """The stream of a segment from its calls in order, as it was after the last of them."""
    tokens = TokenStream()
    tokens.segment = segment
    tokens.last_index = segment.index
    for call in calls:
        _append(tokens, call)
    return tokens


def _append(tokens: TokenStream, call: TokenCall) -> None:
    delta = bytes_to_ids(call.delta_ids)
    if (
        tokens.segment is None
        or call.segment_id != tokens.segment.id
        or len(tokens.ids) + len(delta) != call.prompt_len
    ):
        raise ProviderError(
            f"The token record of step {call.step_id} does not continue its segment: "
            f"{len(tokens.ids)} + {len(delta)} ids, and a prompt of {call.prompt_len}."
        )
    tokens.ids.extend(delta)
    tokens.last_completion_start = len(tokens.ids)
    tokens.ids.extend(bytes_to_ids(call.completion_ids))
    tokens.covered.extend((*call.message_ids, call.assistant_message_id))
    if call.experts is not None:
        tokens.routed = call.experts.end


def common_prefix(a: "array[int]", b: "array[int]") -> int:
    """How many ids two streams share from the start."""
    end, step = min(len(a), len(b)), 1024
    left, right = memoryview(a).cast("B"), memoryview(b).cast("B")
    at = 0
    while at < end and left[at * 4 : (at + step) * 4] == right[at * 4 : (at + step) * 4] and at + step <= end:
        at += step
    while at < end and a[at] == b[at]:
        at += 1
    return at


def tools_sha256(tools: Sequence[ToolSpec]) -> str:
    """Of what the model is shown of them, in order."""
    shown: list[Any] = [[tool.name, tool.description, tool.parameters] for tool in tools]
    return _sha(msgspec.json.encode(shown))


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_ids(renderer: Renderer, ids: Sequence[int]) -> None:
    """An id outside the vocabulary ends some engines: none may ever be sent."""
    size = renderer.tokenizer.info.vocab_size
    if ids and not (min(ids) >= 0 and max(ids) < size):
        raise ProviderError(
            f"The renderer {renderer.info.name} made an id outside the vocabulary of {size} tokens.",
            kind="llm_bad_request",
        )
