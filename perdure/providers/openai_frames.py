"""What a chat-completions endpoint answers, streamed or whole: JSON in, chunks out, at the end a ModelDone.

Invariant: the chunks joined are the ModelDone's parts and calls, whatever the frames looked like; streamed and whole answers
of one content give equal results. Odd but readable frames are read (`openai_odd.py`); unreadable ones are a ProviderError.
"""

import uuid
from typing import Any, Literal

import msgspec

from perdure.core.messages import Part, ReasoningPart, TextPart, ToolCall
from perdure.core.model import (
    Chunk,
    ModelDone,
    ProviderExchange,
    ReasoningChunk,
    TextChunk,
    TokenLogprob,
    ToolCallChunk,
)
from perdure.core.runs import Usage
from perdure.providers.answer_frames import AnswerFrames
from perdure.providers.openai_kept import Details, signed, text_in
from perdure.providers.openai_odd import MINIMAX_STATUS, straightened
from perdure.providers.openai_wire import CallPiece, Choice, Frame, WireUsage, decode_frame, token_logprob, usage_of
from perdure.providers.think_tags import ThinkTags

Finish = Literal["stop", "length", "tool_calls", "content_filter", "abort"]

_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "abort": "abort",
    "cancelled": "abort",
}


# What some say in place of a reason why the answer ended: it did not.
_BROKEN = frozenset({"error", "network_error", "insufficient_system_resource"})
# What Z.ai says both of an answer that filled the window and, with no answer at all, of a prompt that did.
_NO_ROOM = "model_context_window_exceeded"


class _OpenPart:
    __slots__ = ("kind", "pieces", "signature")

    def __init__(self, kind: type[TextPart | ReasoningPart]) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.signature: str | None = None

    def part(self) -> Part:
        text = "".join(self.pieces)
        return TextPart(text) if self.kind is TextPart else ReasoningPart(text, signature=self.signature)


class _OpenCall:
    __slots__ = ("arguments", "extra", "id", "index", "name", "wire_id")

    def __init__(self, index: int) -> None:
        self.index = index
        self.wire_id: str | None = None
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.extra: dict[str, Any] | None = None

    def call(self) -> ToolCall:
        extra = msgspec.json.encode(self.extra).decode() if self.extra else None
        return ToolCall(self.id, self.name, "".join(self.arguments), extra)


