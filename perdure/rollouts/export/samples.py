"""What every shape is made from: the record's segments and calls that train something, and the values they share.

Invariant: an id trains in a shape exactly where it trains in the record, with the same ids before it and the same logprob.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from perdure.core.errors import AgentError
from perdure.tokens.record import Call, Rollout, SegmentRecord

Row = dict[str, Any]
NO_VERSION = -1


class NotThisShape(AgentError):
    """A row is not what its format says; the message names the field."""


class Sample(Struct, frozen=True, kw_only=True):
    """A row of any shape, read back: `ids`, `mask` and `logprobs` of one length; logprobs count where the mask is 1.

    `versions`: the weights of each id where the shape has them. `notes`: (invariant, what else is wrong in the row).
    """

    name: str
    ids: list[int]
    mask: list[int]
    logprobs: list[float | None]
    versions: list[int] | None = None
    notes: tuple[tuple[str, str], ...] = ()


class Shape(Struct, frozen=True, kw_only=True):
    """`rows`: a record in this shape, one a line. `read`: a row's samples; NotThisShape says what it lacks.

    `keys`: fields that every row of the shape has and that tell it from the others. `whole`: what is wrong between the rows of
    a file, as (row, counted from 1, invariant, message).
    """

    name: str
    about: str
    rows: Callable[[Rollout], list[Row]]
    read: Callable[[Row], list[Sample]]
    keys: frozenset[str]
    whole: Callable[[list[Row]], list[tuple[int, str, str]]] | None = None


class Split(Struct, frozen=True):
    """A segment that trains, cut before the first id that does. `response` is the number of ids from there on."""

    segment: SegmentRecord
    prompt: int
    calls: list[Call]

    @property
    def response(self) -> int:
        return len(self.segment.token_ids) - self.prompt

    @property
    def response_ids(self) -> list[int]:
        return self.segment.token_ids[self.prompt :]

    @property
    def response_mask(self) -> list[int]:
        return self.segment.loss_mask[self.prompt :]

    @property
    def response_logprobs(self) -> list[float]:
        return logprobs_of(self.segment)[self.prompt :]


def training_segments(rollout: Rollout) -> Iterator[Split]:
    """Segments without an id to train are left out: they are another's context, and that holds them already."""
    for segment in rollout.segments:
        if 1 in segment.loss_mask:
            calls = [call for call in rollout.calls if call.segment_index == segment.index]
            yield Split(segment, segment.loss_mask.index(1), calls)


def training_calls(rollout: Rollout) -> Iterator[tuple[Call, list[int]]]:
    """Each call that trains, in the order they were made, with the ids of its prompt."""
    for call in rollout.calls:
        if call.trainable and call.length:
            yield call, rollout.segments[call.segment_index].token_ids[: call.start]


def logprobs_of(segment: SegmentRecord) -> list[float]:
    return [0.0 if value is None else value for value in segment.logprobs]


def call_logprobs(call: Call) -> list[float]:
    return [0.0 if value is None else value for value in call.logprobs]


def trainer_version(version: str) -> int:
    """A trainer's own version number; -1 for names that are no number, such as an engine's "default"."""
    return int(version) if version.isdecimal() and version.isascii() else NO_VERSION


def versions_of(rollout: Rollout, segment: SegmentRecord) -> list[int]:
    """Per id the number of the weights that sampled it; -1 where nobody did or their version is no number."""
    numbers = [trainer_version(version) for version in rollout.versions]
    return [numbers[at] if at >= 0 else NO_VERSION for at in segment.version]


def trained_versions(rollout: Rollout, segment: SegmentRecord) -> list[int]:
    """The known version numbers of the ids that train, each once, in order."""
    found = {v for v, m in zip(versions_of(rollout, segment), segment.loss_mask, strict=True) if m and v != NO_VERSION}
    return sorted(found)


def group_number(rollout: Rollout) -> int:
    """The group as an integer, for trainers that know groups by number: the same for all of a group, on any machine."""
    name = rollout.group_id or rollout.rollout_id
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


def whence(rollout: Rollout, segment: SegmentRecord | None = None) -> Row:
    """Where a row comes from, for the fields that shapes leave to their writers."""
    found: Row = {
        "rollout_id": rollout.rollout_id,
        "group_id": rollout.group_id,
        "group_index": rollout.group_index,
        "group_size": rollout.group_size,
        "task": rollout.task,
        "agent_id": rollout.agent_id,
        "status": rollout.status,
    }
    if segment is not None:
        found |= {"segment_id": segment.segment_id, "cause": segment.cause}
    return found


def temperatures_of(split: Split) -> list[float]:
    """The temperature each id was sampled at, by the call that did; 1.0 where nobody sampled or the engine's own was used."""
    made = {call.index: call.sampling.get("temperature") for call in split.calls}
    found = (made.get(at) for at in split.segment.call_index)
    return [1.0 if value is None else float(value) for value in found]


def ints(row: Row, *path: str) -> list[int]:
    """The list of integers at a path. NotThisShape."""
    values = _list(row, path)
    wrong = next((at for at, value in enumerate(values) if type(value) is not int), None)
    if wrong is not None:
        raise NotThisShape(f"{'.'.join(path)}[{wrong}] is {values[wrong]!r}, not an integer")
    return values


def flags(row: Row, *path: str) -> list[int]:
    """A mask written as booleans or as numbers."""
    values = _list(row, path)
    wrong = next((at for at, value in enumerate(values) if value not in (0, 1)), None)
    if wrong is not None:
        raise NotThisShape(f"{'.'.join(path)}[{wrong}] is {values[wrong]!r}, neither 0 nor 1")
    return [int(value) for value in values]


def floats(row: Row, *path: str) -> list[float | None]:
    values = _list(row, path)
    wrong = next((at for at, v in enumerate(values) if v is not None and type(v) not in (int, float)), None)
    if wrong is not None:
        raise NotThisShape(f"{'.'.join(path)}[{wrong}] is {values[wrong]!r}, not a number")
    return values


def _list(row: Row, path: tuple[str, ...]) -> list[Any]:
    value: Any = row
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    if not isinstance(value, list):
        raise NotThisShape(f"{'.'.join(path)} is {type(value).__name__}, not a list")
    return value
