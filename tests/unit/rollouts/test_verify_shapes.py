"""A file of any format is checked: sound ones pass and train what the record trains, and each kind of damage is found by name."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from perdure.rollouts.export import FORMATS
from perdure.rollouts.export.formats import SHAPES, dump
from perdure.rollouts.export.verify import verify_any
from perdure.tokens.export import Unreadable, dump_jsonl
from perdure.tokens.trajectory import rollouts_of
from tests.unit.rollouts.test_export import GIVEN, records
from tests.unit.tokens.trajectory_ledger import conversation, score

Rows = list[dict[str, Any]]


def rows(name: str) -> Rows:
    return [json.loads(line) for line in dump(records(), name).splitlines()]


def written(made: Rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in made)


@pytest.mark.parametrize("name", FORMATS)
def test_a_sound_file_of_every_format_passes_and_trains_what_the_record_trains(name: str) -> None:
    made = records()
    report = verify_any(dump(made, name), against=dump_jsonl(made))
    assert report.violations == []
    trained = sum(sum(segment["loss_mask"]) for segment in made[0]["segments"])
    assert report.checked["D4"] == report.trainable_tokens == trained
    assert report.checked["T6"] >= trained


def test_parquet_is_rescored_like_lines() -> None:
    report = verify_any(dump(records(), "parquet"), scorer=lambda found: score)
    assert report.ok and report.logprobs is not None and report.logprobs.max == 0.0


def first(name: str, value: Any, at: int = 0) -> Callable[[Rows], None]:
    def damage(made: Rows) -> None:
        place: Any = made[at]
        *path, last = name.split(".")
        for step in path:
            place = place[int(step) if step.isdigit() else step]
        key = int(last) if last.lstrip("-").isdigit() else last
        place[key] = value(place[key]) if callable(value) else value

    return damage


def drop_last(name: str) -> Callable[[Rows], None]:
    return first(name, lambda values: values[:-1])


def again(made: Rows) -> None:
    made.append(copy.deepcopy(made[0]))


def swap(made: Rows) -> None:
    made[0], made[-1] = made[-1], made[0]


def another(made: Rows) -> None:
    """A row of another trajectory between two of one."""
    other = copy.deepcopy(made[0])
    other["trajectory_ids"]["repetition_id"] = 7
    other["is_last_step"] = True
    made.insert(1, other)


DAMAGE: list[tuple[str, str, Callable[[Rows], None], str]] = [
    ("verl", "mask shorter than the response", drop_last("response_mask"), "T1"),
    ("verl", "logprob lost", drop_last("response_logprobs"), "T1"),
    ("verl", "id lost", drop_last("response_ids"), "T1"),
    ("verl", "logprob above zero", first("response_logprobs.0", 0.5), "L2"),
    ("verl", "logprob that is none", first("response_logprobs.0", None), "L2"),
    ("verl", "an engine's filler", first("response_logprobs.0", -9999.0), "L2"),
    ("verl", "negative id", first("response_ids.0", -1), "S2"),
    ("verl", "id beyond 31 bits", first("prompt_ids.0", 2**40), "S2"),
    ("verl", "id that is text", first("response_ids.0", "5"), "T0"),
    ("verl", "mask of 2", first("response_mask.0", 2), "T0"),
    ("verl", "field lost", lambda made: made[0].pop("response_mask") and made.reverse(), "T0"),
    ("verl", "the same row twice", again, "T6"),
    ("trl", "mask shorter", drop_last("env_mask"), "T1"),
    ("trl", "logprob above zero", first("logprobs.0", 1.0), "L2"),
    ("trl-async", "mask shorter", drop_last("completion_mask"), "T1"),
    ("prime-rl", "temperatures shorter", drop_last("temperatures"), "T1"),
    ("prime-rl", "negative temperature", first("temperatures.3", -1.0), "L2"),
    ("verifiers", "parent after its child", first("nodes.1.parent", 4), "T0"),
    ("verifiers", "logprob lost", drop_last("nodes.2.logprobs"), "L1"),
    ("verifiers", "mask shorter", drop_last("nodes.0.mask"), "T1"),
    ("slime", "response length", first("response_length", 3), "T1"),
    ("slime", "mask shorter", drop_last("loss_mask"), "T1"),
    ("skyrl", "last step unmarked", first("is_last_step", False, at=-1), "T2"),
    ("skyrl", "last step too early", first("is_last_step", True), "T2"),
    ("skyrl", "rows of another trajectory between", another, "T2"),
    ("skyrl", "trajectory unnamed", first("trajectory_ids", None), "T0"),
    ("agent-lightning", "logprob lost", drop_last("response.log_probs"), "T1"),
    ("areal", "versions shorter", drop_last("versions"), "T1"),
    ("areal", "version below -1", first("versions.0", -5), "V2"),
    ("areal", "attention shorter", drop_last("attention_mask"), "T1"),
    ("nemo-gym", "id changed under its digest", first("generation_token_ids.0", 7), "D1"),
    ("nemo-gym", "cumulative length", first("cum_len", 2), "T3"),
    ("nemo-gym", "parent of another chain", first("parent_call_id", "tokencall-3", at=1), "P4"),
    ("nemo-gym", "parent that is not there", first("parent_call_id", "nobody", at=1), "P4"),
    ("tinker", "target out of step", first("loss_fn_inputs.target_tokens.data.4", 9), "P1"),
    ("tinker", "weights shorter", drop_last("loss_fn_inputs.weights.data"), "T1"),
    ("turns", "logprob of another id", first("turns.0.output_token_logprobs.2.1", 9), "L3"),
    ("turns", "logprobs shorter", drop_last("turns.0.output_token_logprobs"), "T1"),
]


@pytest.mark.parametrize(("name", "kind", "damage", "invariant"), DAMAGE, ids=[f"{d[0]}: {d[1]}" for d in DAMAGE])
def test_damage_is_found(name: str, kind: str, damage: Callable[[Rows], None], invariant: str) -> None:
    made = rows(name)
    damage(made)
    report = verify_any(written(made))
    assert invariant in {violation.invariant for violation in report.violations}, report.violations


def test_every_shape_has_its_damage_tested() -> None:
    assert {name for name, *_ in DAMAGE} == set(SHAPES)


QUIET: list[tuple[str, Callable[[Rows], None]]] = [
    ("verl", first("response_ids.3", 1)),
    ("verl", first("prompt_ids.0", 1)),
    ("trl", first("logprobs.0", -0.5)),
    ("prime-rl", first("mask.-1", False)),
    ("slime", lambda made: made.pop() and None),
    ("areal", first("input_ids.5", 1)),
    ("turns", first("turns.0.trainable", False)),
]


@pytest.mark.parametrize(("name", "damage"), QUIET)
def test_what_a_shape_cannot_show_alone_shows_against_the_record(name: str, damage: Callable[[Rows], None]) -> None:
    made = rows(name)
    damage(made)
    assert verify_any(written(made)).ok
    report = verify_any(written(made), against=dump_jsonl(records()))
    assert [violation.invariant for violation in report.violations] == ["D4"]


def test_a_bad_token_is_named() -> None:
    made = rows("areal")
    at = made[0]["loss_mask"].index(1) + 4
    made[0]["logprobs"][at] = 2.0
    bad = verify_any(written(made)).first_bad_token
    assert bad is not None
    assert (bad.invariant, bad.rollout, bad.rollout_id, bad.position) == ("L2", 1, "rollout-1", at)


@pytest.mark.parametrize("data", [b"PAR1 and no more", b'{"text": "no shape"}\n', b""])
def test_what_is_no_export_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        verify_any(data)


def test_damaged_parquet_is_found() -> None:
    """Wherever a byte is changed: unreadable, or a violation; never a sound report of other data."""
    data = dump(records(), "parquet")
    sound = verify_any(data, against=dump_jsonl(records()))
    assert sound.ok
    seen = 0
    for at in range(4, len(data) - 8, max(1, len(data) // 150)):
        damaged = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        try:
            report = verify_any(damaged, against=dump_jsonl(records()))
        except Unreadable:
            seen += 1
            continue
        if not report.ok:
            seen += 1
    assert seen > 100


# -- groups


def group(count: int, **changes: Any) -> list[dict[str, Any]]:
    import msgspec

    from perdure.tokens.record import Rollout
    from perdure.tokens.seal import seal

    made: list[dict[str, Any]] = []
    for index in range(count):
        ledger = conversation()
        segments = [
            msgspec.structs.replace(
                segment,
                id=f"{segment.id}-{index}",
                conversation_id=f"conv-{index}",
                parent_segment_id=f"{segment.parent_segment_id}-{index}" if segment.parent_segment_id else None,
            )
            for segment in ledger.segments
        ]
        calls = [
            msgspec.structs.replace(
                call, id=f"{call.id}-{index}", segment_id=f"{call.segment_id}-{index}", conversation_id=f"conv-{index}"
            )
            for call in ledger.calls
        ]
        given = msgspec.structs.replace(GIVEN, rollout_id=f"rollout-{index}", group_index=index, group_size=2)
        (record,) = rollouts_of(segments, calls, ledger.messages, given=given)
        if index == count - 1 and changes:
            record = seal(msgspec.structs.replace(msgspec.convert(record, Rollout), **changes))
        made.append(record)
    return made


def test_a_whole_group_passes_and_part_of_one_is_noted() -> None:
    report = verify_any(dump_jsonl(group(2)))
    assert report.ok and report.checked["G1"] and report.checked["G2"]
    part = verify_any(dump_jsonl(group(1)))
    assert part.ok and any("has 1 attempts here and is said to have 2" in note for note in part.notes)


@pytest.mark.parametrize(
    ("made", "invariant"),
    [
        (lambda: group(3), "G1"),
        (lambda: group(2, group_index=0), "G1"),
        (lambda: group(2, group_index=5), "G1"),
        (lambda: group(2, group_size=4), "G1"),
        (lambda: group(2, task={"id": "sums", "hash": "other"}), "G2"),
        (lambda: group(2, agent_snapshot_sha256="00" * 32), "G2"),
        (lambda: group(2, tools_sha256="00" * 32), "G2"),
        (lambda: [*group(1), *_renamed(group(1))], "C1"),
    ],
)
def test_a_group_that_is_none_is_found(made: Callable[[], list[dict[str, Any]]], invariant: str) -> None:
    report = verify_any(dump_jsonl(made()))
    assert invariant in {violation.invariant for violation in report.violations}, report.violations
    assert not {"D1", "D6", "D7"} & {violation.invariant for violation in report.violations}


def _renamed(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    import msgspec

    from perdure.tokens.record import Rollout
    from perdure.tokens.seal import seal

    return [
        seal(msgspec.structs.replace(msgspec.convert(record, Rollout), rollout_id="rollout-x", group_index=1))
        for record in made
    ]
