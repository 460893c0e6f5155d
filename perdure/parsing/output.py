"""A model's output, as it arrives, as reasoning, text and tool calls.

Invariants, wherever the input is cut: joined, the text chunks are the text parts and the reasoning chunks the reasoning
parts; together with markers and `parse["trimmed"]` they are all the model wrote. A call that cannot be read is never
dropped: it stays in the text, markers and all, and is listed in `unparsed`; pieces of it that were given out as a ToolCallChunk
have an index no call of the result has.
"""

import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec import Struct, field

from perdure.core.dialect import OutputDialect, ToolFormat
from perdure.core.messages import Part, ReasoningPart, TextPart, ToolCall
from perdure.core.model import Chunk, ReasoningChunk, TextChunk, ToolCallChunk, ToolSpec
from perdure.parsing.calls import CallReader, Event
from perdure.parsing.formats import NEWLINES_BEFORE_CALL, reader_of, scanner_of
from perdure.parsing.markers import MarkerReader, Piece, TokenBytes
from perdure.parsing.reasoning import NEWLINES_AFTER, Framing

CUT_OFF = "the answer ended inside the call"
IN_THOUGHT = "the call stands inside thinking that was never closed"


class ParsedOutput(Struct, frozen=True, kw_only=True):
    """A whole answer. `chunks`: the last ones, not given out before.

    `parse`: for the token record. Spans are [start, end) of the completion ids: `reasoning_span`, `content_span` (either may be
    None), `tool_calls` [{span, name, status: ok | unclosed | invalid, id}]; `tool_format`; `reasoning_complete`; `trimmed`
    [[character, text]].
    """

    content: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    unparsed: tuple[tuple[str, str], ...] = ()
    chunks: list[Chunk] = field(default_factory=list)
    parse: dict[str, Any] = field(default_factory=dict)


class _Call:
    """A call under way. `doubt`: the place of a closing marker inside one of its values, and what came since.

    `given`: how many characters of the arguments were given out or are held.
    """

    def __init__(self, opening: Piece, index: int, call_id: str, reader: CallReader) -> None:
        self.opening = opening
        self.index = index
        self._new_id = call_id
        self.reader = reader
        self.held: list[Event] = []
        self.given = 0
        self.named = False
        self.doubt: tuple[int, Piece, list[Piece]] | None = None

    @property
    def id(self) -> str:
        """The model's own id, where it writes one."""
        return self.reader.call_id or self._new_id


class _Read(NamedTuple):
    start: int
    end: int
    name: str | None
    status: str
    call_id: str | None


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


