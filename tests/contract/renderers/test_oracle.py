"""The package `renderers` (extra `renderers`) bridges Qwen3 to the same ids, wherever both bridge."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from perdure.core.messages import Message, ToolCall, ToolReturn
from perdure.tokens.base import Rendered
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.tool_lists import tool_object
from tests.doubles.conversations import TOOLS, message
from tests.doubles.tokenizers import qwen3

theirs = pytest.importorskip("renderers", reason="the extra `renderers` is not installed")

CALLS = (ToolCall("c0", "look", '{"at": "the sky"}'), ToolCall("c1", "go", "{}"))
RETURNED = message(
    "tool", tool_returns=tuple(ToolReturn(one.id, one.name, "success", f"{one.name}\nok") for one in CALLS)
)
ASKED = message("user", "And then?")


class _Encoder:
    """The four verbs `renderers` wants of a tokenizer."""

    def __init__(self, folder: str) -> None:
        self._engine = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.eos_token_id = self._engine.token_to_id("<|im_end|>")
        self.unk_token_id = None
        self.name_or_path = "Qwen/Qwen3-0.6B"

    def encode(self, text: str, **_: Any) -> list[int]:
        return self._engine.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int], **_: Any) -> str:
        return self._engine.decode(ids, skip_special_tokens=False)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return (
            [self._engine.token_to_id(one) for one in tokens]
            if isinstance(tokens, list)
            else self._engine.token_to_id(tokens)
        )


def _shaped(messages: list[Message]) -> list[dict[str, Any]]:
    shaped: list[dict[str, Any]] = []
    for one in messages:
        for returned in one.tool_returns:
            shaped.append(
                {
                    "role": "tool",
                    "tool_call_id": returned.tool_call_id,
                    "name": returned.name,
                    "content": returned.content,
                }
            )
        if not one.tool_returns:
            shaped.append({"role": one.role, "content": one.text})
    return shaped


@pytest.mark.parametrize(
    ("answer", "closed"),
    [
        ("Hello.", True),
        ("<think>\nHm.\n</think>\n\nHello.", True),
        ('<tool_call>\n{"name":"look","arguments":{"at":"the sky"}}\n</tool_call>', True),
        ("I was ab", False),
        ("<think>\nI was", False),
    ],
)
@pytest.mark.parametrize(
    "new", [[ASKED], [RETURNED], [RETURNED, ASKED], [ASKED, ASKED]], ids=["user", "tools", "both", "two"]
)
@pytest.mark.parametrize("thinking", [True, False])
def test_bridges_are_equal(answer: str, closed: bool, new: list[Message], thinking: bool) -> None:
    found = qwen3()
    config = theirs.Qwen3RendererConfig(thinking_retention="all", enable_thinking=thinking)
    oracle = theirs.create_renderer(_Encoder(found.source), config)
    ours = Qwen3Renderer(found.tokenizer)
    start = ours.render("Be brief.", [message("user", "Hi.")], TOOLS[1:], enable_thinking=thinking).ids
    completion: list[int] = []
    for piece in found.tokenizer.split(answer):
        completion += [piece] if isinstance(piece, int) else found.tokenizer.encode(piece)
    if closed:
        completion.append(ours.stop_token_ids[0])
    tools = [tool_object(one) for one in TOOLS[1:]]
    expected = oracle.bridge_to_next_turn(start, completion, _shaped(new), tools=tools)
    bridged = ours.bridge([*start, *completion], len(start), new, TOOLS[1:], enable_thinking=thinking)
    assert isinstance(bridged, Rendered)
    assert expected is not None
    assert [*start, *completion, *bridged.ids] == list(expected.token_ids)


def test_whole_prompts_are_equal() -> None:
    found = qwen3()
    oracle = theirs.create_renderer(_Encoder(found.source), theirs.Qwen3RendererConfig(thinking_retention="tool_cycle"))
    tools = [tool_object(one) for one in TOOLS[1:]]
    called = message("assistant", "I look.", tool_calls=CALLS)
    shaped = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look."},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {
                    "type": "function",
                    "id": one.id,
                    "function": {"name": one.name, "arguments": json.loads(one.arguments)},
                }
                for one in CALLS
            ],
        },
        *_shaped([RETURNED]),
    ]
    rendered = Qwen3Renderer(found.tokenizer).render(
        "Be brief.", [message("user", "Look."), called, RETURNED], TOOLS[1:], retention="tool_cycle"
    )
    assert rendered.ids == list(oracle.render_ids(shaped, tools=tools, add_generation_prompt=True))
