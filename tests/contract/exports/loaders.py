"""Reads lines of an export with the library they are meant for, and writes each row as that library has it.

Run by the Python of an environment that has the libraries and nothing of ours: `python loaders.py FORMAT < lines`. Exit status 3:
the library is not there.
"""

import base64
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

Row = dict[str, Any]


def tinker(row: Row) -> Row:
    types = importlib.import_module("tinker.types")
    datum = types.Datum(
        model_input=types.ModelInput(**row["model_input"]),
        loss_fn_inputs={name: types.TensorData(**tensor) for name, tensor in row["loss_fn_inputs"].items()},
    )
    assert datum.model_input.to_ints() == row["model_input"]["chunks"][0]["tokens"]
    return {
        "model_input": {"chunks": [{"tokens": datum.model_input.to_ints()}]},
        "loss_fn_inputs": {
            name: {"data": list(tensor.data), "shape": list(tensor.shape)}
            for name, tensor in datum.loss_fn_inputs.items()
        },
    }


def agent_lightning(row: Row) -> Row:
    return importlib.import_module("agentlightning.types.core").Triplet(**row).model_dump()


def trl(row: Row) -> Row:
    """As a row of the data set library that TRL is built on; TRL itself needs torch."""
    data = importlib.import_module("datasets").Dataset.from_list([row])
    return data[0]


def verifiers(row: Row) -> Row:
    """With every decimal: what it has read is compared, and its own files keep four. Arrays stand in base64 where the library has
    bytes; they come back as each path of nodes has them, joined."""
    for node in row["nodes"]:
        if (experts := node.get("routed_experts")) is not None:
            experts["data"] = base64.b64decode(experts["data"])
    trace = importlib.import_module("verifiers.v1.trace").Trace.model_validate(row)
    experts = [branch.routed_experts for branch in trace.branches]
    for node in trace.nodes:
        node.routed_experts = None
    dumped = trace.model_dump(mode="json", context={"float_decimals": None})
    return {**dumped, "experts": [each if each is None else each.tolist() for each in experts]}


def trl_async(row: Row) -> Row:
    """As the asynchronous GRPO trainer's collator packs its worker's sample: each term of the loss at the id it is of."""
    numpy = importlib.import_module("numpy")
    worker = importlib.import_module("trl.experimental.async_grpo.async_rollout_worker")
    trainer = importlib.import_module("trl.experimental.async_grpo.async_grpo_trainer")
    given = {name: value for name, value in row.items() if name != "source"} | {"advantage": 1.0}
    for name, kind in (("input_ids", "int64"), ("completion_mask", "int64"), ("old_log_probs", "float32")):
        given[name] = numpy.array(given[name], kind)
    packed = importlib.import_module("trl.experimental.async_grpo.packing").TreeRow()
    packed.add(asdict(worker.RolloutSample(**given)))
    batch = trainer.DataCollatorForRollout(pad_token_id=0)([[packed]])
    (ids,), (labels,) = batch["input_ids"].tolist(), batch["shift_labels"].tolist()
    found: Row = {"input_ids": ids, "completion_mask": [0] * len(ids), "old_log_probs": [0.0] * len(ids)}
    for at, logprob in zip(batch["token_index"][0].tolist(), batch["old_log_probs"][0].tolist(), strict=True):
        assert labels[at] == ids[at + 1]
        found["completion_mask"][at + 1] = 1
        found["old_log_probs"][at + 1] = logprob
    return found


def verl(row: Row) -> Row:
    """As the tensors that verl makes of an agent loop's output; it fills the rows of experts with zeros to the last id."""
    output = importlib.import_module("verl.experimental.agent_loop.agent_loop").AgentLoopOutput(**row).as_dict()
    found = {
        "prompt_ids": output["prompts"].tolist(),
        "response_ids": output["responses"].tolist(),
        "response_mask": output["response_mask"].tolist(),
        "response_logprobs": output["rollout_log_probs"].tolist(),
    }
    if "routed_experts" in output:
        rows = output["routed_experts"].tolist()
        assert len(rows) == len(found["prompt_ids"] + found["response_ids"])
        assert not any(expert for layer in rows[-1] for expert in layer)
        found["routed_experts"] = rows[:-1]
    return found


def skyrl(row: Row) -> Row:
    """As the batch that SkyRL makes of one step; it fills the rows of experts with zeros to the last id."""
    preprocess = importlib.import_module("skyrl.train.dataset.preprocess")
    experts = row.get("rollout_expert_indices")
    ids, _, _, _, masks, logprobs, routed = preprocess.convert_prompts_responses_to_batch_tensors(
        SimpleNamespace(pad_token_id=0),
        [row["prompt_token_ids"]],
        [row["response_ids"]],
        [[0.0] * len(row["response_ids"])],
        [row["loss_masks"]],
        [row["rollout_logprobs"]],
        None if experts is None else [experts],
    )
    begin = len(row["prompt_token_ids"])
    found = {
        "prompt_token_ids": ids[0].tolist()[:begin],
        "response_ids": ids[0].tolist()[begin:],
        "loss_masks": [int(value) for value in masks[0].tolist()],
        "rollout_logprobs": logprobs[0].tolist(),
    }
    return found if routed is None else {**found, "rollout_expert_indices": routed[0].tolist()[:-1]}


LOADERS: dict[str, Callable[[Row], Row]] = {
    "tinker": tinker,
    "agent-lightning": agent_lightning,
    "trl": trl,
    "verifiers": verifiers,
    "trl-async": trl_async,
    "verl": verl,
    "skyrl": skyrl,
}


def main() -> None:
    load = LOADERS[sys.argv[1]]
    try:
        for line in sys.stdin:
            sys.stdout.write(json.dumps(load(json.loads(line))) + "\n")
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error.name} is not installed\n")
        sys.exit(3)


if __name__ == "__main__":
    main()
