"""TRL's two shapes: what a `rollout_func` of GRPOTrainer returns, and the samples of its asynchronous GRPO worker.

Both are one row a segment. In the first the completion begins at the first id that trains and `env_mask` is 1 on the model's
own ids; in the second ids are not cut, and `advantage` stays for the trainer to fill in.
"""

from perdure.rollouts.export.samples import (
    NO_VERSION,
    Row,
    Sample,
    Shape,
    flags,
    floats,
    group_number,
    ints,
    logprobs_of,
    trained_versions,
    training_segments,
    whence,
)
from perdure.tokens.record import Rollout


def rows(rollout: Rollout) -> list[Row]:
    return [
        {
            "prompt_ids": split.segment.token_ids[: split.prompt],
            "completion_ids": split.response_ids,
            "logprobs": split.response_logprobs,
            "env_mask": split.response_mask,
            "reward": rollout.reward,
            **whence(rollout, split.segment),
        }
        for split in training_segments(rollout)
    ]


def read(row: Row) -> list[Sample]:
    prompt, completion = ints(row, "prompt_ids"), ints(row, "completion_ids")
    return [
        Sample(
            name=str(row.get("rollout_id", "")),
            ids=prompt + completion,
            mask=[0] * len(prompt) + flags(row, "env_mask"),
            logprobs=[0.0] * len(prompt) + floats(row, "logprobs"),
        )
    ]


def async_rows(rollout: Rollout) -> list[Row]:
    made: list[Row] = []
    for split in training_segments(rollout):
        versions = trained_versions(rollout, split.segment)
        made.append(
            {
                "prompt": [],
                "completion": [],
                "input_ids": split.segment.token_ids,
                "completion_mask": split.segment.loss_mask,
                "old_log_probs": logprobs_of(split.segment),
                "advantage": None,
                "model_version": versions[0] if versions else NO_VERSION,
                "group_id": group_number(rollout),
                "metrics": {} if rollout.reward is None else {"reward": rollout.reward},
                "source": whence(rollout, split.segment),
            }
        )
    return made


def read_async(row: Row) -> list[Sample]:
    return [
        Sample(
            name=str((row.get("source") or {}).get("rollout_id", "")),
            ids=ints(row, "input_ids"),
            mask=flags(row, "completion_mask"),
            logprobs=floats(row, "old_log_probs"),
        )
    ]


SHAPE = Shape(
    name="trl",
    about="TRL GRPOTrainer rollout_func output, one a segment",
    rows=rows,
    read=read,
    keys=frozenset({"prompt_ids", "completion_ids", "logprobs", "env_mask"}),
)
ASYNC = Shape(
    name="trl-async",
    about="TRL asynchronous GRPO RolloutSample, one a segment",
    rows=async_rows,
    read=read_async,
    keys=frozenset({"input_ids", "completion_mask", "old_log_probs"}),
)
