"""What the Responses API answers, streamed or whole: events in, chunks out, at the end a ModelDone.

Invariant: the chunks joined are the ModelDone's parts and calls; streamed and whole answers of one content give equal results.
What an event tells twice (delta, done, item, response) is taken once, and what its deltas left out is taken from the rest.
"""

import uuid

import msgspec

from perdure.core.messages import HiddenReasoningPart, Part, ReasoningPart, TextPart, ToolCall
from perdure.core.model import (
    Chunk,
    HiddenReasoningChunk,
    ModelDone,
    ProviderExchange,
    ReasoningChunk,
    TextChunk,
    TokenLogprob,
    ToolCallChunk,
)
from perdure.providers.answer_frames import AnswerFrames
from perdure.providers.openai_frames import Finish
from perdure.providers.openai_wire import Token, token_logprob
from perdure.providers.responses_wire import (
    SECTION,
    Event,
    Item,
    Kept,
    Piece,
    Response,
    decode_event,
    decode_response,
    signature_of,
    usage_of,
)

_FINISH_OF_INCOMPLETE: dict[str, Finish] = {"max_output_tokens": "length", "content_filter": "content_filter"}
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


class _Text:
    """One content part of a message item, or the thinking of a reasoning item (`kind` tells which)."""

    __slots__ = ("kind", "logprobs", "pieces", "sections", "signature")

    def __init__(self, kind: type[TextPart | ReasoningPart]) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.sections: dict[tuple[str, int], list[str]] = {}
        self.logprobs: list[Token] = []
        self.signature: str | None = None

    def part(self) -> Part:
        if self.kind is TextPart:
            return TextPart("".join(self.pieces), self.signature)
        return ReasoningPart("".join(self.pieces), signature=self.signature)


class _Call:
    __slots__ = ("arguments", "at", "id", "index", "name", "signature")

    def __init__(self, index: int, id: str, name: str, at: int) -> None:
        self.index = index
        self.id = id
        self.name = name
        self.at = at
        self.arguments: list[str] = []
        self.signature: str | None = None


