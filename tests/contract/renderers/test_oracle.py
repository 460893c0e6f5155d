"""The package `renderers` (extra `renderers`) bridges to the same ids, wherever it knows the family and both bridge."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import Tokenizer

from perdure.core.messages import Message, ToolCall, ToolReturn
from perdure.tokens.base import Rendered, Renderer
from perdure.tokens.glm import GlmRenderer
from perdure.tokens.llama3 import Llama3Renderer
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.qwen35 import VARIANTS, Qwen35Renderer
from perdure.tokens.tool_lists import tool_object
from tests.doubles.conversations import TOOLS, message
from tests.doubles.tokenizers import qwen3, real_tokenizer, real_tokenizer_json, small_tokenizer, small_tokenizer_json

theirs = pytest.importorskip("renderers", reason="the extra `renderers` is not installed")

CALLS = (ToolCall("c0", "look", '{"at": "the sky"}'), ToolCall("c1", "go", "{}"))
RETURNED = message(
    "tool", tool_returns=tuple(ToolReturn(one.id, one.name, "success", f"{one.name}\nok") for one in CALLS)
)
ASKED = message("user", "And then?")


class _Encoder:
    """The four verbs `renderers` wants of a tokenizer."""

    def __init__(self, definition: bytes, end: str = "<|im_end|>", name: str = "Qwen/Qwen3-0.6B") -> None:
        self._engine = Tokenizer.from_str(definition.decode())
        self.eos_token_id = self._engine.token_to_id(end)
        self.unk_token_id = None
        self.name_or_path = name

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


def _ids(renderer: Renderer, text: str) -> list[int]:
    ids: list[int] = []
    for piece in renderer.tokenizer.split(text):
        ids += [piece] if isinstance(piece, int) else renderer.tokenizer.encode(piece)
    return ids


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
    definition = (Path(found.source) / "tokenizer.json").read_bytes()
    oracle = theirs.create_renderer(_Encoder(definition), config)
    ours = Qwen3Renderer(found.tokenizer)
    start = ours.render("Be brief.", [message("user", "Hi.")], TOOLS[1:], enable_thinking=thinking).ids
    completion = _ids(ours, answer)
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
    oracle = theirs.create_renderer(
        _Encoder((Path(found.source) / "tokenizer.json").read_bytes()),
        theirs.Qwen3RendererConfig(thinking_retention="tool_cycle"),
    )
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


class _Family(NamedTuple):
    """`answers`: (text, the token it ends with; None: cut off)."""

    ours: Callable[[], Renderer]
    config: Callable[[], Any]
    definition: Callable[[], bytes]
    answers: tuple[tuple[str, str | None], ...]


_QWEN35 = (
    ("Hm.\n</think>\n\nHello.", "<|im_end|>"),
    ("Hm.\n</think>\n\n<tool_call>\n<function=go>\n</function>\n</tool_call>", "<|im_end|>"),
    ("I was", None),
    ("Hm.\n</think>\n\nI was", None),
)
FAMILIES = {
    "qwen3.5": _Family(
        lambda: Qwen35Renderer(real_tokenizer("qwen3")),
        lambda: theirs.Qwen35RendererConfig(thinking_retention="all", enable_thinking=True),
        lambda: real_tokenizer_json("qwen3"),
        _QWEN35,
    ),
    "qwen3.6": _Family(
        lambda: Qwen35Renderer(real_tokenizer("qwen3"), variant=VARIANTS[2]),
        lambda: theirs.Qwen36RendererConfig(thinking_retention="all", enable_thinking=True),
        lambda: real_tokenizer_json("qwen3"),
        _QWEN35,
    ),
    "qwen3.8": _Family(
        lambda: Qwen35Renderer(real_tokenizer("qwen3"), variant=VARIANTS[3]),
        lambda: theirs.Qwen38RendererConfig(thinking_retention="all", enable_thinking=True),
        lambda: real_tokenizer_json("qwen3"),
        _QWEN35,
    ),
    "glm-4.5": _Family(
        lambda: GlmRenderer(small_tokenizer("glm")),
        lambda: theirs.GLM45RendererConfig(thinking_retention="all"),
        lambda: small_tokenizer_json("glm"),
        (
            ("\n<think>Hm.</think>\nHello.", "<|user|>"),
            ("\n<think></think>\n<tool_call>go\n</tool_call>", "<|observation|>"),
            ("\n<think></think>\nHello.", "<|endoftext|>"),
            ("\n<think></think>\nI was", None),
            ("\n<think>I was", None),
        ),
    ),
    "llama-3": _Family(
        lambda: Llama3Renderer(small_tokenizer("llama3")),
        lambda: theirs.Llama3RendererConfig(),  # noqa: PLW0108 - the package may be absent
        lambda: small_tokenizer_json("llama3"),
        (
            ("Hello.", "<|eot_id|>"),
            ('{"name": "go", "parameters": {}}', "<|eom_id|>"),
            ("I was", None),
        ),
    ),
}


@pytest.mark.parametrize(
    "new", [[ASKED], [RETURNED], [RETURNED, ASKED], [ASKED, ASKED]], ids=["user", "tools", "both", "two"]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_bridge_to_equal_ids(name: str, new: list[Message]) -> None:
    family = FAMILIES[name]
    ours = family.ours()
    encoder = _Encoder(family.definition(), ours.tokenizer.decode([ours.stop_token_ids[0]]), name)
    oracle = theirs.create_renderer(encoder, family.config())
    start = ours.render("Be brief.", [message("user", "Hi.")], TOOLS[1:], enable_thinking=None).ids
    tools = [tool_object(one) for one in TOOLS[1:]]
    for text, end in family.answers:
        completion = _ids(ours, text + (end or ""))
        bridged = ours.bridge([*start, *completion], len(start), new, TOOLS[1:])
        expected = oracle.bridge_to_next_turn(start, completion, _shaped(new), tools=tools)
        assert isinstance(bridged, Rendered) and expected is not None, (text, bridged, expected)
        shown = [*start, *completion, *bridged.ids]
        assert shown == list(expected.token_ids), (
            ours.tokenizer.decode(shown),
            ours.tokenizer.decode(list(expected.token_ids)),
        )
