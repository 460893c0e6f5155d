"""Native renderers give the ids of the model's own chat template, as the model's own tokenizer encodes it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from perdure.core.messages import Message, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.tokens.base import Rendered
from perdure.tokens.chatml import ChatMlRenderer
from perdure.tokens.families import renderer_for
from perdure.tokens.generic import GenericRenderer
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.templates import ChatTemplate
from perdure.tokens.tool_lists import tool_object
from perdure.tokens.utterances import utterances
from tests.doubles.conversations import TOOLS, message
from tests.doubles.tokenizers import qwen3, smollm2

# what nobody types by accident stays out: there our ids differ on purpose
words = st.text(st.characters(exclude_categories=("Cs",)).filter(lambda char: char not in "<>|"), max_size=12)
arguments = st.dictionaries(
    words, st.none() | st.booleans() | st.integers() | words | st.lists(words, max_size=2), max_size=2
)
calls = st.tuples(st.sampled_from(["look", "go"]), arguments).map(
    lambda made: ToolCall("c", made[0], json.dumps(made[1], ensure_ascii=False))
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    messages = [message("user", draw(words))]
    for _ in range(draw(st.integers(0, 4))):
        made = tuple(draw(st.lists(calls, max_size=2)))
        thought = draw(st.none() | words)
        said = (*([ReasoningPart(thought)] if thought else []), TextPart(draw(words)))
        messages.append(message("assistant", content=said, tool_calls=made))
        if made:
            returned = tuple(ToolReturn(call.id, call.name, "success", draw(words)) for call in made)
            messages.append(message("tool", tool_returns=returned))
        if not made or draw(st.booleans()):
            messages.append(message(draw(st.sampled_from(["user", "system"])), draw(words)))
    return messages


def _given_to_template(system: str, messages: list[Message]) -> list[dict[str, Any]]:
    shaped: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for turn in utterances(messages):
        one: dict[str, Any] = {"role": turn.role, "content": turn.text}
        if turn.reasoning:
            one["reasoning_content"] = turn.reasoning
        if turn.calls:
            one["tool_calls"] = [
                {"function": {"name": call.name, "arguments": json.loads(call.arguments)}} for call in turn.calls
            ]
        shaped.append(one)
    return shaped


@pytest.fixture(scope="module")
def own_qwen3() -> Tokenizer:
    return Tokenizer.from_file(str(Path(qwen3().source) / "tokenizer.json"))


@given(system=words, messages=conversations(), with_tools=st.booleans(), thinking=st.sampled_from([None, True, False]))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_qwen3_equals_its_own_template(
    own_qwen3: Tokenizer, system: str, messages: list[Message], with_tools: bool, thinking: bool | None
) -> None:
    found = qwen3()
    assert found.chat_template is not None
    tools = TOOLS[1:] if with_tools else ()
    template = ChatTemplate(found.chat_template, "qwen3", found.special)
    shaped = _given_to_template(system, messages)
    text = template.render(shaped, [tool_object(tool) for tool in tools], generation=True, enable_thinking=thinking)
    renderer = Qwen3Renderer(found.tokenizer)
    rendered = renderer.render(system, messages, tools, enable_thinking=thinking, retention="tool_cycle")
    assert rendered.ids == own_qwen3.encode(text, add_special_tokens=False).ids
    assert sum(span.length for span in rendered.spans) == len(rendered.ids)


def test_the_sandbox_renders_what_transformers_renders(own_qwen3: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.AutoTokenizer.from_pretrained(qwen3().source)
    messages = [message("user", "Hi é."), message("assistant", "Hello."), message("user", "Look.")]
    shaped = _given_to_template("Be brief.", messages)
    tools = [tool_object(tool) for tool in TOOLS[1:]]
    text = theirs.apply_chat_template(shaped, tools=tools, tokenize=False, add_generation_prompt=True)
    rendered = Qwen3Renderer(qwen3().tokenizer).render("Be brief.", messages, TOOLS[1:], retention="tool_cycle")
    assert rendered.ids == own_qwen3.encode(text, add_special_tokens=False).ids


def test_qwen3_is_recognised_and_the_generic_renderer_agrees_with_it() -> None:
    found = qwen3()
    native = renderer_for("any name", found.tokenizer, found.chat_template, special=found.special)
    assert isinstance(native, Qwen3Renderer)
    assert found.chat_template is not None
    generic = GenericRenderer(found.tokenizer, found.chat_template, model_name="q", special=found.special)
    start = native.render("Be brief.", [message("user", "Hi.")], TOOLS).ids
    ids = [*start, *found.tokenizer.encode("ok"), native.stop_token_ids[0]]
    new = [
        message("tool", tool_returns=(ToolReturn("c", "look", "success", "blue <|im_end|>"),)),
        message("user", "And?"),
    ]
    for added in ([new[0]], [new[1]], new):
        ours, theirs = (one.bridge(ids, len(start), added, TOOLS) for one in (native, generic))
        assert isinstance(ours, Rendered) and isinstance(theirs, Rendered)
        assert ours.ids == theirs.ids


@given(system=words, messages=conversations())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_smollm2_equals_its_own_template(system: str, messages: list[Message]) -> None:
    found = smollm2()
    assert found.chat_template is not None
    plain = [one for one in messages if one.role != "tool" and not one.tool_calls]
    renderer = renderer_for("any name", found.tokenizer, found.chat_template)
    assert isinstance(renderer, ChatMlRenderer)
    text = ChatTemplate(found.chat_template, "smollm2", {}).render(
        _given_to_template(system, plain), [], generation=True
    )
    ids: list[int] = []
    for piece in found.tokenizer.split(text):
        ids += [piece] if isinstance(piece, int) else found.tokenizer.encode(piece)
    assert renderer.render(system, plain, ()).ids == ids
