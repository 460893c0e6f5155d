"""prime-rl's `TrainingSample`: one row a segment, all arrays of one length, no cut between prompt and completion.

`env_name` is the task's own (`metadata.env_name`), else "perdure". `advantages` stay empty for the trainer's algorithm.
`routed_experts` are there where the record has them: the last id, which has none, has the row before it again.
"""

from typing import Any

from perdure.rollouts.export.experts import array_notes, as_array, experts_of, for_every_id
from perdure.rollouts.export.samples import (
    Row,
    Sample,
    Shape,
    flags,
    floats,
    ints,
    logprobs_of,
    temperatures_of,
    training_segments,
    whence,
)
from perdure.tokens.record import Rollout, SegmentRecord

ENV_NAME = "perdure"


def rows(rollout: Rollout) -> list[Row]:
    metadata: dict[str, Any] = (rollout.task or {}).get("metadata") or {}
    return [
        {
            "token_ids": split.segment.token_ids,
            "mask": [bool(mask) for mask in split.segment.loss_mask],
            "logprobs": logprobs_of(split.segment),
            "temperatures": temperatures_of(split),
            "env_name": str(metadata.get("env_name", ENV_NAME)),
            "advantages": [],
            "reward": rollout.reward,
            "source": whence(rollout, split.segment),
            **_experts(split.segment),
        }
        for split in training_segments(rollout)
    ]


def _experts(segment: SegmentRecord) -> Row:
    experts = experts_of(segment)
    return {} if experts is None else {"routed_experts": as_array(for_every_id(experts))}


def read(row: Row) -> list[Sample]:
    ids = ints(row, "token_ids")
    temperatures = floats(row, "temperatures")
    notes: list[tuple[str, str]] = []
    if len(temperatures) != len(ids):
        notes.append(("T1", f"temperatures has {len(temperatures)} entries for {len(ids)} ids"))
    if any(value is None or not 0 <= value < 1e6 for value in temperatures):
        notes.append(("L2", "a temperature is no number from 0 up"))
    notes += array_notes(row.get("routed_experts"), len(ids), len(ids), "routed_experts")
    return [
        Sample(
            name=str((row.get("source") or {}).get("rollout_id", "")),
            ids=ids,
            mask=flags(row, "mask"),
            logprobs=floats(row, "logprobs"),
            notes=tuple(notes),
        )
    ]


SHAPE = Shape(
    name="prime-rl",
    about="prime-rl TrainingSample, one a segment",
    rows=rows,
    read=read,
    keys=frozenset({"token_ids", "mask", "logprobs", "temperatures"}),
)
