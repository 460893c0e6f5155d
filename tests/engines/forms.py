"""Answers under a wanted form from a real engine with a random model: whatever it samples, it has the form."""

import re
from itertools import product
from typing import Any

from perdure.core.agents import ModelSettings
from perdure.core.messages import TextPart
from perdure.core.model import ModelDone, ToolSpec
from perdure.loop.structured import problem
from perdure.providers.base import Model
from tests.doubles.conversations import call, message, prompt

SCHEMA = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "weather": {"enum": ["sun", "rain"]}},
    "required": ["sure", "weather"],
    "additionalProperties": False,
}
FORM: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "forecast", "schema": SCHEMA}}
FITTING = [f'{{"sure":{sure},"weather":"{kind}"}}' for sure, kind in product(("true", "false"), ("sun", "rain"))]
PING = ToolSpec("ping", "Answers.", {"type": "object", "properties": {}})
OTHER = ToolSpec("other", "Does something else.", {"type": "object", "properties": {}})
SPELT_CALLS = re.compile(r'(<tool_call>\n\{"name": "ping", "arguments": \{\s*\}\}\n</tool_call>\n?)+')


async def answers_have_their_form(model: Model, tools: list[ToolSpec], *, tries: int = 4) -> None:
    """A random model may write blanks until its tokens are used up: then what it wrote is the beginning of a fitting answer."""
    for seed in range(tries):
        settings = ModelSettings(
            temperature=1.0, seed=seed, max_output_tokens=120, enable_thinking=False, response_format=FORM
        )
        asked = prompt([message("user", f"How is the weather? {seed}")], tools=tools, settings=settings)
        done, _ = await call(model, asked)
        _check(done, tools)


# what every model that was taught calls prefers to their letters: the tokens <tool_call> and </tool_call> of Qwen3
TAUGHT = {"151657": 100.0, "151658": 100.0}


async def calls_are_forced(model: Model, *, tries: int = 4) -> None:
    """`model` has the bias `TAUGHT`, and knows nothing else of calls."""
    for seed in range(tries):
        settings = ModelSettings(temperature=1.0, seed=seed, max_output_tokens=120, enable_thinking=False)
        asked = [message("user", f"Ping? {seed}")]
        done, _ = await call(
            model,
            prompt(asked, tools=[PING, OTHER], tool_choice="ping", parallel_tool_calls=False, settings=settings),
        )
        assert [made.name for made in done.tool_calls] == ["ping"], done
        assert not done.content and not done.unparsed


def _check(done: ModelDone, tools: list[ToolSpec]) -> None:
    text = "".join(part.text for part in done.content if isinstance(part, TextPart))
    if done.tool_calls:
        assert tools and {made.name for made in done.tool_calls} == {"ping"}
    elif done.finish != "length" and not text.startswith("<tool_call>"):
        assert problem(FORM, text) is None, text
    elif done.finish != "length":  # a random model does not know that `<tool_call>` is one token
        assert tools and SPELT_CALLS.fullmatch(text), text
    elif not tools:
        assert any(whole.startswith(re.sub(r"\s", "", text)) for whole in FITTING), text
