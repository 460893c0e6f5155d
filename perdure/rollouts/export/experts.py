"""Routed experts in the shapes of frameworks that take them: as an array in base64, or as nested lists.

Invariant: row p is of the sample's id p. Where a record lacks rows of some ids its samples have none at all: a trainer that
replays the routing would take the rows of other ids for theirs.
"""

import base64
from typing import Any

from msgspec import convert, structs

from perdure.core.experts import ExpertRows
from perdure.rollouts.export.samples import Row
from perdure.tokens.experts import decoded
from perdure.tokens.record import RoutedExperts, SegmentRecord


def experts_of(segment: SegmentRecord) -> ExpertRows | None:
    """The routed experts of all the segment's ids but the last; None where some lack them."""
    if segment.routed_experts is None or segment.routed_experts.shape[0] < len(segment.token_ids) - 1:
        return None
    return decoded(segment.routed_experts).cut(0, len(segment.token_ids) - 1)


def experts_before(segment: SegmentRecord, end: int) -> ExpertRows | None:
    """The routed experts of the ids before `end` but the last of them; None where some lack them."""
    if segment.routed_experts is None or segment.routed_experts.shape[0] < end - 1:
        return None
    return decoded(segment.routed_experts).cut(0, end - 1)


def for_every_id(rows: ExpertRows) -> ExpertRows:
    """With a row for the last id too, which stands for none: the one before it again."""
    return structs.replace(rows, data=rows.data + rows.row(rows.count - 1))


def as_array(rows: ExpertRows) -> Row:
    """An array as JSON holds it: its numbers are base64, little-endian, in C order."""
    data = base64.b64encode(rows.data).decode()
    return {"dtype": rows.dtype, "shape": [rows.count, rows.layers, rows.top_k], "data": data}


def array_notes(value: Any, least: int, most: int, name: str) -> list[tuple[str, str]]:
    """What is wrong with an array as `as_array` makes it, which is to have `least` to `most` rows; nothing with None."""
    if value is None:
        return []
    try:
        rows = decoded(convert({"check": [], **value}, RoutedExperts))
    except (ValueError, TypeError) as cause:
        return [("R1", f"{name}: {cause}")]
    return _count_notes(rows.count, least, most, name)


def nested_notes(value: Any, least: int, most: int, name: str) -> list[tuple[str, str]]:
    """The same of [ids][layers][experts an id], as lists: the first id whose row is not like the first one's is named."""
    if value is None:
        return []
    try:
        shapes = [tuple(len(layer) for layer in row) for row in value]
        lowest = [min(min(layer) for layer in row) for row in value]
    except (TypeError, ValueError):
        return [("R1", f"{name} is no list of [layers][experts an id] lists of numbers")]
    for at, shape in enumerate(shapes):
        if shape != shapes[0] or len(set(shape)) > 1:
            return [("R1", f"{name}[{at}] has the shape {list(shape)}, the first {list(shapes[0])}")]
        if lowest[at] < 0:
            return [("R2", f"{name}[{at}] has an expert below 0")]
    return _count_notes(len(value), least, most, name)


def _count_notes(count: int, least: int, most: int, name: str) -> list[tuple[str, str]]:
    if least <= count <= most:
        return []
    wanted = f"{least}" if least == most else f"{least} to {most}"
    return [("R1", f"{name} has {count} rows, its ids take {wanted}")]
