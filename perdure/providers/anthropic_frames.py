"""What the Messages API answers, streamed or whole: JSON in, chunks out, at the end a ModelDone.

Invariant: the chunks joined are the ModelDone's parts and calls, and each thinking block stays a part of its own with its own
signature, in the place it came in: the API wants its blocks back exactly so. Events and blocks of kinds unknown here are skipped.
"""

from typing import Any, Literal

import msgspec

from perdure.core.messages import HiddenReasoningPart, Part, ReasoningPart, TextPart, ToolCall
from perdure.core.model import (
    Chunk,
    HiddenReasoningChunk,
    ModelDone,
    ProviderExchange,
    ReasoningChunk,
    TextChunk,
    ToolCallChunk,
)
from perdure.providers.answer_frames import AnswerFrames
from perdure.providers.anthropic_wire import Block, Delta, Frame, WireUsage, decode_frame, merged_usage, usage_of

Finish = Literal["stop", "length", "tool_calls", "content_filter"]

_FINISH: dict[str, Finish] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_ORDINARY = frozenset({"end_turn", "tool_use", "max_tokens", "stop_sequence"})
_NO_ARGUMENTS = ("", "{}", "null")
_CUT_CALL = "it was cut off at the output limit before its arguments"


class _Open:
    """A block under way. `at`: how many parts the answer had when it began. `bare`: a call whose arguments never came."""

    __slots__ = ("arguments", "at", "bare", "call_index", "id", "input", "kind", "name", "pieces", "signature")

    def __init__(self, block: Block, at: int, call_index: int) -> None:
        self.kind = block.type
        self.at = at
        self.bare = False
        self.pieces: list[str] = []
        self.signature = block.signature or None
        self.call_index = call_index
        self.id = block.id or ""
        self.name = block.name or ""
        self.arguments: list[str] = []
        self.input = bytes(block.input).decode()


