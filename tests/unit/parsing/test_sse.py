"""The SSE parser: every way servers write events, and every way the network cuts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.parsing.sse import SseParser


def parse(*pieces: bytes) -> tuple[list[bytes], bool]:
    parser = SseParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.finish(), parser.done


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b'data: {"a":1}\n\ndata: {"b":2}\n\n', [b'{"a":1}', b'{"b":2}']),
        (b"data:tight\n\n", [b"tight"]),
        (b"data:  two spaces keep one\n\n", [b" two spaces keep one"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b": keep-alive\n\ndata: a\n\n: OPENROUTER PROCESSING\n\n", [b"a"]),
        (b": comment\ndata: a\n\n", [b"a"]),
        (b"event: delta\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"data: one\ndata: two\ndata\n\n", [b"one\ntwo\n"]),
        (b"\n\n\n\ndata: a\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:\n\n", [b""]),
        (b"event: ping\n\n", []),
        (b"datax: a\n\n", []),
        (b"data: no blank line at the end", [b"no blank line at the end"]),
        (b"data: one line end at the end\n", [b"one line end at the end"]),
        (b"", []),
        (b"\xef\xbb", []),
    ],
)
def test_events(stream: bytes, events: list[bytes]) -> None:
    assert parse(stream) == (events, False)


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"data: [DONE]", b"data:[DONE]\r\n\r\n", b"data: [DONE]\n"])
def test_done_ends_the_stream(end: bytes) -> None:
    assert parse(b"data: a\n\n" + end) == ([b"a"], True)


def test_nothing_is_given_after_done() -> None:
    assert parse(b"data: [DONE]\n\ndata: a\n\n", b"data: b\n\n") == ([], True)


def test_an_event_comes_with_the_piece_that_ends_it() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\n") == [b"a"]
    assert parser.feed(b"data: b\r\n\r") == [b"b"]
    assert parser.feed(b"\ndata: c\r\n\r\n") == [b"c"]
    assert parser.feed(b"") == []


_line = st.sampled_from(
    ["data: {}", "data:x", "data: é€🙂", "data: [DONE", "data", ": ping", "event: e", "id: 1", "", "data: \ufeff"]
)


@given(st.lists(_line, max_size=12), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.data())
def test_cuts_make_no_difference(lines: list[str], newline: str, bom: bool, data: st.DataObject) -> None:
    stream = (b"\xef\xbb\xbf" if bom else b"") + newline.join(lines).encode() + newline.encode() * 2
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parse(*pieces) == parse(stream)
    assert parse(*(bytes([byte]) for byte in stream)) == parse(stream)


@given(st.lists(_line, max_size=12))
def test_line_ends_make_no_difference(lines: list[str]) -> None:
    plain = "\n".join(lines).encode() + b"\n\n"
    assert parse(plain.replace(b"\n", b"\r\n")) == parse(plain.replace(b"\n", b"\r")) == parse(plain)
