"""Routed experts in records: a row for each id but the last, as the engine told it, and damage of every kind named."""

import base64
import copy
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perdure.core.errors import StoreError
from perdure.core.experts import keep, narrowed, unpack
from perdure.rollouts.export.parquet import dump_parquet, load_parquet
from perdure.tokens.export import dump_jsonl
from perdure.tokens.record import Rollout
from perdure.tokens.seal import seal
from perdure.tokens.trajectory import rollouts_of
from perdure.tokens.verify import verify, verify_bytes
from tests.unit.tokens.trajectory_ledger import (
    EXPERTS,
    LAYERS,
    TOP_K,
    Ledger,
    conversation,
    expert_row,
    routed,
    score,
)

Record = dict[str, Any]
WIDTH = LAYERS * TOP_K


def rollout(ledger: Ledger, **more: Any) -> Record:
    return rollouts_of(ledger.segments, ledger.calls, ledger.messages, **more)[0]


@pytest.fixture
def record() -> Record:
    return rollout(routed(conversation()))


def rows(segment: Record) -> bytes:
    return base64.b64decode(segment["routed_experts"]["data"])


def put(segment: Record, data: bytes) -> None:
    experts = segment["routed_experts"]
    experts["data"] = base64.b64encode(data).decode()
    experts["shape"] = [len(data) // WIDTH, LAYERS, TOP_K]


def resealed(record: Record) -> Record:
    return seal(msgspec.convert(record, Rollout))


def test_a_segment_has_a_row_for_every_id_but_the_last(record: Record) -> None:
    assert len(record["segments"]) == 2
    for segment in record["segments"]:
        ids, experts = segment["token_ids"], segment["routed_experts"]
        assert experts["shape"] == [len(ids) - 1, LAYERS, TOP_K] and experts["dtype"] == "uint8"
        assert experts["num_experts"] == EXPERTS
        assert rows(segment) == b"".join(expert_row(ids, at) for at in range(len(ids) - 1))
    parts = [call["routed_experts"] for call in record["calls"]]
    assert [part["start"] for part in parts] == [0, *(part["start"] + part["count"] for part in parts[:2]), 0]


def test_a_sound_record_passes_in_either_form(record: Record) -> None:
    report = verify_bytes(dump_jsonl([record]), score=score)
    assert report.ok, report.violations
    count = sum(segment["routed_experts"]["shape"][0] for segment in record["segments"])
    assert report.checked["R2"] == report.checked["R4"] == count and report.checked["R1"] and report.checked["R3"]
    assert dump_jsonl(load_parquet(dump_parquet([record]))) == dump_jsonl([record])


def test_records_of_those_who_did_not_ask_are_as_they_were() -> None:
    made = rollout(conversation())
    assert not any("routed_experts" in part for part in (*made["segments"], *made["calls"]))
    assert not {"R1", "R2", "R4"} & verify([made]).checked.keys()


def test_a_run_alone_has_the_rows_up_to_its_last_call() -> None:
    made = rollout(routed(conversation()), run_id="run-1")
    (segment,) = made["segments"]
    assert segment["routed_experts"]["shape"][0] == len(segment["token_ids"]) - 1
    assert verify([made]).ok


def test_ids_sampled_while_nobody_asked_have_no_rows() -> None:
    made = rollout(routed(conversation(), upto=1))
    first, last = made["segments"]
    end = made["calls"][0]["start"] + made["calls"][0]["length"]
    assert first["routed_experts"]["shape"][0] == end - 1 < len(first["token_ids"]) - 1
    assert "routed_experts" not in last and verify([made]).ok


def test_what_lies_beside_the_ledger_is_missed_and_held_to_it() -> None:
    ledger = routed(conversation())
    first, second = ledger.calls[0], ledger.calls[1]
    assert first.experts is not None and second.experts is not None
    bare = msgspec.structs.replace(first.experts, data=b"")
    for instead, why in (
        (msgspec.structs.replace(first, experts=bare), "the routed experts of call tokencall-0"),
        (msgspec.structs.replace(first, experts=None), "the first rows are of id"),
    ):
        with pytest.raises(StoreError, match=f"(?i){why}"):
            rollout_with(ledger, instead)
    other = msgspec.structs.replace(second.experts, start=second.experts.start + 1)
    with pytest.raises(StoreError, match="do not fit together"):
        rollout_with(ledger, msgspec.structs.replace(second, experts=other))
    assert unpack(first.experts).count == first.experts.count


def rollout_with(ledger: Ledger, call: Any) -> Record:
    calls = [call if each.id == call.id else each for each in ledger.calls]
    return rollouts_of(ledger.segments, calls, ledger.messages)[0]


# -- one id hit: (corruption, the segment and position hit)

Hit = tuple[int, int]


def change_number(at: int, by: int = 1, segment: int = 0) -> Callable[[Record], Hit]:
    def corrupt(record: Record) -> Hit:
        data = bytearray(rows(record["segments"][segment]))
        data[at * WIDTH + 3] ^= by
        put(record["segments"][segment], bytes(data))
        return segment, at

    return corrupt


def shift(record: Record) -> Hit:
    """All rows moved by one id: the first stands twice, the last is lost."""
    data = rows(record["segments"][0])
    put(record["segments"][0], data[:WIDTH] + data[:-WIDTH])
    return 0, 1


def swap(record: Record) -> Hit:
    data = rows(record["segments"][0])
    at = 40 * WIDTH
    put(
        record["segments"][0],
        data[:at] + data[at + WIDTH : at + 2 * WIDTH] + data[at : at + WIDTH] + data[at + 2 * WIDTH :],
    )
    return 0, 40


def lose_last(record: Record) -> Hit:
    segment = record["segments"][0]
    put(segment, rows(segment)[:-WIDTH])
    return 0, len(segment["token_ids"]) - 2


def lose_last_with_its_check(record: Record) -> Hit:
    hit = lose_last(record)
    record["segments"][0]["routed_experts"]["check"].pop()
    return hit


def damage_check(record: Record) -> Hit:
    record["segments"][1]["routed_experts"]["check"][12] ^= 1
    return 1, 12


def one_too_many(record: Record) -> Hit:
    segment = record["segments"][0]
    data = rows(segment)
    put(segment, data + data[: 2 * WIDTH])
    segment["routed_experts"]["check"] += [0, 0]
    return 0, len(segment["token_ids"]) - 1


ROW_HITS: dict[str, Callable[[Record], Hit]] = {
    "an expert's number": change_number(33),
    "an expert's number of the first id": change_number(0),
    "an expert's number in another segment": change_number(20, segment=1),
    "an expert that a layer does not have": change_number(50, by=0x80),
    "rows moved by one id": shift,
    "two rows swapped": swap,
    "the last row lost": lose_last,
    "the last row lost with its check value": lose_last_with_its_check,
    "a check value of a row": damage_check,
    "more rows than ids": one_too_many,
}


@pytest.mark.parametrize("name", ROW_HITS)
def test_a_damaged_row_is_named(record: Record, name: str) -> None:
    segment, at = ROW_HITS[name](record)
    bad = verify_bytes(dump_jsonl([record])).first_bad_token
    assert bad is not None and (bad.segment, bad.position) == (segment, at)
    assert bad.invariant.startswith("R") and bad.token_id == record["segments"][segment]["token_ids"][at]


def test_an_id_that_is_damaged_is_named_as_itself(record: Record) -> None:
    record["segments"][0]["token_ids"][25] ^= 1
    bad = verify([record]).first_bad_token
    assert bad is not None and (bad.invariant, bad.segment, bad.position) == ("D7", 0, 25)


RESEALED: dict[str, tuple[Callable[[Record], Any], str]] = {
    "an expert's number": (change_number(33), "R3"),
    "an expert that a layer does not have": (change_number(50, by=0x80), "R2"),
    "rows moved by one id": (shift, "R3"),
    "two rows swapped": (swap, "R3"),
    "the last row lost": (lose_last, "R3"),
    "rows of a call that brought none": (lambda r: r["calls"][1].pop("routed_experts"), "R3"),
    "a call that begins elsewhere": (lambda r: r["calls"][1]["routed_experts"].__setitem__("start", 3), "R3"),
    "rows taken away altogether": (lambda r: r["segments"][0].pop("routed_experts"), "R3"),
    "a model of another size": (
        lambda r: r["segments"][1]["routed_experts"].__setitem__("shape", other_shape(r)),
        "R1",
    ),
}


def other_shape(record: Record) -> list[int]:
    count, layers, top_k = record["segments"][1]["routed_experts"]["shape"]
    return [count, top_k, layers]


@pytest.mark.parametrize("name", RESEALED)
def test_rows_rewritten_and_sealed_again_are_found_by_the_invariants(record: Record, name: str) -> None:
    corrupt, invariant = RESEALED[name]
    corrupt(record)
    report = verify([resealed(record)])
    assert not {"D1", "D6", "D7", "R4"} & {v.invariant for v in report.violations}
    assert invariant in {v.invariant for v in report.violations}, report.violations


def test_what_a_call_says_of_its_rows_is_in_its_digest(record: Record) -> None:
    record["calls"][0]["routed_experts"]["sha256"] = "0" * 64
    assert {"D1", "D6", "R3"} <= {v.invariant for v in verify([record]).violations}


@pytest.mark.parametrize("data", ["not base64!", "AAAA", ""])
def test_data_that_is_no_array_is_found(record: Record, data: str) -> None:
    record["segments"][0]["routed_experts"]["data"] = data
    assert "R1" in {v.invariant for v in verify([record]).violations}


def test_any_changed_number_of_any_row_is_named(record: Record) -> None:
    drawn = random.Random(7)
    for _ in range(100):
        damaged = copy.deepcopy(record)
        at = drawn.randrange(len(rows(damaged["segments"][1])))
        data = bytearray(rows(damaged["segments"][1]))
        data[at] = (data[at] + drawn.randrange(1, 256)) % 256
        put(damaged["segments"][1], bytes(data))
        bad = verify([damaged]).first_bad_token
        assert bad is not None and (bad.segment, bad.position) == (1, at // WIDTH)


def test_numbers_above_255_are_kept_in_two_bytes() -> None:
    ledger = routed(conversation())
    first = ledger.calls[0]
    assert first.experts is not None
    rows_ = unpack(first.experts)
    numbers = b"".join((value + 300).to_bytes(4, "little") for value in rows_.data)
    dtype, data = narrowed(numbers)
    ledger.calls[0] = msgspec.structs.replace(
        first, experts=keep(msgspec.structs.replace(rows_, dtype=dtype, data=data, num_experts=400))
    )
    made = rollout(ledger)
    experts = made["segments"][0]["routed_experts"]
    assert experts["dtype"] == "uint16" and made["calls"][1]["routed_experts"]["dtype"] == "uint8"
    report = verify([made])
    assert report.ok, report.violations
    assert dump_jsonl(load_parquet(dump_parquet([made]))) == dump_jsonl([made])
