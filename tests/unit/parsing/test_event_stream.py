"""AWS event streams: any cut, every header type, damage of every kind."""

import struct
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.parsing.event_stream import (
    LONGEST,
    EventMessage,
    EventStreamError,
    EventStreamParser,
    encode_message,
)


def framed(headers: bytes, payload: bytes) -> bytes:
    lengths = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    head = lengths + struct.pack(">I", crc32(lengths)) + headers + payload
    return head + struct.pack(">I", crc32(head))


def test_published_examples() -> None:
    """Two messages that AWS's and others' tests of the encoding use."""
    empty = bytes.fromhex("000000100000000005c248eb7d98c8ff")
    payload = bytes.fromhex("0000001d00000000fd528c5a7b27666f6f273a27626172277dc3653936")
    parser = EventStreamParser()
    assert parser.feed(empty + payload) == [EventMessage({}, b""), EventMessage({}, b"{'foo':'bar'}")]
    parser.finish()
    assert encode_message({}, b"{'foo':'bar'}") == payload


def test_every_type_of_header() -> None:
    headers = b"".join(
        [
            b"\x01t\x00",
            b"\x01f\x01",
            b"\x01b\x02\xff",
            b"\x01s\x03\xff\xfe",
            b"\x01i\x04\x00\x00\x00\x07",
            b"\x01l\x05" + (9).to_bytes(8, "big"),
            b"\x01y\x06\x00\x02ab",
            b"\x01x\x07\x00\x03" + "é".encode() + b"!",
            b"\x01d\x08" + (1000).to_bytes(8, "big"),
            b"\x01u\x09" + bytes(range(16)),
        ]
    )
    (message,) = EventStreamParser().feed(framed(headers, b"p"))
    assert message == EventMessage(
        {
            "t": True,
            "f": False,
            "b": -1,
            "s": -2,
            "i": 7,
            "l": 9,
            "y": b"ab",
            "x": "é!",
            "d": 1000,
            "u": bytes(range(16)),
        },
        b"p",
    )


messages = st.lists(st.tuples(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=9)), st.binary()))


@given(messages, st.data())
def test_any_cut_gives_the_same_messages(wanted: list[tuple[dict[str, str], bytes]], data: st.DataObject) -> None:
    stream = b"".join(encode_message(headers, payload) for headers, payload in wanted)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=9)))
    parser, found = EventStreamParser(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[start:end])
    parser.finish()
    assert found == [EventMessage(headers, payload) for headers, payload in wanted]


GOOD = encode_message({":message-type": "event"}, b"{}")


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_one_changed_byte_is_noticed(at: int) -> None:
    damaged = bytearray(GOOD)
    damaged[at] ^= 0x10
    parser = EventStreamParser()
    with pytest.raises(EventStreamError):
        parser.feed(bytes(damaged))
        parser.finish()


def test_messages_before_the_damage_come_out_first() -> None:
    parser = EventStreamParser()
    assert len(parser.feed(GOOD + GOOD[:-1] + b"\x00")) == 1
    for ask in (lambda: parser.feed(b""), parser.finish):
        with pytest.raises(EventStreamError, match="checksum"):
            ask()


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (b"\x01a\x0a", "unknown type 10"),
        (b"\x09a", "cannot be read"),
        (b"\x01a\x04\x00", "cannot be read"),
        (b"\x01a\x07\x00\x09x", "longer"),
        (b"\x01\xff\x00", "cannot be read"),
    ],
)
def test_headers_that_cannot_be_read(headers: bytes, why: str) -> None:
    with pytest.raises(EventStreamError, match=why):
        EventStreamParser().feed(framed(headers, b""))


@pytest.mark.parametrize(("total", "headers"), [(15, 0), (20, 8), (LONGEST + 1, 0)])
def test_lengths_that_cannot_be(total: int, headers: int) -> None:
    lengths = struct.pack(">II", total, headers)
    with pytest.raises(EventStreamError, match="bytes"):
        EventStreamParser().feed(lengths + struct.pack(">I", crc32(lengths)))


def test_a_stream_that_ends_in_a_message() -> None:
    parser = EventStreamParser()
    assert parser.feed(GOOD[:-1]) == []
    with pytest.raises(EventStreamError, match="middle"):
        parser.finish()
