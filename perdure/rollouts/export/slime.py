"""slime's `Sample.from_dict`: one row a segment; mask and logprobs cover its last `response_length` ids.

slime counts a group of attempts by `group_index` and an attempt by `index`: here the group's number and its `group_index`.
`weight_versions` has one entry a call, as slime's own rollouts have. `rollout_routed_experts` are there where the record has
them: lists of all ids' rows but the last's, which slime wants as an int32 array.
"""

from perdure.core.experts import numbers
from perdure.rollouts.export.experts import experts_of, nested_notes
from perdure.rollouts.export.samples import (
    Row,
    Sample,
    Shape,
    flags,
    floats,
    group_number,
    ints,
    training_segments,
    whence,
)
from perdure.tokens.record import Rollout, SegmentRecord

STATUS = {"completed": "completed", "truncated": "truncated", "aborted": "aborted"}


def rows(rollout: Rollout) -> list[Row]:
    return [
        {
            "group_index": group_number(rollout),
            "index": rollout.group_index,
            "rollout_id": rollout.rollout_id,
            "prompt": "",
            "tokens": split.segment.token_ids,
            "response": "",
            "response_length": split.response,
            "reward": rollout.reward,
            "loss_mask": split.response_mask,
            "rollout_log_probs": split.response_logprobs,
            "weight_versions": [call.weight_versions[-1].version for call in split.calls if call.weight_versions],
            "status": STATUS.get(rollout.status, "failed"),
            "metadata": whence(rollout, split.segment),
            **_experts(split.segment),
        }
        for split in training_segments(rollout)
    ]


def _experts(segment: SegmentRecord) -> Row:
    experts = experts_of(segment)
    return {} if experts is None else {"rollout_routed_experts": numbers(experts)}


def read(row: Row) -> list[Sample]:
    ids, mask, logprobs = ints(row, "tokens"), flags(row, "loss_mask"), floats(row, "rollout_log_probs")
    length = row.get("response_length")
    notes: tuple[tuple[str, str], ...] = ()
    if length != len(mask) or len(mask) > len(ids):
        notes = (("T1", f"response_length is {length}; the mask has {len(mask)} entries, the sample {len(ids)} ids"),)
    notes += tuple(
        nested_notes(row.get("rollout_routed_experts"), len(ids) - 1, len(ids) - 1, "rollout_routed_experts")
    )
    prompt = max(len(ids) - len(mask), 0)
    return [
        Sample(
            name=str(row.get("rollout_id", "")),
            ids=ids,
            mask=[0] * prompt + mask,
            logprobs=[0.0] * (len(ids) - len(logprobs)) + logprobs,
            notes=notes,
        )
    ]


SHAPE = Shape(
    name="slime",
    about="slime Sample, one a segment",
    rows=rows,
    read=read,
    keys=frozenset({"tokens", "response_length", "loss_mask", "rollout_log_probs"}),
)