class ResponsesAnswer(AnswerFrames):
    """One answer under way. `ended`: the event that ends it has come."""

    form = "answer of the Responses API"
    unit = "output"

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self.ended = False
        self._content: list[_Text | HiddenReasoningPart] = []
        self._texts: dict[tuple[int, int], _Text] = {}
        self._thoughts: dict[int, _Text] = {}
        self._calls: dict[int, _Call] = {}
        self._last: _Text | _Call | None = None
        self._indices: dict[str, int] = {}
        self._finished: set[int] = set()
        self._refused = False
        self._final: Response | None = None
        self._raw = b""

    def done(self, *, request: bytes = b"") -> ModelDone:
        """The whole answer. ProviderError if its end never came."""
        if self.failure is not None:
            raise self.failure
        final = self._final
        if final is None:
            raise self._cut_off()
        content = tuple(each.part() if isinstance(each, _Text) else each for each in self._content)
        opened = list(self._calls.values())
        first_at = opened[0].at if opened else 0
        calls = tuple(
            ToolCall(
                call.id, call.name, "".join(call.arguments), call.signature, call.at if call.at != first_at else None
            )
            for call in opened
        )
        if not content and not calls and not final.output and final.status not in ("incomplete", "cancelled"):
            raise self._empty()
        return ModelDone(
            finish=_finish(final, bool(calls)),
            content=content,
            tool_calls=calls,
            calls_at=first_at if first_at < len(content) and calls else None,
            usage=usage_of(final.usage),
            model=final.model,
            logprobs=self._logprobs(),
            exchange=ProviderExchange(request=request, response=self._raw),
            request_id=final.id,
            extra={"refusal": True} if self._refused else {},
        )

    def _take(self, data: bytes, chunks: list[Chunk]) -> None:
        if self.ended:
            return
        try:
            event = decode_event(data)
            kind = event.type or ""
            if kind in _ENDS or (not kind and event.output is not None):
                raw = bytes(event.response) or data
                self._end(decode_response(raw), raw, chunks)
                return
        except (msgspec.DecodeError, UnicodeDecodeError) as cause:
            raise self._unreadable(data, cause) from cause
        match kind:
            case "response.output_text.delta":
                self._add_text(self._place(event), event.delta, chunks, event.logprobs)
            case "response.function_call_arguments.delta":
                self._add_arguments(self._index(event), event.delta, chunks)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                self._add_thought(self._index(event), _section(event), event.delta, chunks)
            case "response.refusal.delta":
                self._refused = True
                self._add_text(self._place(event), event.delta, chunks)
            case "response.output_item.added" if event.item is not None:
                self._begin(self._index(event), event.item, chunks)
            case "response.output_item.done" if event.item is not None:
                self._finish_item(self._index(event), event.item, chunks)
            case "error":
                raise self._failed(event.error or msgspec.json.decode(data), data)
            case _:
                if not kind and (event.error or event.message):
                    raise self._failed(event.error or msgspec.json.decode(data), data)

    def _end(self, response: Response, raw: bytes, chunks: list[Chunk]) -> None:
        if response.status == "failed" or (response.error and response.status is None):
            raise self._failed(response.error or {"message": "the response failed"}, raw)
        for index, item in enumerate(response.output):
            self._finish_item(index, item, chunks)
        self._final = response
        self._raw = raw
        self.ended = True

    def _index(self, event: Event) -> int:
        """The place of the item an event is about; servers that leave it out name the item."""
        index = event.output_index
        item_id = event.item_id or (event.item.id if event.item is not None else None)
        if index is None:
            known = self._indices.get(item_id or "")
            index = known if known is not None else max(self._indices.values(), default=-1) + (item_id is not None)
            index = max(index, 0)
        if item_id:
            self._indices.setdefault(item_id, index)
        return index

    def _place(self, event: Event) -> tuple[int, int]:
        return self._index(event), event.content_index or 0

    def _add_text(
        self, place: tuple[int, int], delta: str | None, chunks: list[Chunk], logprobs: list[Token] | None = None
    ) -> None:
        if not delta:
            return
        text = self._texts.get(place)
        if text is None:
            text = self._texts[place] = _Text(TextPart)
            self._content.append(text)
        if logprobs:
            text.logprobs += logprobs
        text.pieces.append(delta)
        self._last = text
        chunks.append(TextChunk(delta))

    def _add_thought(self, index: int, section: tuple[str, int], delta: str | None, chunks: list[Chunk]) -> None:
        """Sections (a summary has several) are paragraphs of one thought."""
        if not delta:
            return
        thought = self._thoughts.get(index)
        if thought is None:
            thought = self._thoughts[index] = _Text(ReasoningPart)
            self._content.append(thought)
        if section not in thought.sections:
            if thought.sections:
                thought.pieces.append(SECTION)
                chunks.append(ReasoningChunk(SECTION))
            thought.sections[section] = []
        self._last = thought
        thought.sections[section].append(delta)
        thought.pieces.append(delta)
        chunks.append(ReasoningChunk(delta))

    def _begin(self, index: int, item: Item, chunks: list[Chunk]) -> None:
        if item.type == "function_call" and index not in self._calls:
            self._announce(index, item, chunks)

    def _announce(self, index: int, item: Item, chunks: list[Chunk]) -> _Call:
        taken = any(call.id == item.call_id for call in self._calls.values())
        call_id = item.call_id if item.call_id and not taken else f"call_{uuid.uuid4().hex[:24]}"
        call = self._calls[index] = _Call(len(self._calls), call_id, item.name or "", len(self._content))
        call.signature = signature_of(Kept(id=item.id))
        self._last = call
        if item.arguments:
            call.arguments.append(item.arguments)
        chunks.append(ToolCallChunk(call.index, call.id, call.name, item.arguments or "", call.signature))
        return call

    def _add_arguments(self, index: int, delta: str | None, chunks: list[Chunk]) -> None:
        call = self._calls.get(index)
        if call is not None and delta:  # a call nobody announced is taken whole, when it is done
            self._last = call
            call.arguments.append(delta)
            chunks.append(ToolCallChunk(call.index, arguments=delta))

    def _finish_item(self, index: int, item: Item, chunks: list[Chunk]) -> None:
        """A whole item: what its deltas did not tell, and what goes back with it."""
        if index in self._finished:
            return
        self._finished.add(index)
        if item.type == "message":
            kept = signature_of(Kept(id=item.id, phase=item.phase)) if item.id or item.phase else None
            for content_index, piece in enumerate(item.content or ()):
                self._finish_text((index, content_index), piece, kept, chunks)
        elif item.type == "function_call":
            call = self._calls.get(index) or self._announce(index, item, chunks)
            self._add_arguments(index, _missing(call.arguments, item.arguments), chunks)
            call.signature = signature_of(Kept(id=item.id))
        elif item.type == "reasoning":
            self._finish_thought(index, item, chunks)

    def _finish_text(self, place: tuple[int, int], piece: Piece, kept: str | None, chunks: list[Chunk]) -> None:
        self._refused = self._refused or bool(piece.refusal)
        known = self._texts.get(place)
        self._add_text(place, _missing(known.pieces if known else [], piece.text or piece.refusal), chunks)
        if (text := self._texts.get(place)) is not None:
            text.signature = kept
            text.logprobs = piece.logprobs or text.logprobs

    def _finish_thought(self, index: int, item: Item, chunks: list[Chunk]) -> None:
        for name, pieces in (("s", item.summary), ("c", item.content)):
            for number, piece in enumerate(pieces or ()):
                thought = self._thoughts.get(index)
                have = thought.sections.get((name, number), []) if thought is not None else []
                self._add_thought(index, (name, number), _missing(have, piece.text), chunks)
        thought = self._thoughts.get(index)
        kept = Kept(id=item.id, encrypted=item.encrypted_content)
        if thought is not None:
            kept.cut = [(name, len("".join(pieces))) for (name, _), pieces in thought.sections.items()]
            thought.signature = signature_of(kept)
            if self._last is thought:  # otherwise a chunk of it now would begin another part in a token stream
                chunks.append(ReasoningChunk("", signature=thought.signature))
        elif item.encrypted_content:
            hidden = HiddenReasoningPart(signature_of(kept))
            self._content.append(hidden)
            chunks.append(HiddenReasoningChunk(hidden.data))

    def _logprobs(self) -> list[TokenLogprob] | None:
        texts = [each for each in self._content if isinstance(each, _Text)]
        return [token_logprob(token) for text in texts for token in text.logprobs] or None


def _section(event: Event) -> tuple[str, int]:
    if event.type == "response.reasoning_text.delta":
        return "c", event.content_index or 0
    return "s", event.summary_index or 0


def _missing(have: list[str], whole: str | None) -> str | None:
    """What of the whole text has not come yet. What came is never taken back, even where the whole says otherwise."""
    if not whole:
        return None
    known = "".join(have)
    return whole[len(known) :] if whole.startswith(known) else None


def _finish(final: Response, calls: bool) -> Finish:
    if final.status == "incomplete":
        reason = final.incomplete_details.reason if final.incomplete_details is not None else None
        return _FINISH_OF_INCOMPLETE.get(reason or "", "stop")
    if final.status == "cancelled":
        return "abort"
    return "tool_calls" if calls else "stop"