class MessagesAnswer(AnswerFrames):
    """One answer under way. `ended`: the endpoint said that it is over."""

    form = "message of the Messages API"
    unit = "message"

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self.ended = False
        self._begun = False
        self._blocks: dict[int, _Open] = {}
        self._parts: list[Part] = []
        self._calls: list[_Open] = []
        self._stop: str | None = None
        self._stop_details: Any = None
        self._usage: WireUsage | None = None
        self._model: str | None = None
        self._id: str | None = None

    def finish(self) -> list[Chunk]:
        """What is left when no more frames come: blocks that were never closed."""
        if self.failure is not None:
            raise self.failure
        chunks: list[Chunk] = []
        for index in list(self._blocks):
            self._close(index, chunks)
        return chunks

    def done(self, *, request: bytes = b"", response: bytes | None = None) -> ModelDone:
        """The whole answer, after `finish`."""
        if not self._begun:
            raise self._empty()
        if self._stop is None:
            raise self._cut_off()
        finish = _FINISH.get(self._stop, "tool_calls" if self._calls else "stop")
        kept, unparsed = self._calls, ()
        if finish == "length" and kept and kept[-1].bare:  # never run without arguments it may have been about to get
            kept, unparsed = kept[:-1], ((kept[-1].name, _CUT_CALL),)
        end = len(self._parts)
        calls = tuple(
            ToolCall(call.id, call.name, "".join(call.arguments), at=call.at if call.at < end else None)
            for call in kept
        )
        content = tuple(self._parts)
        return ModelDone(
            finish=finish,
            content=content,
            tool_calls=calls,
            calls_at=calls[0].at if calls else None,
            usage=usage_of(self._usage),
            model=self._model,
            unparsed=unparsed,
            exchange=ProviderExchange(request=request, response=response or self._assembled()),
            request_id=self._id,
            extra=self._extra(),
        )

    def _extra(self) -> dict[str, Any]:
        """What else the answer's end says: a refusal, and stop reasons of a kind of their own."""
        extra: dict[str, Any] = {} if self._stop in _ORDINARY else {"stop_reason": self._stop}
        if self._stop == "refusal":
            extra["refusal"] = True
        if isinstance(self._stop_details, dict):
            extra["stop_details"] = self._stop_details
        return extra

    def _take(self, data: bytes, chunks: list[Chunk]) -> None:
        try:
            frame = decode_frame(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as cause:
            raise self._unreadable(data, cause) from cause
        match frame.type:
            case "content_block_delta":
                block = self._blocks.get(frame.index)
                if block is not None and frame.delta is not None:
                    self._grow(block, frame.delta, chunks)
            case "content_block_start":
                if frame.content_block is not None:
                    self._open(frame.index, frame.content_block, chunks)
            case "content_block_stop":
                self._close(frame.index, chunks)
            case "message_start" if frame.message is not None and not isinstance(frame.message, str):
                self._begun = True
                self._id, self._model = frame.message.id, frame.message.model
                self._usage = frame.message.usage
            case "message_delta":
                if frame.delta is not None and frame.delta.stop_reason:
                    self._stop, self._stop_details = frame.delta.stop_reason, frame.delta.stop_details
                if frame.usage is not None:
                    self._usage = merged_usage(self._usage, frame.usage)
            case "message_stop":
                self.ended = True
            case "message":
                self._take_whole(frame, chunks)
            case _:
                if frame.type == "error" or frame.error or (not frame.type and frame.message):
                    body = msgspec.json.decode(data)
                    raise self._failed(body.get("error") or body, data)

    def _take_whole(self, frame: Frame, chunks: list[Chunk]) -> None:
        self._begun = self.ended = True
        self._id, self._model, self._usage = frame.id, frame.model, frame.usage
        self._stop, self._stop_details = frame.stop_reason or "end_turn", frame.stop_details
        for index, block in enumerate(frame.content or ()):
            self._open(index, block, chunks)
            self._close(index, chunks)

    def _open(self, index: int, block: Block, chunks: list[Chunk]) -> None:
        opened = _Open(block, len(self._parts), len(self._calls))
        if block.type == "tool_use":
            self._calls.append(opened)
            chunks.append(ToolCallChunk(opened.call_index, opened.id, opened.name))
        elif block.type == "redacted_thinking":
            self._parts.append(HiddenReasoningPart(block.data))
            chunks.append(HiddenReasoningChunk(block.data))
            return
        elif block.type not in ("text", "thinking"):
            return
        self._blocks[index] = opened
        if block.text or block.thinking:
            self._grow(opened, Delta(text=block.text, thinking=block.thinking), chunks)

    def _grow(self, block: _Open, delta: Delta, chunks: list[Chunk]) -> None:
        if delta.text and block.kind == "text":
            block.pieces.append(delta.text)
            chunks.append(TextChunk(delta.text))
        elif delta.partial_json and block.kind == "tool_use":
            block.arguments.append(delta.partial_json)
            chunks.append(ToolCallChunk(block.call_index, arguments=delta.partial_json))
        elif block.kind == "thinking":
            if delta.thinking:
                block.pieces.append(delta.thinking)
                chunks.append(ReasoningChunk(delta.thinking))
            if delta.signature:
                block.signature = delta.signature

    def _close(self, index: int, chunks: list[Chunk]) -> None:
        """A block's end: its part is whole now. A signature is given out with it, once; so are arguments that came at once."""
        block = self._blocks.pop(index, None)
        if block is None:
            return
        text = "".join(block.pieces)
        if block.kind == "tool_use":
            if not block.arguments:
                block.bare = block.input in _NO_ARGUMENTS
                arguments = "{}" if block.bare else block.input
                block.arguments.append(arguments)
                chunks.append(ToolCallChunk(block.call_index, arguments=arguments))
        elif block.kind == "text":
            if text:
                self._parts.append(TextPart(text))
        elif text or block.signature:
            self._parts.append(ReasoningPart(text, signature=block.signature))
            if block.signature:
                chunks.append(ReasoningChunk("", signature=block.signature))

    def _assembled(self) -> bytes:
        """A streamed answer as the whole one it stands for, for the step's trace."""
        content: list[dict[str, Any]] = []
        calls = list(self._calls)
        for at, part in enumerate([*self._parts, None]):
            while calls and calls[0].at <= at:
                call = calls.pop(0)
                content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)})
            if part is not None:
                content.append(_block_of(part))
        message = {
            "type": "message",
            "id": self._id,
            "model": self._model,
            "role": "assistant",
            "content": content,
            "stop_reason": self._stop,
            "usage": self._usage,
        }
        return msgspec.json.encode(message)


def _block_of(part: Part) -> dict[str, Any]:
    if isinstance(part, ReasoningPart):
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    if isinstance(part, HiddenReasoningPart):
        return {"type": "redacted_thinking", "data": part.data}
    return {"type": "text", "text": part.text if isinstance(part, TextPart) else ""}


def _input(arguments: list[str]) -> Any:
    """The arguments as the object they are; as their text where they were cut off."""
    text = "".join(arguments)
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text
    return msgspec.Raw(text.encode())
