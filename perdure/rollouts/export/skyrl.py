"""SkyRL's step-wise `GeneratorOutput`: one row a call, each field one entry of the list of that name.

The rows of a rollout stand together; `is_last_step` marks the last, which carries the reward. `rollout_expert_indices` are
there where the record has them, of the whole sequence of the call but its last id.
"""

from perdure.core.experts import numbers
from perdure.rollouts.export.experts import experts_before, nested_notes
from perdure.rollouts.export.samples import (
    NotThisShape,
    Row,
    Sample,
    Shape,
    call_logprobs,
    flags,
    floats,
    ints,
    training_calls,
    whence,
)
from perdure.tokens.record import Rollout


def rows(rollout: Rollout) -> list[Row]:
    calls = list(training_calls(rollout))
    made: list[Row] = []
    for at, (call, prompt) in enumerate(calls):
        is_last = at == len(calls) - 1
        experts = experts_before(rollout.segments[call.segment_index], call.start + call.length)
        made.append(
            {
                "prompt_token_ids": prompt,
                "response_ids": call.token_ids,
                "rewards": rollout.reward if is_last or rollout.reward is None else 0.0,
                "loss_masks": [1] * call.length,
                "stop_reasons": call.finish.type,
                "rollout_logprobs": call_logprobs(call),
                "trajectory_ids": {
                    "instance_id": rollout.group_id or rollout.rollout_id,
                    "repetition_id": rollout.group_index or 0,
                },
                "is_last_step": is_last,
                "env_extras": {**whence(rollout), "call_id": call.call_id, "segment_id": call.segment_id},
                **({} if experts is None else {"rollout_expert_indices": numbers(experts)}),
            }
        )
    return made


def read(row: Row) -> list[Sample]:
    prompt, response = ints(row, "prompt_token_ids"), ints(row, "response_ids")
    size = len(prompt) + len(response)
    trajectory = row.get("trajectory_ids")
    if not isinstance(trajectory, dict) or {"instance_id", "repetition_id"} - trajectory.keys():
        raise NotThisShape("trajectory_ids has no instance_id and repetition_id")
    if not isinstance(row.get("is_last_step"), bool):
        raise NotThisShape(f"is_last_step is {row.get('is_last_step')!r}, neither true nor false")
    return [
        Sample(
            name=f"{trajectory['instance_id']}_{trajectory['repetition_id']}",
            ids=prompt + response,
            mask=[0] * len(prompt) + flags(row, "loss_masks"),
            logprobs=[0.0] * len(prompt) + floats(row, "rollout_logprobs"),
            notes=tuple(nested_notes(row.get("rollout_expert_indices"), size - 1, size, "rollout_expert_indices")),
        )
    ]


def whole(rows: list[Row]) -> list[tuple[int, str, str]]:
    """A trajectory's rows stand together and end with their last step."""
    wrong: list[tuple[int, str, str]] = []
    seen: set[tuple[str, int]] = set()
    for number, row in enumerate(rows, 1):
        own = _trajectory(row)
        following = _trajectory(rows[number]) if number < len(rows) else None
        if own in seen:
            wrong.append((number, "T2", f"the rows of trajectory {own[0]}_{own[1]} do not stand together"))
        if row["is_last_step"] != (own != following):
            message = "is_last_step is true and more of its trajectory follows"
            if not row["is_last_step"]:
                message = "is the last of its trajectory and is_last_step is false"
            wrong.append((number, "T2", message))
        if own != following:
            seen.add(own)
    return wrong


def _trajectory(row: Row) -> tuple[str, int]:
    return row["trajectory_ids"]["instance_id"], row["trajectory_ids"]["repetition_id"]


SHAPE = Shape(
    name="skyrl",
    about="SkyRL step-wise GeneratorOutput, one row a call",
    rows=rows,
    read=read,
    keys=frozenset({"prompt_token_ids", "response_ids", "loss_masks", "rollout_logprobs", "is_last_step"}),
    whole=whole,
)
