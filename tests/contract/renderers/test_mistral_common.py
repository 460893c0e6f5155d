"""Mistral's own package gives the same prompts, ids of its real vocabulary and all."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.core.messages import Message, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.tokens.mistral import MistralRenderer, short_id
from perdure.tokens.tool_lists import tool_object
from perdure.tokens.utterances import utterances
from tests.doubles.conversations import TOOLS, message
from tests.doubles.tekken import mistral_common, tekken

pytest.importorskip("mistral_common", reason="mistral-common is not installed")

words = st.text(
    st.characters(exclude_categories=("Cs",)).filter(lambda char: char not in "<>[]"), min_size=1, max_size=12
)
arguments = st.dictionaries(words, st.none() | st.booleans() | st.integers() | words, max_size=2)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """As the package wants them: taking turns, ending with a user's words or a tool's answers."""
    messages = [message("user", draw(words))]
    for _ in range(draw(st.integers(0, 3))):
        made = tuple(
            ToolCall(
                f"call{n}AAAA", draw(st.sampled_from(["look", "go"])), json.dumps(draw(arguments), ensure_ascii=False)
            )
            for n in range(draw(st.integers(0, 2)))
        )
        thought = draw(st.none() | words)
        content = (*([ReasoningPart(thought)] if thought else []), TextPart(draw(words)))
        messages.append(message("assistant", content=content, tool_calls=made))
        if made:
            returned = tuple(ToolReturn(call.id, call.name, "success", draw(words)) for call in made)
            messages.append(message("tool", tool_returns=returned))
            if draw(st.booleans()):
                messages.append(message("assistant", draw(words)))
                messages.append(message("user", draw(words)))
        else:
            messages.append(message("user", draw(words)))
    return messages


def _request(system: str, messages: list[Message], with_tools: bool, form: str) -> Any:
    from mistral_common.protocol.instruct import chunk, request, tool_calls
    from mistral_common.protocol.instruct import messages as said

    shaped: list[Any] = [said.SystemMessage(content=system)]
    for turn in utterances(messages):
        if turn.role == "user":
            shaped.append(said.UserMessage(content=turn.text))
        elif turn.role == "tool":
            shaped.append(said.ToolMessage(content=turn.text, tool_call_id=short_id(turn.call_id), name=turn.tool_name))
        else:
            calls = [
                tool_calls.ToolCall(
                    id=short_id(call.id), function=tool_calls.FunctionCall(name=call.name, arguments=call.arguments)
                )
                for call in turn.calls
            ]
            content: Any = turn.text or None
            if turn.reasoning:
                spoken = [chunk.TextChunk(text=turn.text)] if turn.text else []
                content = [chunk.ThinkChunk(thinking=turn.reasoning), *spoken]
            shaped.append(said.AssistantMessage(content=content, tool_calls=calls or None))
    tools = [tool_calls.Tool.model_validate(tool_object(tool)) for tool in TOOLS[1:]] if with_tools else None
    return request.InstructRequest(messages=shaped, available_tools=tools)


@given(system=words, messages=conversations(), with_tools=st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("form", ["v11", "v13"])
def test_whole_prompts_are_equal(form: Any, system: str, messages: list[Message], with_tools: bool) -> None:
    renderer = MistralRenderer(tekken(), form=form)
    if form == "v11":  # neither thinks nor speaks beside a call
        messages = [_plain(one) for one in messages]
    theirs = mistral_common(form).encode_instruct(_request(system, messages, with_tools, form)).tokens
    ours = renderer.render(system, messages, TOOLS[1:] if with_tools else ()).ids
    assert ours == list(theirs), (renderer.tokenizer.decode(ours), renderer.tokenizer.decode(list(theirs)))


def _plain(one: Message) -> Message:
    said = tuple(part for part in one.content if isinstance(part, TextPart) and not one.tool_calls)
    return message(one.role, content=said, tool_calls=one.tool_calls, tool_returns=one.tool_returns)
