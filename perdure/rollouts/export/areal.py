"""AReaL's tensor dictionary: one row a segment, ready for `torch.tensor(...).unsqueeze(0)`.

`versions` is the number of the weights that sampled each id, -1 where nobody did or where their version is no number.
"""

from perdure.rollouts.export.samples import (
    Row,
    Sample,
    Shape,
    flags,
    floats,
    ints,
    logprobs_of,
    training_segments,
    versions_of,
    whence,
)
from perdure.tokens.record import Rollout


def rows(rollout: Rollout) -> list[Row]:
    return [
        {
            "input_ids": split.segment.token_ids,
            "loss_mask": split.segment.loss_mask,
            "logprobs": logprobs_of(split.segment),
            "versions": versions_of(rollout, split.segment),
            "attention_mask": [True] * len(split.segment.token_ids),
            "rewards": rollout.reward,
            "source": whence(rollout, split.segment),
        }
        for split in training_segments(rollout)
    ]


def read(row: Row) -> list[Sample]:
    ids, attention = ints(row, "input_ids"), flags(row, "attention_mask")
    notes: tuple[tuple[str, str], ...] = ()
    if len(attention) != len(ids):
        notes = (("T1", f"attention_mask has {len(attention)} entries for {len(ids)} ids"),)
    return [
        Sample(
            name=str((row.get("source") or {}).get("rollout_id", "")),
            ids=ids,
            mask=flags(row, "loss_mask"),
            logprobs=floats(row, "logprobs"),
            versions=ints(row, "versions"),
            notes=notes,
        )
    ]


SHAPE = Shape(
    name="areal",
    about="AReaL tensor dictionary, one a segment",
    rows=rows,
    read=read,
    keys=frozenset({"input_ids", "loss_mask", "logprobs", "versions", "attention_mask"}),
)