class ChatAnswer(AnswerFrames):
    """One answer under way. `think_tags`: its text may begin with thinking between tags."""

    form = "chat completion"
    unit = "choice"

    def __init__(self, provider: str, *, think_tags: bool = False) -> None:
        super().__init__(provider)
        self._parts: list[_OpenPart] = []
        self._open: _OpenPart | None = None
        self._tags = ThinkTags() if think_tags else None
        self._details: Details | None = None
        self._calls: list[_OpenCall] = []
        self._calls_at = 0
        self._by_index: dict[int, _OpenCall] = {}
        self._finish: Finish | None = None
        self._answered = False
        self._refused = False
        self._usage: WireUsage | None = None
        self._logprobs: list[TokenLogprob] = []
        self._model: str | None = None
        self._id: str | None = None

    def _take(self, data: bytes, chunks: list[Chunk]) -> None:
        try:
            frame = decode_frame(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            frame = self._odd(data)
        for choice in frame.choices:
            if choice.index == 0:
                self._take_choice(choice, chunks, data)
        if frame.usage is not None:
            self._usage = frame.usage
        if not self._answered:
            self._check_error(frame, data)
            self._id, self._model = frame.id, frame.model
            self._answered = bool(frame.choices)
        elif frame.error:
            raise self._failed(frame.error, data)
        if frame.x_groq is not None:
            self._usage = frame.x_groq.usage or self._usage
            if frame.x_groq.error:
                raise self._failed(frame.x_groq.error, data)

    def finish(self) -> list[Chunk]:
        """What was held back, once no more comes."""
        chunks: list[Chunk] = []
        if self._tags is not None:
            for kind, text in self._tags.finish():
                self._say(ReasoningPart if kind == "thinking" else TextPart, text, chunks)
        self._close(chunks)
        return chunks

    def done(self, *, complete: bool, request: bytes = b"", response: bytes | None = None) -> ModelDone:
        """The whole answer, after `finish`. `complete`: the endpoint said that it ended ([DONE], or an answer in one piece)."""
        if self.failure is not None:
            raise self.failure
        if self._finish is None and self._usage is None and not complete:
            raise self._cut_off()
        if not self._answered:
            raise self._empty()
        calls = tuple(call.call() for call in self._calls if call.name)
        nameless = ("".join(call.arguments) for call in self._calls if not call.name)
        finish = self._finish or "stop"
        if finish in ("stop", "tool_calls"):
            finish = "tool_calls" if calls else "stop"
        content = tuple(part.part() for part in self._parts)
        if self._details is not None and (details := self._details.signature()):
            content, calls = signed(content, calls, details)
        usage = usage_of(self._usage)
        if response is None:
            response = _assembled(self._id, self._model, content, calls, finish, usage)
        return ModelDone(
            finish=finish,
            content=content,
            tool_calls=calls,
            calls_at=self._calls_at if calls and self._calls_at < len(content) else None,
            usage=usage,
            model=self._model,
            logprobs=self._logprobs or None,
            unparsed=tuple((text, "the call has no tool name") for text in nameless),
            exchange=ProviderExchange(request=request, response=response),
            request_id=self._id,
            extra={"refusal": True} if self._refused else {},
        )

    def _take_choice(self, choice: Choice, chunks: list[Chunk], data: bytes) -> None:
        delta = choice.delta or choice.message
        if delta is not None:
            thinking = delta.reasoning_content or delta.reasoning
            if delta.reasoning_details:
                thinking = self._take_details(delta.reasoning_details, thinking)
            if thinking:
                self._say(ReasoningPart, thinking, chunks)
            if text := delta.content:
                if self._tags is None:
                    self._say(TextPart, text, chunks)
                else:
                    for kind, piece in self._tags.feed(text):
                        self._say(ReasoningPart if kind == "thinking" else TextPart, piece, chunks)
            if text := delta.refusal:
                self._refused = True
                self._say(TextPart, text, chunks)
            if delta.tool_calls:
                for call in delta.tool_calls:
                    self._take_call(call, chunks)
        if choice.usage is not None:
            self._usage = choice.usage
        no_room = choice.finish_reason == _NO_ROOM and not self._parts and not self._calls
        if choice.error or choice.finish_reason in _BROKEN or no_room:
            raise self._failed(choice.error or f"it ended with {choice.finish_reason}", data)
        if choice.finish_reason:
            self._finish = _FINISH.get(choice.finish_reason.lower(), "stop")
        if choice.logprobs is not None and choice.logprobs.content:
            self._logprobs += [token_logprob(token) for token in choice.logprobs.content]

    def _say(self, kind: type[TextPart | ReasoningPart], text: str, chunks: list[Chunk]) -> None:
        if self._open is None or self._open.kind is not kind:
            self._close(chunks)
            self._open = _OpenPart(kind)
            self._parts.append(self._open)
        self._open.pieces.append(text)
        chunks.append(TextChunk(text) if kind is TextPart else ReasoningChunk(text))

    def _close(self, chunks: list[Chunk]) -> None:
        """The open part is whole. Thinking carries the details that came with it."""
        part, self._open = self._open, None
        if part is not None and part.kind is ReasoningPart and self._details is not None:
            part.signature, self._details = self._details.signature(), None
            chunks.append(ReasoningChunk("", signature=part.signature))

    def _take_details(self, pieces: list[Any], thinking: str | None) -> str | None:
        """Kept as they are; they are the thinking where no other field tells it."""
        if self._details is None:
            self._details = Details()
        self._details.take(pieces)
        return thinking or text_in(pieces)

    def _take_call(self, piece: CallPiece, chunks: list[Chunk]) -> None:
        """A call is announced once its name is known; arguments that came before it go along."""
        name = (piece.function.name if piece.function else None) or ""
        arguments = (piece.function.arguments if piece.function else None) or ""
        call = self._call_of(piece, name, chunks)
        call.extra = piece.extra_content or call.extra
        if arguments:
            call.arguments.append(arguments)
        if not call.name:
            call.id = call.id or self._unused(piece.id)
            if not name:
                return
            call.name = name
            call.id = call.id or f"call_{uuid.uuid4().hex[:24]}"
            chunks.append(ToolCallChunk(call.index, call.id, name, "".join(call.arguments)))
        elif arguments:
            chunks.append(ToolCallChunk(call.index, arguments=arguments))

    def _call_of(self, piece: CallPiece, name: str, chunks: list[Chunk]) -> _OpenCall:
        """The call a piece belongs to. By its index; where there is none, or every call has the same, by id and name."""
        last = self._calls[-1] if self._calls else None
        if piece.index is None:
            same = next((call for call in self._calls if call.id == piece.id), None) if piece.id else None
            if same is not None:
                return same
            goes_on = last is not None and not piece.id and not (name and last.name)
            return last if last is not None and goes_on else self._new_call(None, chunks)
        call = self._by_index.get(piece.index)
        if call is None or (name and call.name and piece.id and piece.id != call.wire_id):
            call = self._new_call(piece.index, chunks)
            call.wire_id = piece.id
        return call

    def _new_call(self, index: int | None, chunks: list[Chunk]) -> _OpenCall:
        if not self._calls:
            self._close(chunks)
            self._calls_at = len(self._parts)
        call = _OpenCall(len(self._calls))
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    def _unused(self, call_id: str | None) -> str:
        """The id, unless another call of this answer has it: two calls of one id could not be answered apart."""
        return "" if not call_id or any(call.id == call_id for call in self._calls) else call_id

    def _odd(self, data: bytes) -> Frame:
        if not data.strip():
            return Frame()
        try:
            return msgspec.convert(straightened(msgspec.json.decode(data)), Frame, strict=False)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as cause:
            raise self._unreadable(data, cause) from cause

    def _check_error(self, frame: Frame, data: bytes) -> None:
        """Errors in place of an answer have many shapes; once an answer has begun only `error` is one."""
        if frame.error:
            raise self._failed(frame.error, data)
        base = frame.base_resp
        if base is not None and base.status_code:
            told = {"message": f"{base.status_msg} ({base.status_code})", "code": MINIMAX_STATUS.get(base.status_code)}
            raise self._failed(told, data)
        if not frame.choices and frame.usage is None and (frame.object == "error" or frame.message):
            raise self._failed(msgspec.json.decode(data), data)


def _assembled(
    id: str | None,
    model: str | None,
    content: tuple[Part, ...],
    calls: tuple[ToolCall, ...],
    finish: Finish,
    usage: Usage,
) -> bytes:
    """A streamed answer as the whole one it stands for, for the step's trace."""
    message: dict[str, Any] = {"role": "assistant"}
    message["content"] = "".join(part.text for part in content if isinstance(part, TextPart)) or None
    if thinking := "".join(part.text for part in content if isinstance(part, ReasoningPart)):
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return msgspec.json.encode({"id": id, "model": model, "choices": [choice], "usage": usage})
