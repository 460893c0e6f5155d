"""Reads lines of an export with the library they are meant for, and writes each row as that library has it.

Run by the Python of an environment that has the libraries and nothing of ours: `python loaders.py FORMAT < lines`. Exit status 3:
the library is not there.
"""

import base64
import importlib
import json
import sys
from collections.abc import Callable
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


LOADERS: dict[str, Callable[[Row], Row]] = {
    "tinker": tinker,
    "agent-lightning": agent_lightning,
    "trl": trl,
    "verifiers": verifiers,
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
