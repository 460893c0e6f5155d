"""The Responses API, as OpenAI writes it: one output item for each thing said."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from perdure.core.messages import HiddenReasoningPart, Message, Part, ReasoningPart, TextPart
from perdure.core.model import Chunk, ModelDone
from perdure.parsing.sse import SseParser
from perdure.providers.base import Model
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_responses import OpenAIResponses
from perdure.providers.responses_frames import ResponsesAnswer
from perdure.providers.responses_wire import Kept, kept_in, signature_of
from tests.contract.conversations import Call, Hidden, Item, Need, Refusal, Said, Text, Thinking
from tests.doubles.openai_responses import item_events

RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5-test"}


class _Translator:
    def __init__(self) -> None:
        self._parser = SseParser()
        self._answer = ResponsesAnswer("openai")

    def feed(self, data: bytes) -> list[Chunk]:
        return self._answer.feed(self._parser.feed(data))

    def finish(self) -> tuple[list[Chunk], ModelDone]:
        last = self._answer.feed(self._parser.finish())
        return last, self._answer.done()


class OpenAIResponsesSpeaker:
    name = "openai_responses"
    handle = "openai/gpt-5-test"
    can: frozenset[Need] = frozenset(
        {
            "reasoning",
            "signatures",
            "hidden_reasoning",
            "refusals",
            "mixed_order",
            "content_filter",
            "errors_in_stream",
            "cut_calls",
        }
    )
    keeps_call_ids = True
    usage_fields = frozenset({"cached_input_tokens", "cache_write_tokens", "reasoning_tokens"})
    stream_type = "text/event-stream"

    def model(self, http: Http, url: str, *, stream: bool) -> Model:
        return OpenAIResponses(http, Endpoint("openai", f"{url}/v1"), "gpt-5-test", stream=stream)

    def translator(self) -> _Translator:
        return _Translator()

    def streamed(self, said: Said) -> bytes:
        lines = [
            f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number}, ensure_ascii=False)}\n\n"
            for number, event in enumerate(self._events(said))
        ]
        return "".join(lines).encode()

    def _events(self, said: Said) -> Iterator[dict[str, Any]]:
        yield {"type": "response.created", "response": {**RESPONSE, "status": "in_progress", "output": []}}
        items = list(_items(said))
        for index, (item, pieces) in enumerate(items):
            yield from _in_pieces(item, index, pieces)
        if said.failure is not None:
            yield {"type": "error", **_error(said)}
        elif not said.cut:
            response = _response(said, [item for item, _ in items])
            yield {"type": f"response.{response['status']}", "response": response}

    def whole(self, said: Said) -> tuple[int, bytes]:
        if said.failure is not None:
            return said.failure.status, json.dumps(_error(said)).encode()
        response = _response(said, [item for item, _ in _items(said)])
        return 200, json.dumps(response, ensure_ascii=False).encode()

    def shown(self, body: Any) -> Any:
        return body

    def wrapped(self, message: Message) -> Message:
        """A message of the table as an answer of this API is stored: every part knows its item."""
        content: list[Part] = []
        for at, part in enumerate(message.content):
            if isinstance(part, ReasoningPart) and part.signature:
                kept = Kept(id=f"rs_{at}", encrypted=part.signature, cut=[("s", len(part.text))])
                content.append(ReasoningPart(part.text, signature=signature_of(kept)))
            elif isinstance(part, HiddenReasoningPart):
                content.append(HiddenReasoningPart(signature_of(Kept(id=f"rs_{at}", encrypted=part.data))))
            elif isinstance(part, TextPart):
                content.append(TextPart(part.text, signature_of(Kept(id=f"msg_{at}"))))
            else:
                content.append(part)
        calls = tuple(
            msgspec.structs.replace(call, signature=signature_of(Kept(id=f"fc_{at}")))
            for at, call in enumerate(message.tool_calls, len(content))
        )
        return msgspec.structs.replace(message, content=tuple(content), tool_calls=calls)

    def opened(self, part: Part) -> Part:
        """A part of an answer as the table has it."""
        if isinstance(part, ReasoningPart):
            kept = kept_in(part.signature)
            return ReasoningPart(part.text, signature=kept.encrypted if kept is not None else None)
        if isinstance(part, HiddenReasoningPart):
            kept = kept_in(part.data)
            return HiddenReasoningPart(kept.encrypted if kept is not None else None)
        return TextPart(part.text) if isinstance(part, TextPart) else part


def _items(said: Said) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Each thing said as an output item, and the pieces its text is streamed in."""
    things: tuple[Item, ...] = said.items
    if not things and said.failure is None and not said.cut:
        things = (Text(("",)),)
    for number, thing in enumerate(things):
        match thing:
            case Call():
                head = {"type": "function_call", "id": f"fc_{number}", "call_id": thing.id, "status": "completed"}
                yield {**head, "name": thing.name, "arguments": "".join(thing.pieces)}, thing.pieces
            case Thinking():
                summary = [{"type": "summary_text", "text": "".join(thing.pieces)}]
                item = {"type": "reasoning", "id": f"rs_{number}", "summary": summary}
                yield {**item, "encrypted_content": thing.signature}, thing.pieces
            case Hidden():
                yield {"type": "reasoning", "id": f"rs_{number}", "summary": [], "encrypted_content": thing.data}, ()
            case Refusal():
                yield _message(number, {"type": "refusal", "refusal": "".join(thing.pieces)}), thing.pieces
            case Text():
                part = {"type": "output_text", "text": "".join(thing.pieces), "annotations": []}
                yield _message(number, part), thing.pieces


def _message(number: int, part: dict[str, Any]) -> dict[str, Any]:
    head = {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed"}
    return {**head, "content": [part]}


def _in_pieces(item: dict[str, Any], index: int, pieces: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The item's events, its deltas cut as the table says."""
    told = False
    for event in item_events(item, index, 1):
        if not event["type"].endswith(".delta"):
            yield event
        elif not told:
            told = True
            yield from ({**event, "delta": piece} for piece in pieces)


def _response(said: Said, items: list[dict[str, Any]]) -> dict[str, Any]:
    given = said.usage
    usage: dict[str, Any] = {
        "input_tokens": given.prompt_tokens,
        "output_tokens": given.completion_tokens,
        "total_tokens": given.total_tokens,
    }
    if given.cached_input_tokens is not None:
        usage["input_tokens_details"] = {
            "cached_tokens": given.cached_input_tokens,
            "cache_write_tokens": given.cache_write_tokens,
        }
    if given.reasoning_tokens is not None:
        usage["output_tokens_details"] = {"reasoning_tokens": given.reasoning_tokens}
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(said.finish)
    status = "incomplete" if reason else "completed"
    details = {"reason": reason} if reason else None
    return {**RESPONSE, "status": status, "incomplete_details": details, "output": items, "usage": usage}


def _error(said: Said) -> dict[str, Any]:
    assert said.failure is not None
    return {"error": {"message": said.failure.message, "code": said.failure.status, "type": "overloaded_error"}}
