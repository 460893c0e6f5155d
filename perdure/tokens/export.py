"""Rollouts as JSONL: one record a line, written so that reading and writing again gives the same bytes.

A line that cannot be read is an `Unreadable` that says where in the record the damage lies, down to the token, because a
position in a line of a megabyte helps nobody.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from perdure.core.errors import AgentError
from perdure.tokens.record import ARRAYS, SCHEMA

encode_line = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Unreadable(AgentError):
    """The file is not a traj/1 export. `line` counts from 1; `path` is where in its record, if that can be said."""

    def __init__(self, message: str, *, line: int | None = None, path: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.path = path


def dump_jsonl(rollouts: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(encode_line(rollout) + b"\n" for rollout in rollouts)


def load_jsonl(data: bytes) -> list[dict[str, Any]]:
    """The records of an export. Unreadable: empty, cut off, not JSON, or not traj/1."""
    if not data.strip():
        raise Unreadable("The file is empty: there is no rollout in it. Export again.")
    if not data.endswith(b"\n"):
        raise Unreadable("The file does not end with a line break: it was cut off. Export again.")
    return [_load_line(line, number) for number, line in enumerate(data[:-1].split(b"\n"), 1)]


def _load_line(line: bytes, number: int) -> dict[str, Any]:
    try:
        record = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        offset = _damage_at(line, str(error))
        path = locate(line, offset)
        raise Unreadable(
            f"Line {number} is not JSON: damaged at or just before {path or 'its start'} (byte {offset} of the line): {error}.",
            line=number,
            path=path,
        ) from error
    if not isinstance(record, dict):
        raise Unreadable(f"Line {number} is not a JSON object. Is this a traj/1 export?", line=number)
    schema = record.get("schema")
    if schema != SCHEMA:
        raise Unreadable(f"Line {number}: schema is {schema!r}; this verifies {SCHEMA!r}.", line=number, path="schema")
    return record


def _damage_at(line: bytes, complaint: str) -> int:
    """The byte a line stops being JSON at: bytes that are no UTF-8 first, else where the parser gave up."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return error.start
    found = re.search(r"\(byte (\d+)\)", complaint)
    if found is None:
        return _too_large_at(line) if "out of range" in complaint else len(line)
    at = int(found[1])
    # of a letter that is taken for the beginning of true, false or null the parser complains some bytes later
    word = next((near for near in range(max(at - 6, 1), at) if line[near] in b"tfn" and line[near - 1] in b",[:"), None)
    return at if word is None or line[word:].startswith((b"true", b"false", b"null")) else word


_EXPONENT = re.compile(rb"(?<=[,:\[])-?[0-9.]+[eE][+-]?[0-9]+")


def _too_large_at(line: bytes) -> int:
    """Where the first number stands that no float holds."""
    large = (found.start() for found in _EXPONENT.finditer(line) if math.isinf(float(found[0])))
    return next(large, len(line))


_ENTRY = re.compile(rf"(?:segments|calls)\[\d+\]\.(?:{'|'.join(ARRAYS)})\[\d+\]")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def locate(line: bytes, offset: int) -> str | None:
    """The path of the value that byte `offset` of a JSON line is in, such as `segments[0].token_ids[41]`.

    It walks the text before the byte, which is sound, so damage at or after the byte does not matter.
    """
    stack: list[str | int | None] = []
    closed: str | None = None  # damage right after a bracket made that bracket of an entry
    at = 0
    while at < len(line) and at <= offset:
        byte = line[at : at + 1]
        if byte == b"{":
            stack.append(None)
        elif byte == b"[":
            stack.append(0)
        elif byte in b"]}":
            if at == offset:
                break
            if stack:
                closed = _path(stack)
                stack.pop()
        elif byte == b",":
            if at == offset:
                break
            if stack:
                top = stack[-1]
                closed = None if isinstance(top, int) else closed
                stack[-1] = top + 1 if isinstance(top, int) else None
        elif byte == b'"':
            closed = None
            found = _STRING.match(line, at)
            if found is None or found.end() > offset:
                break
            if stack and stack[-1] is None:
                stack[-1] = found[0][1:-1].decode(errors="replace")
            at = found.end() - 1
        at += 1
    path = closed or _path(stack)
    entry = _ENTRY.match(path)
    return (entry[0] if entry else path) or None


def _path(stack: Sequence[str | int | None]) -> str:
    text = ""
    for step in stack:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step is not None:
            text += f".{step}" if text else step
    return text


def first_difference(line: bytes, again: bytes) -> int:
    """The first byte in which two lines differ; the shorter one's length if it is the beginning of the other."""
    if line == again:
        return len(line)
    low, high = 0, min(len(line), len(again))
    while low < high:
        middle = (low + high + 1) // 2
        if line[:middle] == again[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
