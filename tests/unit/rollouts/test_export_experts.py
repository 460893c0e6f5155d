"""Routed experts in the shapes of frameworks that take them: each id has its own row, as the framework's own code lines them up.

The readings are written from how each framework uses its field; none of them uses the exporters' code.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from perdure.rollouts.export.formats import SHAPES, dump, lines
from perdure.rollouts.export.verify import verify_any
from perdure.tokens.export import dump_jsonl
from perdure.tokens.trajectory import rollouts_of
from tests.unit.rollouts.test_export import GIVEN, READINGS, Trained, of_record
from tests.unit.tokens.trajectory_ledger import LAYERS, TOP_K, conversation, expert_row, routed

Record = dict[str, Any]
Row = dict[str, Any]
Rows = list[list[list[int]]]


def routed_records(upto: int = 2**31) -> list[Record]:
    ledger = routed(conversation(), upto=upto)
    return rollouts_of(ledger.segments, ledger.calls, ledger.messages, given=GIVEN)


def layered(flat: bytes) -> list[list[int]]:
    return [list(flat[at : at + TOP_K]) for at in range(0, len(flat), TOP_K)]


def true_rows(segment: Row, end: int | None = None) -> Rows:
    """Of the ids before `end` but the last of them."""
    ids = segment["token_ids"][:end]
    return [layered(expert_row(ids, at)) for at in range(len(ids) - 1)]


def of_array(value: Row) -> Rows:
    data, (count, layers, top_k) = base64.b64decode(value["data"]), value["shape"]
    assert value["dtype"] == "uint8" and len(data) == count * layers * top_k and (layers, top_k) == (LAYERS, TOP_K)
    return [layered(data[at * layers * top_k : (at + 1) * layers * top_k]) for at in range(count)]


def of_nodes(row: Row) -> list[Rows]:
    """One path after the other: a path begins with the node that has no parent."""
    paths: list[Rows] = []
    for node in row["nodes"]:
        if node["parent"] is None:
            paths.append([])
        assert node["routed_experts"]["__nd__"] is True
        assert node["routed_experts"]["shape"][0] == len(node["token_ids"])
        paths[-1] += of_array(node["routed_experts"])
    return paths


READ_EXPERTS: dict[str, Callable[[Row], Any]] = {
    "verl": lambda row: row["routed_experts"],
    "slime": lambda row: row["rollout_routed_experts"],
    "skyrl": lambda row: row["rollout_expert_indices"],
    "prime-rl": lambda row: of_array(row["routed_experts"]),
    "nemo-gym": lambda row: of_array(row["routed_experts"]),
    "verifiers": of_nodes,
}


def rows(name: str, made: list[Record]) -> list[Row]:
    return [json.loads(line) for record in made for line in lines(record, name).splitlines()]


@pytest.mark.parametrize("name", ["verl", "slime", "prime-rl"])
def test_a_sample_has_the_rows_of_its_segment(name: str) -> None:
    (made,) = routed_records()
    found = rows(name, [made])
    assert len(found) == len(made["segments"])
    for row, segment in zip(found, made["segments"], strict=True):
        wanted = true_rows(segment)
        assert READ_EXPERTS[name](row) == ([*wanted, wanted[-1]] if name == "prime-rl" else wanted)


@pytest.mark.parametrize("name", ["skyrl", "nemo-gym"])
def test_a_call_has_the_rows_of_its_whole_sequence(name: str) -> None:
    (made,) = routed_records()
    found = rows(name, [made])
    assert len(found) == len(made["calls"])
    for row, call in zip(found, made["calls"], strict=True):
        segment = made["segments"][call["segment_index"]]
        assert READ_EXPERTS[name](row) == true_rows(segment, call["start"] + call["length"])


def test_nodes_have_the_rows_of_their_ids_and_the_last_id_the_one_before() -> None:
    (made,) = routed_records()
    (row,) = rows("verifiers", [made])
    wanted = [true_rows(segment) for segment in made["segments"]]
    assert of_nodes(row) == [[*each, each[-1]] for each in wanted]


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_train_the_same_with_experts_as_without(name: str) -> None:
    made = routed_records()
    found: Trained = sum((READINGS[name](row) for row in rows(name, made)), Trained())
    assert found == of_record(made)
    data = dump(made, name)
    report = verify_any(data, against=dump_jsonl(made))
    assert report.ok, report.violations
    held = b"experts" in data or b"expert_indices" in data
    assert held == (name in READ_EXPERTS)


@pytest.mark.parametrize("name", READ_EXPERTS)
def test_a_sample_that_lacks_rows_has_none_at_all(name: str) -> None:
    """Of the first call alone they are on record: the calls that come after it have no rows of their prompts' ids."""
    (made,) = routed_records(upto=1)
    held = [b"routed_experts" in line or b"expert_indices" in line for line in lines(made, name).splitlines()]
    assert held == [True, False, False, False] if name in ("skyrl", "nemo-gym") else not any(held)


def drop_row(value: Any) -> Any:
    if isinstance(value, list):
        return value[:-1]
    count, layers, top_k = value["shape"]
    data = base64.b64decode(value["data"])[: -layers * top_k]
    return {**value, "shape": [count - 1, layers, top_k], "data": base64.b64encode(data).decode()}


def spoil(value: Any) -> Any:
    if isinstance(value, list):
        return [*value[:7], value[7][:-1], *value[8:]]
    return {**value, "data": value["data"][:-4]}


@pytest.mark.parametrize("damage", [drop_row, spoil])
@pytest.mark.parametrize("name", READ_EXPERTS)
def test_rows_that_do_not_fit_their_ids_are_found(name: str, damage: Callable[[Any], Any]) -> None:
    made = rows(name, routed_records())
    field = {"slime": "rollout_routed_experts", "skyrl": "rollout_expert_indices"}.get(name, "routed_experts")
    holder = made[0]["nodes"][1] if name == "verifiers" else made[0]
    holder[field] = damage(holder[field])
    data = b"".join(json.dumps(row).encode() + b"\n" for row in made)
    report = verify_any(data)
    assert {v.invariant for v in report.violations} == {"R1"}
    if damage is spoil and isinstance(holder[field], list):
        assert f"{field}[7]" in report.violations[0].message
