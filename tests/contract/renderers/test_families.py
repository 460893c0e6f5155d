"""Native renderers give the ids of their model's own chat template, as the model's own tokenizer encodes it.

The templates are the models' own. GLM's and Mistral's tokenizers cannot be had in a package: their templates are encoded with a
small tokenizer that has their control tokens; Qwen3.5's with Qwen3's, which has them all.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from perdure.core.errors import Invalid
from perdure.core.messages import Message, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.tokens.base import Renderer
from perdure.tokens.deepseek import DeepSeekRenderer
from perdure.tokens.families import renderer_for
from perdure.tokens.generic import GenericRenderer
from perdure.tokens.glm import GlmRenderer
from perdure.tokens.harmony import HarmonyRenderer
from perdure.tokens.hf import HfTokenizer
from perdure.tokens.llama3 import Llama3Renderer
from perdure.tokens.mistral import MistralRenderer, short_id
from perdure.tokens.qwen35 import Qwen35Renderer
from perdure.tokens.templates import ChatTemplate
from perdure.tokens.tool_lists import tool_object
from perdure.tokens.utterances import utterances
from tests.doubles.conversations import TOOLS, message
from tests.doubles.tokenizers import (
    chat_template,
    real_tokenizer,
    real_tokenizer_json,
    small_tokenizer,
    small_tokenizer_json,
)


class Case(NamedTuple):
    """`real`: the tokenizer's own files, else a small one. `thoughts`: the key the template looks for thinking under."""

    template: str
    kind: type[Renderer]
    tokenizer: str
    real: bool = True
    thoughts: str = "reasoning_content"
    bos: str = ""
    eos: str = ""
    parallel: bool = True
    later_system: bool = False
    lists_tools: bool = True
    one_of_thought_and_text: bool = False


CASES = (
    Case("qwen3_5_think", Qwen35Renderer, "qwen3"),
    Case("qwen3_5_nothink", Qwen35Renderer, "qwen3"),
    Case("Qwen3.5-4B", Qwen35Renderer, "qwen3"),
    Case("qwen3_6", Qwen35Renderer, "qwen3"),
    Case("qwen3_8", Qwen35Renderer, "qwen3"),
    Case("glm4moe", GlmRenderer, "glm", real=False, later_system=True),
    Case("GLM-4.6", GlmRenderer, "glm", real=False, later_system=True),
    Case("GLM-4.7-Flash", GlmRenderer, "glm", real=False, later_system=True),
    *(
        Case(name, Llama3Renderer, "llama3", bos="<|begin_of_text|>", parallel=False, later_system=True)
        for name in (
            "meta-llama-Llama-3.1-8B-Instruct",
            "meta-llama-Llama-3.2-3B-Instruct",
            "meta-llama-Llama-3.3-70B-Instruct",
        )
    ),
    Case(
        "deepseek-ai-DeepSeek-V3.1",
        DeepSeekRenderer,
        "deepseek",
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        lists_tools=False,
    ),
    Case("Mistral-Small-3.2-24B-Instruct-2506", MistralRenderer, "mistral", real=False, bos="<s>", eos="</s>"),
    Case(
        "mistralai-Ministral-3-14B-Reasoning-2512",
        MistralRenderer,
        "mistral",
        real=False,
        thoughts="blocks",
        bos="<s>",
        eos="</s>",
    ),
    *(
        Case(name, HarmonyRenderer, "gptoss", thoughts="thinking", parallel=False, one_of_thought_and_text=True)
        for name in ("gptoss", "openai-gpt-oss-120b")
    ),
)


@cache
def native_of(case: Case) -> Renderer:
    """As a model with this template and tokenizer gets it."""
    template = chat_template(case.template)
    tokenizer: HfTokenizer = (real_tokenizer if case.real else small_tokenizer)(case.tokenizer)
    special = {"bos_token": case.bos, "eos_token": case.eos}
    return renderer_for("any name", tokenizer, template, special={key: text for key, text in special.items() if text})


@cache
def own_tokenizer(case: Case) -> Tokenizer:
    definition = real_tokenizer_json(case.tokenizer) if case.real else small_tokenizer_json(case.tokenizer)
    return Tokenizer.from_str(definition.decode())


