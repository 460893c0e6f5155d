"""Which renderer a model gets.

Invariant: a native renderer is only chosen after it gave the same ids as the model's own chat template on probe conversations;
names decide nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from perdure.core.errors import Invalid
from perdure.core.messages import Message, ReasoningPart, Role, TextPart, ToolCall, ToolReturn
from perdure.core.model import ToolSpec
from perdure.tokens.base import Renderer, Tokenizer, TokenizerNotFound
from perdure.tokens.chatml import ChatMlRenderer
from perdure.tokens.generic import GenericRenderer
from perdure.tokens.qwen3 import Qwen3Renderer


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
    for native in _candidates(tokenizer, chat_template, generic):
        if _agree(native, generic, has_tools="tools" in chat_template):
            return native
    return generic


def _candidates(tokenizer: Tokenizer, template: str, generic: GenericRenderer) -> Iterator[Renderer]:
    if tokenizer.special_id("<|im_start|>") is None or tokenizer.special_id("<|im_end|>") is None:
        return
    if "reasoning_content" in template and "enable_thinking" in template:
        yield Qwen3Renderer(tokenizer, template=template)
    yield ChatMlRenderer(tokenizer, default_system=_default_system(generic), template=template)


def _default_system(generic: GenericRenderer) -> str:
    """The system prompt the template puts in where a conversation has none."""
    text = generic.render_text([{"role": "user", "content": "hello"}], [], generation=False)
    found = re.match(r"<\|im_start\|>system\n(.*?)<\|im_end\|>\n<\|im_start\|>user\n", text, re.DOTALL)
    return found[1] if found else ""


def _agree(native: Renderer, generic: Renderer, *, has_tools: bool) -> bool:
    try:
        for system, messages, tools in _probes(has_tools):
            for thinking in (None, True, False):
                expected = generic.render(system, messages, tools, enable_thinking=thinking)
                if (
                    native.render(system, messages, tools, enable_thinking=thinking, retention="tool_cycle").ids
                    != expected.ids
                ):
                    return False
    except Invalid:
        return False
    return True


def _probes(has_tools: bool) -> Iterator[tuple[str, list[Message], list[ToolSpec]]]:
    asked = _said("user", TextPart("Hello there."))
    answered = _said("assistant", ReasoningPart("They greet.\nI answer."), TextPart("Hi!\n\nWhat is it?"))
    again = _said("user", TextPart(" And\nthen? "))
    for system in ("", "Be brief."):
        yield system, [asked], []
        yield system, [asked, _said("assistant", TextPart("Hi!")), again], []
        yield system, [asked, answered, again], []
        if has_tools:
            tools = [_tool("look"), _tool("go")]
            yield system, [asked], tools
            yield system, _tool_round(asked, answered), tools
            yield system, [*_tool_round(asked, answered), answered, again], tools


def _tool_round(*before: Message) -> list[Message]:
    calls = (ToolCall("call_1", "look", '{"at": "the sky", "n": [1, 2.5]}'), ToolCall("call_2", "go", "{}"))
    first = Message(
        id="",
        role="assistant",
        created_us=0,
        content=(ReasoningPart("I look."), TextPart("Let me see.")),
        tool_calls=calls,
    )
    then = Message(id="", role="assistant", created_us=0, tool_calls=calls[:1])
    returns = tuple(ToolReturn(call.id, call.name, "success", f"{call.name}: ok\n") for call in calls)
    told = Message(id="", role="tool", created_us=0, tool_returns=returns)
    return [
        *before,
        _said("user", TextPart("Look.")),
        first,
        told,
        then,
        Message(id="", role="tool", created_us=0, tool_returns=returns[:1]),
    ]


def _said(role: Role, *content: TextPart | ReasoningPart) -> Message:
    return Message(id="", role=role, created_us=0, content=content)


def _tool(name: str) -> ToolSpec:
    schema = {"type": "object", "properties": {"at": {"type": "string", "enum": ["é", "<b>"]}}, "required": ["at"]}
    return ToolSpec(name, f'{name}: a tool\'s "description"', schema)
