"""REINFORCE with a group baseline and a KL term, on the token records of rollouts: sample, score, update, push, again.

Invariant: what is trained are the ids that were sampled, under the mask they were recorded with, each against the logprob the
engine gave it. Nothing is tokenised again.
"""

import argparse
import copy
import json
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from perdure_api import Perdure, push_weights
from task import REWARD, REWARD_WEIGHT, SYSTEM, TOOL, tasks, transcript
from transformers import AutoModelForCausalLM, AutoTokenizer

CLIP = 0.2
# Adam makes whole steps of gradients far smaller than this: thousands of tokens that were never sampled would wander off
DAMPING = 1e-3
# the whole distribution: what is not sampled cannot be learned from
SAMPLING = {"temperature": 1.0, "max_output_tokens": 48, "enable_thinking": False}


class Sample(NamedTuple):
    """A segment: `ids` [T]; of `ids[at]` each was sampled, with `logprobs` by weights `versions`; the rollout's advantage."""

    ids: list[int]
    at: list[int]
    logprobs: list[float]
    versions: set[str]
    advantage: float


def samples(records: Sequence[dict[str, Any]]) -> list[Sample]:
    """Each segment with something to train on. Advantage: the rollout's reward less the mean of its group."""
    groups: dict[str, list[float]] = {}
    for record in records:
        groups.setdefault(record["group_id"], []).append(record["reward"])
    return [
        Sample(
            ids=segment["token_ids"],
            at=at,
            logprobs=[segment["logprobs"][each] for each in at],
            versions={record["versions"][segment["version"][each]] for each in at},
            advantage=record["reward"] - sum(group) / len(group),
        )
        for record in records
        if (group := groups[record["group_id"]])
        for segment in record["segments"]
        if (at := [each for each, mask in enumerate(segment["loss_mask"]) if mask])
    ]


Rows = Sequence[tuple[list[int], list[int]]]


def distributions(model: Any, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """For rows of (ids, at): logprobs [N, V] of whatever could stand in each place `at`, given all before it, and the N ids
    that do; one row after the other."""
    width = max(len(ids) for ids, _ in rows)
    padded = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])  # causal: padding behind is never seen
    states = model.model(input_ids=padded).last_hidden_state
    which = torch.tensor([row for row, (_, at) in enumerate(rows) for _ in at])
    place = torch.tensor([each for _, at in rows for each in at])
    scores = model.lm_head(states[which, place - 1])
    return torch.log_softmax(scores, dim=-1), padded[which, place]


def logprobs(model: Any, rows: Rows) -> torch.Tensor:
    """Those of the N ids themselves."""
    whole, ids = distributions(model, rows)
    return whole.gather(1, ids[:, None]).squeeze(1)


