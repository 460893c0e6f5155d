"""Agent Lightning's `Triplet`: one row a call, ids in `prompt` and `response`; the rollout's reward is on its last."""

from perdure.rollouts.export.samples import (
    Row,
    Sample,
    Shape,
    call_logprobs,
    floats,
    ints,
    trainer_version,
    training_calls,
    whence,
)
from perdure.tokens.record import UNKNOWN_VERSION, Rollout


def rows(rollout: Rollout) -> list[Row]:
    calls = list(training_calls(rollout))
    made: list[Row] = []
    for at, (call, prompt) in enumerate(calls):
        version = call.weight_versions[-1].version if call.weight_versions else UNKNOWN_VERSION
        made.append(
            {
                "prompt": {"token_ids": prompt},
                "response": {"token_ids": call.token_ids, "log_probs": call_logprobs(call)},
                "reward": rollout.reward if at == len(calls) - 1 else None,
                "metadata": {
                    "model_version": trainer_version(version),
                    "weight_version": version,
                    "call_id": call.call_id,
                    "segment_id": call.segment_id,
                    **whence(rollout),
                },
            }
        )
    return made


def read(row: Row) -> list[Sample]:
    prompt, response = ints(row, "prompt", "token_ids"), ints(row, "response", "token_ids")
    return [
        Sample(
            name=str((row.get("metadata") or {}).get("rollout_id", "")),
            ids=prompt + response,
            mask=[0] * len(prompt) + [1] * len(response),
            logprobs=[0.0] * len(prompt) + floats(row, "response", "log_probs"),
        )
    ]


SHAPE = Shape(
    name="agent-lightning",
    about="Agent Lightning Triplet, one a call",
    rows=rows,
    read=read,
    keys=frozenset({"prompt", "response", "reward", "metadata"}),
)
