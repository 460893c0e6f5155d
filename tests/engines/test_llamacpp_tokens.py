"""The embedded engine itself: our tokenizer gives its ids, and our grammars make it call tools as we read them."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.core.agents import ModelSettings
from perdure.core.model import ToolSpec
from perdure.providers.base import TokenStream
from perdure.providers.http import Http
from perdure.providers.local import LocalEngine, local_model
from perdure.providers.token_exact import extend
from perdure.tokens.families import renderer_for
from tests.doubles.conversations import HOSTILE, answer, call, message, model_of, prompt, returns
from tests.doubles.tokenizers import smollm2
from tests.engines.forms import answers_have_their_form

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")

TEXTS = [
    "Hello, world!",
    "  leading and   inner   blanks \n\n\n next\t\ttab ",
    "It's what they've said: 1234567 and 3.14, isn't it?",
    "Ünïcödé, 漢字かな, Ελληνικά, עברית, 🙂👩‍👩‍👧‍👦 e\u0301",
    'def f(x):\n    return {"a": [1, 2, {"b": None}]}  # code\r\n',
    "x" * 300,
    "\u00a0\u2003non-breaking\u200b",
    "ͺ ² ½ Ⅷ ①",
    *HOSTILE,
    "".join(HOSTILE) + "<repo_name><file_sep>",
]
WEATHER = ToolSpec(
    "get_weather",
    "Tells the weather of a place.",
    {
        "type": "object",
        "properties": {
            "place": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"enum": ["C", "F"]},
            "at": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
            "tags": {"type": "array", "items": {"type": ["boolean", "null"]}},
        },
        "required": ["place", "unit", "at"],
    },
)
PING = ToolSpec("ping", "Answers.", {"type": "object", "properties": {}})


@pytest.fixture
async def engine() -> AsyncIterator[LocalEngine]:
    http = Http()
    made = LocalEngine(http, local_model())
    yield made
    await made.close()
    await http.close()


async def _post(engine: LocalEngine, path: str, body: dict[str, Any]) -> dict[str, Any]:
    await engine.warm()
    assert engine._engine is not None
    endpoint = engine._engine._endpoint
    return json.loads(await engine._http.call(endpoint, path, json.dumps(body).encode()))


async def test_our_ids_are_the_engines_ids(engine: LocalEngine) -> None:
    tokenizer = smollm2().tokenizer
    for text in TEXTS:
        theirs = await _post(engine, "/tokenize", {"content": text, "add_special": False, "parse_special": False})
        assert tokenizer.encode(text) == theirs["tokens"], text
    ours: list[int] = []
    prompt_text = "<|im_start|>user\nHi\n\nthere<|im_end|>\n<|im_start|>assistant\n"
    for piece in tokenizer.split(prompt_text):
        ours += [piece] if isinstance(piece, int) else tokenizer.encode(piece)
    theirs = await _post(engine, "/tokenize", {"content": prompt_text, "add_special": False, "parse_special": True})
    assert ours == theirs["tokens"]
    back = await _post(engine, "/detokenize", {"tokens": ours})
    assert tokenizer.decode(ours) == back["content"]


async def test_a_forced_call_can_always_be_read(engine: LocalEngine) -> None:
    found = smollm2()
    renderer = renderer_for("smollm2", found.tokenizer, found.chat_template)
    asked = prompt(
        [message("user", "How is the weather in Paris?")],
        tools=[WEATHER, PING],
        tool_choice="get_weather",
        parallel_tool_calls=False,
        settings=ModelSettings(temperature=0.8, max_output_tokens=100),
    )
    done, _ = await call(model_of(engine, renderer), asked)
    if done.finish == "length":
        assert done.unparsed
        return
    assert done.finish == "tool_calls" and not done.unparsed
    [made] = done.tool_calls
    arguments = json.loads(made.arguments)
    assert made.name == "get_weather"
    assert isinstance(arguments["place"], str) and arguments["unit"] in ("C", "F")
    assert isinstance(arguments["at"]["lat"], int | float)
    assert set(arguments) <= {"place", "days", "unit", "at", "tags"}


async def test_a_conversation_is_extended_and_its_cache_used(engine: LocalEngine) -> None:
    found = smollm2()
    renderer = renderer_for("smollm2", found.tokenizer, found.chat_template)
    model = model_of(engine, renderer)
    settings = ModelSettings(temperature=0.0, max_output_tokens=12)
    tokens, messages = TokenStream(), [message("user", "Say: the capital of France is Paris.")]
    for turn in range(3):
        asked = prompt(messages, settings=settings, tools=[PING])
        seen = list(tokens.ids)
        done, _ = await call(model, asked, tokens)
        assert done.capture is not None
        assert (done.capture.segment is None) == (turn > 0)
        extend(tokens, done.capture)
        assert list(tokens.ids[: len(seen)]) == seen
        after = [returns(done)] if done.tool_calls else [message("user", "Again <|im_end|>.")]
        messages = [*messages, answer(asked, done), *after]


@pytest.mark.parametrize("tools", [[], [PING]])
async def test_an_answer_has_the_wanted_form_or_calls_a_tool(engine: LocalEngine, tools: list[ToolSpec]) -> None:
    found = smollm2()
    renderer = renderer_for("smollm2", found.tokenizer, found.chat_template)
    await answers_have_their_form(model_of(engine, renderer), tools, tries=2)
