"""Tinker's `Datum`: one row a segment, its inputs the ids but the last, its targets the ids but the first.

Weights and logprobs belong to the target they stand beside. `metadata` is ours: `Datum` takes the other two.
"""

from typing import Any

from perdure.rollouts.export.samples import (
    NotThisShape,
    Row,
    Sample,
    Shape,
    flags,
    floats,
    ints,
    logprobs_of,
    training_segments,
    whence,
)
from perdure.tokens.record import Rollout


def rows(rollout: Rollout) -> list[Row]:
    made: list[Row] = []
    for split in training_segments(rollout):
        segment = split.segment
        inputs = {
            "target_tokens": _tensor(segment.token_ids[1:], "int64"),
            "weights": _tensor([float(mask) for mask in segment.loss_mask[1:]], "float32"),
            "logprobs": _tensor(logprobs_of(segment)[1:], "float32"),
        }
        if segment.advantages is not None:
            inputs["advantages"] = _tensor(segment.advantages[1:], "float32")
        made.append(
            {
                "model_input": {"chunks": [{"type": "encoded_text", "tokens": segment.token_ids[:-1]}]},
                "loss_fn_inputs": inputs,
                "metadata": {"reward": rollout.reward, **whence(rollout, segment)},
            }
        )
    return made


def _tensor(data: list[Any], dtype: str) -> Row:
    return {"data": data, "dtype": dtype, "shape": [len(data)]}


def read(row: Row) -> list[Sample]:
    chunks = (row.get("model_input") or {}).get("chunks")
    if not isinstance(chunks, list):
        raise NotThisShape("model_input.chunks is not a list")
    inputs = [token_id for chunk in chunks for token_id in ints(chunk, "tokens")]
    targets = ints(row, "loss_fn_inputs", "target_tokens", "data")
    notes: list[tuple[str, str]] = []
    if len(inputs) != len(targets):
        notes.append(("T1", f"model_input has {len(inputs)} ids, target_tokens {len(targets)}"))
    elif inputs[1:] != targets[:-1]:
        at = next(at for at, (one, other) in enumerate(zip(inputs[1:], targets, strict=False)) if one != other)
        notes.append(("P1", f"target_tokens[{at}] is {targets[at]}, the input after it {inputs[at + 1]}"))
    return [
        Sample(
            name=str((row.get("metadata") or {}).get("rollout_id", "")),
            ids=inputs[:1] + targets,
            mask=[0, *flags(row, "loss_fn_inputs", "weights", "data")],
            logprobs=[0.0, *floats(row, "loss_fn_inputs", "logprobs", "data")],
            notes=tuple(notes),
        )
    ]


SHAPE = Shape(
    name="tinker",
    about="Tinker Datum, one a segment",
    rows=rows,
    read=read,
    keys=frozenset({"model_input", "loss_fn_inputs"}),
)
