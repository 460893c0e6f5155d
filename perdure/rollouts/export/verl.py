"""verl's `AgentLoopOutput`: one row a segment, cut into a prompt and a response.

The response begins at the first id that trains. `extra_fields` holds what verl keeps beside its tensors; its `uid` groups the
attempts at one task, and `min_global_steps`/`max_global_steps` bound the weights that sampled the response.
`routed_experts` are there where the record has them, as lists: verl itself fills the row of the last id with zeros.
"""

from perdure.core.experts import numbers
from perdure.rollouts.export.experts import experts_of, nested_notes
from perdure.rollouts.export.samples import (
    Row,
    Sample,
    Shape,
    flags,
    floats,
    ints,
    trained_versions,
    training_segments,
    whence,
)
from perdure.tokens.record import Rollout


def rows(rollout: Rollout) -> list[Row]:
    made: list[Row] = []
    for split in training_segments(rollout):
        steps = trained_versions(rollout, split.segment)
        experts = experts_of(split.segment)
        made.append(
            {
                **({} if experts is None else {"routed_experts": numbers(experts)}),
                "prompt_ids": split.segment.token_ids[: split.prompt],
                "response_ids": split.response_ids,
                "response_mask": split.response_mask,
                "response_logprobs": split.response_logprobs,
                "reward_score": rollout.reward,
                "num_turns": len(split.calls),
                "metrics": {},
                "extra_fields": {
                    "uid": rollout.group_id or rollout.rollout_id,
                    "min_global_steps": steps[0] if steps else None,
                    "max_global_steps": steps[-1] if steps else None,
                    **whence(rollout, split.segment),
                },
            }
        )
    return made


def read(row: Row) -> list[Sample]:
    prompt, response = ints(row, "prompt_ids"), ints(row, "response_ids")
    size = len(prompt) + len(response)
    return [
        Sample(
            name=str((row.get("extra_fields") or {}).get("rollout_id", "")),
            ids=prompt + response,
            mask=[0] * len(prompt) + flags(row, "response_mask"),
            logprobs=[0.0] * len(prompt) + floats(row, "response_logprobs"),
            notes=tuple(nested_notes(row.get("routed_experts"), size - 1, size, "routed_experts")),
        )
    ]


SHAPE = Shape(
    name="verl",
    about="verl AgentLoopOutput, one a segment",
    rows=rows,
    read=read,
    keys=frozenset({"prompt_ids", "response_ids", "response_mask", "response_logprobs"}),
)