# what nobody types by accident stays out: there our ids differ on purpose
words = st.text(st.characters(exclude_categories=("Cs",)).filter(lambda char: char not in "<>|[]"), max_size=12)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
arguments = st.dictionaries(words, values | st.lists(values, max_size=2) | st.dictionaries(words, values, max_size=1))


def _call(made: tuple[str, dict[str, Any]]) -> ToolCall:
    return ToolCall("call", made[0], json.dumps(made[1], ensure_ascii=False))


@st.composite
def conversations(draw: st.DrawFn, case: Case) -> list[Message]:
    messages = [message("user", draw(words))]
    calls = st.tuples(st.sampled_from(["look", "go"]), arguments).map(_call)
    for _ in range(draw(st.integers(0, 4))):
        made = tuple(draw(st.lists(calls, max_size=3 if case.parallel else 1)))
        thought, said = draw(st.none() | words), draw(words)
        if made and thought and case.one_of_thought_and_text:
            said = ""
        content = (*([ReasoningPart(thought)] if thought else []), *([TextPart(said)] if said else []))
        messages.append(message("assistant", content=content, tool_calls=made))
        if made:
            returned = tuple(ToolReturn(call.id, call.name, "success", draw(words)) for call in made)
            messages.append(message("tool", tool_returns=returned))
        if not made or draw(st.integers(0, 3)) == 0:
            later = ("user", "system") if case.later_system else ("user",)
            messages.append(message(draw(st.sampled_from(later)), draw(words)))
    return messages


def shaped(case: Case, system: str, messages: list[Message]) -> list[dict[str, Any]]:
    """The conversation as the template is given it."""
    given_out: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for turn in utterances(messages):
        one: dict[str, Any] = {"role": turn.role, "content": turn.text}
        if turn.reasoning and case.thoughts == "blocks":
            said = [{"type": "text", "text": turn.text}] if turn.text else []
            one["content"] = [{"type": "thinking", "thinking": turn.reasoning}, *said]
        elif turn.reasoning:
            one[case.thoughts] = turn.reasoning
        if turn.calls:
            one["tool_calls"] = [
                {"id": short_id(call.id), "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
                for call in turn.calls
            ]
        if turn.role == "tool":
            one["tool_call_id"] = short_id(turn.call_id)
        given_out.append(one)
    return given_out


@pytest.mark.parametrize("case", CASES, ids=[case.template for case in CASES])
def test_the_family_is_recognised(case: Case) -> None:
    assert type(native_of(case)) is case.kind


@pytest.mark.parametrize("case", CASES, ids=[case.template for case in CASES])
@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_whole_prompts_equal_the_models_own_template(case: Case, data: st.DataObject) -> None:
    native = native_of(case)
    draw: Callable[[Any], Any] = data.draw
    system, messages = draw(words), draw(conversations(case))
    tools = TOOLS[1:] if case.lists_tools and draw(st.booleans()) else ()
    thinking = draw(st.sampled_from([None, True, False]))
    template = ChatTemplate(chat_template(case.template), "m", {"bos_token": case.bos, "eos_token": case.eos})
    try:
        listed = [tool_object(tool) for tool in tools]
        text = template.render(shaped(case, system, messages), listed, generation=True, enable_thinking=thinking)
    except Invalid:
        reject()
    rendered = native.render(system, messages, tools, enable_thinking=thinking, retention="tool_cycle")
    expected = own_tokenizer(case).encode(text, add_special_tokens=False).ids
    assert rendered.ids == expected, (native.tokenizer.decode(rendered.ids), text)
    assert sum(span.length for span in rendered.spans) == len(rendered.ids)


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("Qwen3-Coder", "qwen_xml"),
        ("Qwen-Qwen2.5-7B-Instruct", "hermes_json"),
        ("deepseekv3", "deepseek"),
        ("mistralai-Mistral-Nemo-Instruct-2407", "mistral"),
        ("unsloth-mistral-Devstral-Small-2507", "mistral"),
    ],
)
def test_a_template_without_a_renderer_of_its_own_still_tells_its_form_of_calls(name: str, calls: str) -> None:
    family = {"deepseekv3": "deepseek"}.get(name, "mistral" if calls == "mistral" else "qwen")
    special = {"bos_token": "<s>", "eos_token": "</s>"} if family == "mistral" else {}
    generic = GenericRenderer(small_tokenizer(family), chat_template(name), model_name=name, special=special)
    assert (generic.shape.calls, generic.dialect.tool_format) == (calls, calls)
