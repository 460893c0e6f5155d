"""The table of formats an export can have, and how a record is written in each.

`jsonl` and `parquet` are the record itself (`traj/1`); every other format is a trainer's own shape, as lines of JSON.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from perdure.core.errors import Invalid
from perdure.rollouts.export import (
    FORMATS,
    JSONL,
    PARQUET,
    agent_lightning,
    areal,
    nemo_gym,
    prime_rl,
    skyrl,
    slime,
    tinker,
    trl,
    turns,
    verifiers,
    verl,
)
from perdure.rollouts.export.samples import Row, Shape
from perdure.tokens.export import dump_jsonl, encode_line
from perdure.tokens.record import Rollout

SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        verl.SHAPE,
        trl.SHAPE,
        trl.ASYNC,
        prime_rl.SHAPE,
        verifiers.SHAPE,
        slime.SHAPE,
        skyrl.SHAPE,
        agent_lightning.SHAPE,
        areal.SHAPE,
        nemo_gym.SHAPE,
        tinker.SHAPE,
        turns.SHAPE,
    )
}


def check_format(name: str) -> str:
    """The name, if there is such a format. Invalid."""
    if name not in FORMATS:
        raise Invalid(f"format: {name!r} is not known; use {', '.join(FORMATS)}", status=422)
    return name


def shape_of(row: Row) -> Shape | None:
    """The shape a row has by its fields: the first in the table whose own are all there."""
    return next((shape for shape in SHAPES.values() if shape.keys <= row.keys()), None)


def lines(record: dict[str, Any], name: str) -> bytes:
    """A record's lines in any format but Parquet; b"" where a shape has nothing to train in it."""
    if name == JSONL:
        return dump_jsonl([record])
    rollout = msgspec.convert(record, Rollout)
    return b"".join(encode_line(row) + b"\n" for row in SHAPES[name].rows(rollout))


def dump(records: Iterable[dict[str, Any]], name: str) -> bytes:
    """A whole export in any format. Invalid if it is Parquet and pyarrow is not installed."""
    if name != PARQUET:
        return b"".join(lines(record, name) for record in records)
    from perdure.rollouts.export.parquet import dump_parquet

    return dump_parquet(records)
