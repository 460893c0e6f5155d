"""AWS event streams (`application/vnd.amazon.eventstream`): bytes in, messages out.

A message is: total length, headers' length, CRC of these two; headers; payload; CRC of all before it. Numbers are big-endian.
Invariant: how the input is cut makes no difference, and no message comes out whose checksums do not hold.
Source: AWS's description of the encoding.
"""

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from zlib import crc32

from msgspec import Struct

LONGEST = 24 * 1024 * 1024
_PRELUDE = struct.Struct(">III")
_OVERHEAD = 16


class EventStreamError(ValueError):
    """The bytes are no event stream, or were damaged on the way."""


class EventMessage(Struct, frozen=True):
    """One message. Header values as their type says: str, bytes, bool or int; a UUID is its 16 bytes."""

    headers: Mapping[str, Any]
    payload: bytes


class EventStreamParser:
    """`feed` gives the messages that are complete, `finish` checks that nothing is left over.

    Whole messages before a damaged one are given out first; whatever is asked next raises the error.
    """

    __slots__ = ("_buffer", "_damage")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._damage: EventStreamError | None = None

    def feed(self, data: bytes) -> list[EventMessage]:
        if self._damage is not None:
            raise self._damage
        self._buffer += data
        found: list[EventMessage] = []
        try:
            self._take(found)
        except EventStreamError as damage:
            if not found:
                raise
            self._damage = damage
        return found

    def finish(self) -> None:
        if self._damage is not None:
            raise self._damage
        if self._buffer:
            raise EventStreamError(f"the stream ends in the middle of a message, after {len(self._buffer)} bytes of it")

    def _take(self, found: list[EventMessage]) -> None:
        buffer = self._buffer
        start = 0
        while len(buffer) - start >= _PRELUDE.size:
            total, headers_size, prelude_crc = _PRELUDE.unpack_from(buffer, start)
            if crc32(buffer[start : start + 8]) != prelude_crc:
                raise EventStreamError("the checksum of a message's lengths does not hold")
            if not _OVERHEAD + headers_size <= total <= LONGEST:
                raise EventStreamError(f"a message says that it has {total} bytes, {headers_size} of them headers")
            if len(buffer) - start < total:
                break
            found.append(_message(bytes(buffer[start : start + total]), headers_size))
            start += total
        del buffer[:start]


def encode_message(headers: dict[str, str], payload: bytes) -> bytes:
    """One message with text headers: the inverse, for those who play the server."""
    encoded = b"".join(
        bytes((len(name.encode()),)) + name.encode() + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    lengths = struct.pack(">II", _OVERHEAD + len(encoded) + len(payload), len(encoded))
    head = lengths + struct.pack(">I", crc32(lengths)) + encoded + payload
    return head + struct.pack(">I", crc32(head))


def _message(data: bytes, headers_size: int) -> EventMessage:
    body_end = len(data) - 4
    if crc32(data[:body_end]) != int.from_bytes(data[body_end:], "big"):
        raise EventStreamError("the checksum of a message does not hold")
    headers_end = _PRELUDE.size + headers_size
    return EventMessage(_headers(data[_PRELUDE.size : headers_end]), data[headers_end:body_end])


@lru_cache(maxsize=32)  # one kind of message after another has the same
def _headers(data: bytes) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    at = 0
    try:
        while at < len(data):
            name_end = at + 1 + data[at]
            name = data[at + 1 : name_end].decode()
            value, at = _value(data, name_end)
            found[name] = value
    except (IndexError, struct.error, UnicodeDecodeError) as cause:
        raise EventStreamError(f"a message's headers cannot be read: {cause}") from cause
    if at != len(data):
        raise EventStreamError("a message's headers are longer than it says")
    return found


_FIXED: dict[int, tuple[struct.Struct, Callable[[Any], Any]]] = {
    2: (struct.Struct(">b"), int),
    3: (struct.Struct(">h"), int),
    4: (struct.Struct(">i"), int),
    5: (struct.Struct(">q"), int),
    8: (struct.Struct(">q"), int),  # milliseconds since the epoch
    9: (struct.Struct(">16s"), bytes),
}


def _value(data: bytes, at: int) -> tuple[Any, int]:
    """(the value whose type stands at `at`, where the next header begins)."""
    kind, at = data[at], at + 1
    if kind in (0, 1):
        return kind == 0, at
    if kind in _FIXED:
        shape, made = _FIXED[kind]
        return made(shape.unpack_from(data, at)[0]), at + shape.size
    if kind not in (6, 7):
        raise EventStreamError(f"a message has a header of unknown type {kind}")
    (size,) = struct.unpack_from(">H", data, at)
    raw = data[at + 2 : at + 2 + size]
    return raw.decode() if kind == 7 else raw, at + 2 + size
