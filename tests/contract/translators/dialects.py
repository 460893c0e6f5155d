"""Chat completions in the dialects that answer otherwise than OpenAI does."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from perdure.core.messages import Message, Part, ReasoningPart
from tests.contract.conversations import Hidden, Need, Refusal, Text, Thinking
from tests.contract.translators.openai_chat import OpenAIChatSpeaker

DETAIL = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
COMMON: frozenset[Need] = frozenset({"reasoning", "content_filter", "errors_in_stream"})


class OpenRouterSpeaker(OpenAIChatSpeaker):
    """Thinking in words, and in details that go back as they came."""

    name = "openrouter"
    kind = "openrouter"
    handle = "openrouter/gpt-test"
    can = COMMON | {"signatures", "refusals", "cut_calls"}

    def deltas(self, item: Text | Thinking | Refusal | Hidden) -> Iterator[dict[str, Any]]:
        if not isinstance(item, Thinking):
            yield from super().deltas(item)
            return
        for piece in item.pieces:
            yield {"reasoning": piece, "reasoning_details": [{**DETAIL, "text": piece}]}
        if item.signature is not None:
            yield {"reasoning_details": [{**DETAIL, "signature": item.signature}]}

    def wrapped(self, message: Message) -> Message:
        def detailed(part: Part) -> Part:
            if not isinstance(part, ReasoningPart) or part.signature is None:
                return part
            detail = {**DETAIL, "text": part.text, "signature": part.signature}
            return ReasoningPart(part.text, signature=json.dumps([detail]))

        return msgspec.structs.replace(message, content=tuple(detailed(part) for part in message.content))

    def opened(self, part: Part) -> Part:
        if not isinstance(part, ReasoningPart):
            return part
        (detail,) = json.loads(part.signature or "[{}]")
        return ReasoningPart(part.text, signature=detail.get("signature"))


class MistralSpeaker(OpenAIChatSpeaker):
    """Content as a list of parts, thinking among them; calls in one piece; ids of nine characters; a tool is answered."""

    name = "mistral"
    kind = "mistral"
    handle = "mistral/magistral-test"
    can = COMMON
    whole_calls = True

    def deltas(self, item: Text | Thinking | Refusal | Hidden) -> Iterator[dict[str, Any]]:
        assert isinstance(item, Text | Thinking)
        for piece in item.pieces:
            text = {"type": "text", "text": piece}
            yield {"content": [{"type": "thinking", "thinking": [text]} if isinstance(item, Thinking) else text]}


class MinimaxSpeaker(OpenAIChatSpeaker):
    """Thinking in the text, between tags."""

    name = "minimax"
    kind = "minimax"
    handle = "minimax/m-test"
    can = COMMON | {"cut_calls"}

    def deltas(self, item: Text | Thinking | Refusal | Hidden) -> Iterator[dict[str, Any]]:
        if not isinstance(item, Thinking):
            yield from super().deltas(item)
            return
        yield {"content": "<think>\n"}
        for piece in item.pieces:
            yield {"content": piece}
        yield {"content": "\n</think>\n\n"}


class OllamaSpeaker(OpenAIChatSpeaker):
    """Thinking in a field of its own name; calls in one piece."""

    name = "ollama"
    kind = "ollama"
    handle = "ollama/qwen-test"
    can = COMMON
    whole_calls = True

    def deltas(self, item: Text | Thinking | Refusal | Hidden) -> Iterator[dict[str, Any]]:
        if isinstance(item, Thinking):
            yield from ({"reasoning": piece} for piece in item.pieces)
            return
        yield from super().deltas(item)
