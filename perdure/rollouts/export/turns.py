"""The wire's `turns`, as letta-evals fetches them: one row a run, its calls as assistant turns, its tools' answers between.

A call that does not train is among the turns, because the next prompt holds it; its `trainable` is false.
"""

from typing import Any

from perdure.rollouts.export.samples import NotThisShape, Row, Sample, Shape, call_logprobs, floats, ints, whence
from perdure.tokens.record import TOOL, Call, Rollout


def rows(rollout: Rollout) -> list[Row]:
    made: list[Row] = []
    for run_id in rollout.run_ids:
        turns: list[Row] = []
        placed: set[int] = set()
        for call in rollout.calls:
            if call.run_id == run_id:
                turns += _answers(rollout, call, placed) if turns else []
                turns.append(_assistant(rollout, call))
        made.append({"run_id": run_id, "turns": turns, "reward": rollout.reward, **whence(rollout)})
    return made


def _assistant(rollout: Rollout, call: Call) -> Row:
    said = next((each for each in rollout.messages if each.id == call.assistant_message_id), None)
    return {
        "role": "assistant",
        "content": (said.text if said is not None else None) or "",
        "input_ids": rollout.segments[call.segment_index].token_ids[: call.start],
        "output_ids": call.token_ids,
        "output_token_logprobs": [
            [logprob, token_id, top]
            for logprob, token_id, top in zip(call_logprobs(call), call.token_ids, _tops(rollout, call), strict=True)
        ],
        "call_id": call.call_id,
        "segment_id": call.segment_id,
        "step_id": call.step_id,
        "finish_reason": call.finish.type,
        "weight_version": call.weight_versions[-1].version if call.weight_versions else None,
        "trainable": call.trainable,
    }


def _tops(rollout: Rollout, call: Call) -> list[list[tuple[float, int]] | None]:
    """Of each sampled id the likeliest instead of it as (logprob, id); None where they were not asked for."""
    segment = rollout.segments[call.segment_index]
    if segment.top_ids is None or segment.top_logprobs is None:
        return [None] * call.length
    held = slice(call.start, call.start + call.length)
    rows = zip(segment.top_logprobs[held], segment.top_ids[held], strict=True)
    return [list(zip(logprobs, ids, strict=True)) or None for logprobs, ids in rows]


def _answers(rollout: Rollout, call: Call, placed: set[int]) -> list[Row]:
    """What tools said in the prompt that this call added."""
    turns: list[Row] = []
    for _, message, role, _ in call.spans:
        if role == TOOL and message >= 0 and message not in placed:
            placed.add(message)
            said = rollout.messages[message].text or ""
            turns.append({"role": "tool", "content": said, "output_ids": None, "output_token_logprobs": None})
    return turns


def read(row: Row) -> list[Sample]:
    turns: Any = row.get("turns")
    if not isinstance(turns, list):
        raise NotThisShape("turns is not a list")
    return [_sample(str(row.get("run_id", "")), turn) for turn in turns if turn.get("output_ids")]


def _sample(run_id: str, turn: Row) -> Sample:
    prompt, made = ints(turn, "input_ids"), ints(turn, "output_ids")
    triples = turn.get("output_token_logprobs")
    if not isinstance(triples, list) or any(not isinstance(each, list) or len(each) != 3 for each in triples):
        raise NotThisShape("output_token_logprobs is not a list of [logprob, id, null]")
    notes: tuple[tuple[str, str], ...] = ()
    named = [each[1] for each in triples]
    if named != made and len(named) == len(made):
        at = next(at for at, (one, other) in enumerate(zip(named, made, strict=True)) if one != other)
        notes = (("L3", f"output_token_logprobs[{at}] is of id {named[at]}, output_ids says {made[at]}"),)
    return Sample(
        name=run_id,
        ids=prompt + made,
        mask=[0] * len(prompt) + [int(turn.get("trainable", True))] * len(made),
        logprobs=[0.0] * len(prompt) + floats({"logprobs": [each[0] for each in triples]}, "logprobs"),
        notes=notes,
    )


SHAPE = Shape(
    name="turns",
    about="turns as letta-evals reads them, one row a run",
    rows=rows,
    read=read,
    keys=frozenset({"turns"}),
)
