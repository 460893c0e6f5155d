"""Which renderer a model gets.

Invariant: a native renderer is only chosen after it gave the same ids as the model's own chat template on probe conversations;
names decide nothing.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from perdure.core.errors import Invalid
from perdure.core.messages import Message, ReasoningPart, Role, TextPart, ToolCall, ToolReturn
from perdure.core.model import ToolSpec
from perdure.tokens.base import Renderer, Tokenizer, TokenizerNotFound
from perdure.tokens.chatml import ChatMlRenderer
from perdure.tokens.deepseek import NO_THOUGHTS, DeepSeekRenderer
from perdure.tokens.generic import GenericRenderer
from perdure.tokens.glm import GlmRenderer
from perdure.tokens.harmony import HarmonyRenderer
from perdure.tokens.llama3 import Llama3Renderer
from perdure.tokens.mistral import FORMS, MistralRenderer
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.qwen35 import VARIANTS, Qwen35Renderer


def renderer_for(
    model_name: str,
    tokenizer: Tokenizer,
    chat_template: str | None,
    *,
    special: Mapping[str, str] | None = None,
    stop_token_ids: Sequence[int] = (),
) -> Renderer:
    """`special`: the token texts the template may name (bos_token, ...). `stop_token_ids`: the model's own, as it declares them.

    TokenizerNotFound if the model has no chat template; Invalid if it cannot be read.
    """
    if chat_template is None:
        raise TokenizerNotFound(
            f"The tokenizer of {model_name} has no chat template: put a chat_template.jinja beside its tokenizer.json."
        )
    generic = GenericRenderer(
        tokenizer, chat_template, model_name=model_name, special=special or {}, stop_token_ids=stop_token_ids
    )
    for make in _candidates(tokenizer, chat_template, generic):
        try:
            native = make()
        except TokenizerNotFound:  # the family's tokens are not there
            continue
        if _agree(native, generic, has_tools="tools" in chat_template or generic.shape.calls is not None):
            return native
    return generic


def _candidates(tokenizer: Tokenizer, template: str, generic: GenericRenderer) -> Iterator[Callable[[], Renderer]]:
    """What the model may be, by the form of its calls and its control tokens."""
    calls = generic.shape.calls
    if tokenizer.special_id("<|im_start|>") is not None:
        if calls == "qwen_xml":
            for variant in VARIANTS:
                yield partial(Qwen35Renderer, tokenizer, variant=variant, template=template)
        if "reasoning_content" in template and "enable_thinking" in template:
            yield partial(Qwen3Renderer, tokenizer, template=template)
        default = _default_system(generic, "<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n")
        yield partial(ChatMlRenderer, tokenizer, default_system=default, template=template)
    elif calls == "glm_xml":
        for lines in (True, False):
            yield partial(GlmRenderer, tokenizer, lines=lines, template=template)
    elif calls == "llama3_json":
        yield partial(Llama3Renderer, tokenizer, dated="strftime_now" in template, template=template)
    elif calls == "deepseek":
        for no_thoughts in NO_THOUGHTS:
            yield partial(DeepSeekRenderer, tokenizer, no_thoughts=no_thoughts, template=template)
    elif calls == "mistral":
        default = _default_system(generic, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
        for form in FORMS:
            yield partial(MistralRenderer, tokenizer, form=form, default_system=default, template=template)
    elif calls == "harmony":
        yield partial(HarmonyRenderer, tokenizer, template=template)


def _default_system(generic: GenericRenderer, before: str, after: str) -> str:
    """The system prompt the template puts in where a conversation has none."""
    text = generic.render_text([{"role": "user", "content": "hello"}], [], generation=False)
    found = re.search(re.escape(before) + "(.*?)" + re.escape(after), text, re.DOTALL)
    return found[1] if found else ""


def _agree(native: Renderer, generic: GenericRenderer, *, has_tools: bool) -> bool:
    """Whether the two give the same ids on every probe that the template takes."""
    agreed = 0
    enough = _ENOUGH if has_tools else 1
    for system, messages, shown in _probes(has_tools):
        tools = shown if generic.shape.lists_tools or not generic.shape.calls else []
        for thinking in (None, True, False):
            try:
                expected = generic.render(system, messages, tools, enable_thinking=thinking).ids
            except Invalid:
                continue
            if _leaves_out(generic, messages, expected):
                continue
            rendered = native.render(system, messages, tools, enable_thinking=thinking, retention="tool_cycle")
            if rendered.ids != expected:
                return False
            agreed += 1
    return agreed >= enough


def _leaves_out(generic: GenericRenderer, messages: Sequence[Message], ids: Sequence[int]) -> bool:
    """Some templates write only the first of several calls: that is no way to write the others."""
    several = any(len(message.tool_calls) > 1 for message in messages)
    return several and _SECOND not in generic.tokenizer.decode(ids)


_ENOUGH = 24
_SECOND = "the second call"


def _probes(has_tools: bool) -> Iterator[tuple[str, list[Message], list[ToolSpec]]]:
    asked = _said("user", TextPart("Hello there."))
    thought, said = ReasoningPart("They greet.\nI answer."), TextPart("Hi!\n\nWhat is it?")
    answered = _said("assistant", thought, said)
    again = _said("user", TextPart(" And\nthen? "))
    look = ToolCall("call_1", "look", '{"at": "the sky", "n": [1, 2.5], "all": true, "not": null}')
    go = ToolCall("call_2", "go", f'{{"why": "{_SECOND}"}}')
    tools = [_tool("look"), _tool("go")]
    for system in ("", "Be brief."):
        yield system, [asked], []
        yield system, [asked, _said("assistant", TextPart("Hi!")), again], []
        yield system, [asked, answered, again], []
        if not has_tools:
            continue
        yield system, [asked], tools
        for content in ((), (thought,), (said,), (thought, said)):
            first = _tool_round([look], *content)
            yield system, [asked, *first], tools
            yield system, [asked, answered, again, *first, *_tool_round([go])], tools
            yield system, [asked, *first, answered, again], tools
        for parallel in ((look, go), (look, look, go)):
            yield system, [asked, *_tool_round(parallel, thought), *_tool_round([look])], tools
            yield system, [asked, *_tool_round(parallel, said), answered, again], tools


def _tool_round(calls: Sequence[ToolCall], *content: TextPart | ReasoningPart) -> list[Message]:
    returns = tuple(ToolReturn(call.id, call.name, "success", f"{call.name}: ok\n") for call in calls)
    made = Message(id="", role="assistant", created_us=0, content=content, tool_calls=tuple(calls))
    return [made, Message(id="", role="tool", created_us=0, tool_returns=returns)]


def _said(role: Role, *content: TextPart | ReasoningPart) -> Message:
    return Message(id="", role=role, created_us=0, content=content)


def _tool(name: str) -> ToolSpec:
    properties = {
        "at": {"type": "string", "enum": ["é", "<b>"]},
        "n": {"type": "array", "items": {"type": "number"}, "description": "How many.", "default": [1]},
        "deep": {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": ["string", "null"]}}},
    }
    schema = {"type": "object", "properties": properties, "required": ["at"]}
    return ToolSpec(name, f'{name}: a tool\'s "description"', schema)