def warm_start(
    model: Any, tokenizer: Any, records: Sequence[dict[str, Any]], steps: int, rate: float, seed: int
) -> float:
    """Teach the form by imitation: recorded prompts, followed by what a demonstrator writes who guesses. The last loss."""
    prompts = [sample.ids[: sample.at[0]] for sample in samples(records)]
    draw = random.Random(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    loss = torch.tensor(0.0)
    for step in range(steps):
        rows: list[tuple[list[int], list[int]]] = []
        for prompt in draw.choices(prompts, k=8):
            ids, at = list(prompt), []
            for text, written in transcript(draw):
                piece = tokenizer.encode(text, add_special_tokens=False)
                at += range(len(ids), len(ids) + len(piece)) if written else ()
                ids += piece
            rows.append((ids, at))
        loss = -logprobs(model, rows).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slower.step()
        if step % 50 == 0:
            print(f"warm start, step {step}: loss {loss.item():.3f}", flush=True)
    return loss.item()


def update(
    model: Any, reference: Any, optimizer: torch.optim.Optimizer, batch: Sequence[Sample], passes: int, kl_weight: float
) -> dict[str, float]:
    """`passes` gradient steps on the whole batch, each token's importance ratio clipped to 1 +- CLIP. `reference`: the policy
    it began as, from which it is to stray no further than pays: by the exact KL divergence in every sampled place."""
    rows = [(sample.ids, sample.at) for sample in batch]
    advantage = torch.tensor([sample.advantage for sample in batch for _ in sample.at])
    recorded = torch.tensor([each for sample in batch for each in sample.logprobs])
    figures: dict[str, float] = {}
    with torch.no_grad():
        before, _ = distributions(reference, rows)
    for step in range(passes):
        whole, ids = distributions(model, rows)
        now = whole.gather(1, ids[:, None]).squeeze(1)
        strayed = (whole.exp() * (whole - before)).sum(dim=-1)
        ratio = torch.exp(now - recorded)
        if step == 0:  # nothing has changed since they were sampled
            figures["gap"] = (now - recorded).abs().max().item()
            figures["entropy"] = -now.mean().item()
            figures["kl"] = strayed.mean().item()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
        loss = (kl_weight * strayed - gain).sum() / len(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        now = logprobs(model, rows)
    ratio = torch.exp(now - recorded)
    figures |= {"ratio_mean": ratio.mean().item(), "ratio_min": ratio.min().item(), "ratio_max": ratio.max().item()}
    figures["ratio_clipped"] = ((ratio - 1).abs() > CLIP).float().mean().item()
    return figures


def rescored(perdure: Perdure, handle: str, model: Any, records: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Ratios of the weights served now to those that sampled, from the engine itself, and how far the trainer's are from them."""
    segments = [segment for record in records for segment in perdure.rescore(record["rollout_id"], handle)]
    ratios = torch.tensor([each for segment in segments for each in segment["log_ratios"]]).exp()
    by_id = {segment["segment_id"]: segment["token_ids"] for record in records for segment in record["segments"]}
    with torch.no_grad():
        own = logprobs(model, [(by_id[segment["segment_id"]], segment["positions"]) for segment in segments])
    engine = torch.tensor([each for segment in segments for each in segment["logprobs"]])
    return {
        "rescored_tokens": len(ratios),
        "rescored_ratio_mean": ratios.mean().item(),
        "rescored_ratio_min": ratios.min().item(),
        "rescored_ratio_max": ratios.max().item(),
        "rescored_gap": (own - engine).abs().max().item(),
    }


def main() -> None:
    said = argparse.ArgumentParser(description=__doc__)
    said.add_argument("--perdure", default="http://127.0.0.1:8283")
    said.add_argument("--sglang", default="http://127.0.0.1:30000")
    said.add_argument("--model", type=Path, required=True, help="the folder SGLang was started with")
    said.add_argument("--out", type=Path, required=True, help="for the log, the weights and the last rollouts")
    said.add_argument("--iterations", type=int, default=24)
    said.add_argument("--group", type=int, default=16, help="rollouts a task")
    said.add_argument("--passes", type=int, default=2, help="gradient steps on each batch")
    said.add_argument("--rate", type=float, default=1.5e-3)
    said.add_argument("--kl", type=float, default=0.1, help="weight of the divergence from the policy it began as")
    said.add_argument("--seed", type=int, default=1, help="of what the warm start imitates")
    said.add_argument("--warm-steps", type=int, default=300)
    said.add_argument("--warm-rate", type=float, default=5e-3)
    train(said.parse_args())


def train(asked: argparse.Namespace) -> None:
    torch.manual_seed(asked.seed)
    asked.out.mkdir(parents=True, exist_ok=True)
    perdure = Perdure(asked.perdure)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    handle = f"sglang/{asked.model.name}"
    agent_id = perdure.agent(handle, SYSTEM, TOOL)
    job = {
        "agent_id": agent_id,
        "tasks": tasks(),
        "group_size": asked.group,
        "max_concurrency": 64,
        "max_steps": 3,
        "model_settings": SAMPLING,
        "rewards": [{"name": "task", "source_code": REWARD, "weight": REWARD_WEIGHT}],
    }

    def push(version: int) -> None:
        folder = asked.out / "weights" / asked.model.name
        model.save_pretrained(folder)
        push_weights(asked.sglang, folder, str(version))

    began = time.monotonic()
    push(0)
    untrained = read(perdure.roll_out(**{**job, "group_size": 4}))
    loss = warm_start(model, tokenizer, untrained, asked.warm_steps, asked.warm_rate, asked.seed)
    print(f"warm start: loss {loss:.3f} after {time.monotonic() - began:.0f} s", flush=True)
    reference = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=asked.rate, eps=DAMPING)
    push(1)
    began = time.monotonic()
    with (asked.out / "log.jsonl").open("w") as log:
        for iteration in range(1, asked.iterations + 1):
            clock = Clock()
            records = read(perdure.roll_out(**job))
            clock.lap("roll_out")
            figures = update(model, reference, optimizer, samples(records), asked.passes, asked.kl)
            clock.lap("update")
            push(iteration + 1)
            clock.lap("push")
            figures |= rescored(perdure, handle, model, records[:: asked.group])
            clock.lap("rescore")
            entry = {"iteration": iteration, **seen(records), **figures, "seconds": clock.laps}
            entry |= {"elapsed": time.monotonic() - began, "trainer_cpu": time.process_time()}
            log.write(json.dumps(entry) + "\n")
            log.flush()
            print("iteration {iteration}: reward {reward:.2f} by weights {versions}".format(**entry), flush=True)
    last = perdure.roll_out(**job)
    (asked.out / "last.jsonl").write_bytes(last)
    print("afterwards: reward {reward:.2f} by weights {versions}".format(**seen(read(last))))


class Clock:
    """Seconds from one lap to the next."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now


def read(lines: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def seen(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What an iteration's records say: the weights that sampled them, how much there is, the mean rewards."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    named = {
        name: mean([each["value"] for record in records for each in record["rewards"] if each["name"] == name])
        for name in ("queue", "answer")
    }
    batch = samples(records)
    return {
        "versions": sorted(set().union(*(sample.versions for sample in batch))),
        "rollouts": len(records),
        "tokens": sum(len(sample.at) for sample in batch),
        "reward": mean([record["reward"] for record in records]),
        **named,
    }


if __name__ == "__main__":
    main()