class OutputParser:
    """`reasoning_open`: the prompt ended inside the thinking. One of `stop_token_ids` that ends the answer is no text.

    `tools`: those shown to the model; some formats write values as bare text, whose types their schemas tell.
    """

    def __init__(
        self,
        dialect: OutputDialect,
        tokenizer: TokenBytes,
        *,
        reasoning_open: bool = False,
        stop_token_ids: Sequence[int] = (),
        tools: Sequence[ToolSpec] = (),
        call_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._dialect = dialect
        self._reader = MarkerReader(dialect, tokenizer)
        self._format: ToolFormat = dialect.tool_format
        self._schemas = {tool.name: tool.parameters for tool in tools}
        self._scanner = scanner_of(dialect.tool_format, self._schemas)
        # a marker that ends the answer still has to be read as one
        self._stops = frozenset(stop_token_ids).difference(
            dialect.marker_ids[text] for text in dialect.marks() if text in dialect.marker_ids
        )
        self._stop: list[int] = []
        self._new_id = call_id
        self._newlines = NEWLINES_AFTER if NEWLINES_BEFORE_CALL.get(self._format, 1) else {}
        self._framing = Framing(before_call=NEWLINES_BEFORE_CALL.get(self._format, 1))
        self._thinking = reasoning_open
        self._call: _Call | None = None
        self._thought_call: list[str] = []
        self._queue: deque[Piece] = deque()
        self._next_index = 0
        self._chunks: list[Chunk] = []
        self._parts: list[tuple[type[TextPart] | type[ReasoningPart], list[str]]] = []
        self._joins = False
        self._calls: list[ToolCall] = []
        self._unparsed: list[tuple[str, str]] = []
        self._read: list[_Read] = []
        self._reasoning: list[int] = [0] if reasoning_open else []
        self._content: list[int] = []

    def feed(self, ids: Sequence[int]) -> list[Chunk]:
        if not ids:
            return []
        if self._stop:
            ids, self._stop = [*self._stop, *ids], []
        if ids[-1] in self._stops:
            self._stop, ids = [ids[-1]], ids[:-1]
        return self._take(self._reader.feed(ids))

    def feed_text(self, text: str) -> list[Chunk]:
        """For an engine that gives text alone; its dialect has no marker ids."""
        return self._take(self._reader.feed_text(text))

    def finish(self) -> ParsedOutput:
        chunks = self._take(self._reader.finish(), final=True)
        while (call := self._call) is not None:
            self._end_call(call, None)
            self._drain()  # a call that is put back may hold others
        self._say(*self._framing.release())
        if self._thinking and self._thought_call:
            self._unparsed.append(("".join(self._thought_call), IN_THOUGHT))
        chunks += self._given()
        return ParsedOutput(
            content=tuple(kind("".join(texts)) for kind, texts in self._parts),
            tool_calls=tuple(self._calls),
            unparsed=tuple(self._unparsed),
            chunks=chunks,
            parse=self._parse_record(),
        )

    def _take(self, pieces: Sequence[Piece], *, final: bool = False) -> list[Chunk]:
        self._queue.extend(self._scanner.feed(pieces))
        if final:
            self._queue.extend(self._scanner.finish())
        self._drain()
        return self._given()

    def _drain(self) -> None:
        while self._queue:
            self._one(self._queue.popleft())

    def _given(self) -> list[Chunk]:
        chunks, self._chunks = self._chunks, []
        return chunks

    def _one(self, piece: Piece) -> None:
        if self._call is not None:
            self._in_call(self._call, piece)
        elif self._thinking:
            self._in_reasoning(piece)
        else:
            self._in_text(piece)

    def _in_text(self, piece: Piece) -> None:
        if piece.mark == "tool_open":
            self._open_call(piece)
        elif piece.mark == "frame":
            self._framing.drop()
            self._framing.cut(piece.text, piece.at)
        elif piece.mark == "reasoning_open" and self._may_think(piece):
            self._say(*self._framing.release(but=0 if self._parts or self._calls else 1))
            self._framing.drop()
            self._thinking, self._joins = True, False
            self._reasoning.append(piece.at + len(piece.text))
            self._framing.begin(self._newlines.get("reasoning_open", 0))
        else:
            self._say(*self._framing.take(piece.text, piece.at))

    def _may_think(self, piece: Piece) -> bool:
        """Spelt out in text, the marker only counts at the very start: later the model may just be writing about it."""
        if not piece.spelt:
            return True
        return not self._calls and not any("".join(texts).strip() for _, texts in self._parts)

    def _in_reasoning(self, piece: Piece) -> None:
        if piece.mark != "reasoning_close":
            if self._thought_call or piece.mark == "tool_open":
                self._thought_call.append(piece.text)
            self._say(*self._framing.take(piece.text, piece.at))
            return
        self._say(*self._framing.release(but=1))
        self._framing.drop()
        self._reasoning.append(piece.at)
        self._thinking, self._joins = False, False
        self._thought_call.clear()
        self._framing.begin(self._newlines.get("reasoning_close", 0))

    def _say(self, text: str, at: int) -> None:
        if not text:
            return
        if self._thinking:
            self._put(ReasoningPart, ReasoningChunk(text), text)
            return
        self._content = [self._content[0] if self._content else at, at + len(text)]
        self._put(TextPart, TextChunk(text), text)

    def _put(self, kind: type[TextPart] | type[ReasoningPart], chunk: TextChunk | ReasoningChunk, text: str) -> None:
        if self._joins and self._parts and self._parts[-1][0] is kind:
            self._parts[-1][1].append(text)
        else:
            self._parts.append((kind, [text]))
            self._joins = True
        last = self._chunks[-1] if self._chunks else None
        if isinstance(last, type(chunk)):
            self._chunks[-1] = type(chunk)(last.text + text)
        else:
            self._chunks.append(chunk)

    def _open_call(self, opening: Piece) -> None:
        reader = reader_of(self._format, opening, self._schemas)
        self._call = _Call(opening, self._next_index, self._new_id(), reader)
        self._next_index += 1

    def _in_call(self, call: _Call, piece: Piece) -> None:
        reader = call.reader
        ends = piece.mark == "tool_close" or piece.mark == "tool_open"
        if ends and (reader.broken or not reader.in_string):
            if piece.mark == "tool_close":
                self._end_call(call, piece)
            else:
                self._queue.appendleft(piece)
                self._end_call(call, None)
            return
        if call.doubt is not None:
            since = call.doubt[2]
            if piece.mark == "tool_open" and not any(each.text.strip() for each in since):
                self._queue.appendleft(piece)
                self._put_back(call, "a value in it is not closed")
                return
            since.append(piece)
        elif piece.mark == "tool_close":
            call.doubt = (len(reader.text), piece, [])
        events = reader.feed(piece.text)
        if call.doubt is None and not reader.waits:
            self._give(call, events)
        else:
            call.held.extend(events)
            if call.doubt is not None and reader.broken:
                self._put_back(call, "not valid JSON: a string in it is not closed")

    def _give(self, call: _Call, events: Sequence[Event]) -> None:
        for kind, text in events:
            if kind == "name":
                call.named = True
                if any(call.id == other.id for other in self._calls):
                    call.reader.call_id = None
                self._chunks.append(ToolCallChunk(call.index, call.id, text))
            else:
                call.given += len(text)
                last = self._chunks[-1] if self._chunks else None
                if isinstance(last, ToolCallChunk) and last.index == call.index:
                    self._chunks[-1] = ToolCallChunk(call.index, last.id, last.name, last.arguments + text)
                else:
                    self._chunks.append(ToolCallChunk(call.index, arguments=text))

    def _end_call(self, call: _Call, closing: Piece | None) -> None:
        cut_off = closing is None and not call.reader.complete and not call.reader.broken
        result = CUT_OFF if cut_off else call.reader.result()
        if isinstance(result, str):
            if call.doubt is not None:
                self._put_back(call, result, closing)
                return
            self._keep_as_text(call, call.reader.text, closing, result)
            return
        name, arguments = result
        self._give(call, call.held)
        if not call.named:
            self._give(call, [("name", name)])
        if rest := arguments[call.given :]:
            self._give(call, [("arguments", rest)])
        self._framing.drop()
        self._calls.append(ToolCall(call.id, name, arguments))
        self._record(call, closing, name, "ok" if closing else "unclosed")
        self._call, self._joins = None, False
        self._framing.begin(self._newlines.get("tool_close", 0) if closing else 0)

    def _put_back(self, call: _Call, why: str, closing: Piece | None = None) -> None:
        """The closing marker that seemed to stand in a value did end the call: what came since is read again."""
        assert call.doubt is not None
        length, marker, since = call.doubt
        self._keep_as_text(call, call.reader.text[:length], marker, why)
        self._queue.extendleft(reversed([*since, closing] if closing else since))

    def _keep_as_text(self, call: _Call, inside: str, closing: Piece | None, why: str) -> None:
        raw = call.opening.text + inside + (closing.text if closing else "")
        self._unparsed.append((raw, why))
        self._record(call, closing, None, "invalid")
        self._call = None
        self._framing.begin(0)
        self._say(*self._framing.release())
        self._say(raw, call.opening.at)

    def _record(self, call: _Call, closing: Piece | None, name: str | None, status: str) -> None:
        end = closing.at + len(closing.text) if closing else call.opening.at + len(call.opening.text + call.reader.text)
        self._read.append(_Read(call.opening.at, end, name, status, call.id if name is not None else None))

    def _parse_record(self) -> dict[str, Any]:
        index = self._reader.index_at
        record: dict[str, Any] = {"reasoning_span": None, "content_span": None, "tool_format": self._format}
        if self._reasoning:
            end = self._reasoning[1] if len(self._reasoning) > 1 else self._reader.length
            record["reasoning_span"] = [index(self._reasoning[0]), index(end)]
        record["reasoning_complete"] = not self._thinking
        if self._content:
            record["content_span"] = [index(self._content[0]), index(self._content[1])]
        record["tool_calls"] = [
            {"span": [index(call.start), index(call.end)], "name": call.name, "status": call.status, "id": call.call_id}
            for call in self._read
        ]
        record["trimmed"] = [list(trim) for trim in self._framing.trimmed]
        return record
