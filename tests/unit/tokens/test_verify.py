"""Verification catches what it says it catches: corruptions of every kind, each named, and no false alarm.

A corruption is seeded twice where it can be: as damage (the seals stay as they were) and sealed again, as by somebody who
rewrites a record: then the invariants alone must find it.
"""

import copy
import random
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perdure.tokens.export import Unreadable, dump_jsonl, load_jsonl, locate
from perdure.tokens.record import ARRAYS, Rollout
from perdure.tokens.seal import seal
from perdure.tokens.trajectory import rollouts_of
from perdure.tokens.verify import verify, verify_bytes
from perdure.tokens.verify_calls import says_call
from tests.unit.tokens.trajectory_ledger import END, START, TOKENIZER, conversation, score

Record = dict[str, Any]


@pytest.fixture
def record() -> Record:
    ledger = conversation()
    return rollouts_of(ledger.segments, ledger.calls, ledger.messages)[0]


def sampled(record: Record, call: int = 2, offset: int = 1) -> tuple[dict[str, Any], int]:
    """The segment and position of a sampled token."""
    entry = record["calls"][call]
    return record["segments"][entry["segment_index"]], entry["start"] + offset


def resealed(record: Record) -> Record:
    return seal(msgspec.convert(record, Rollout))


def test_a_sound_record_passes_and_says_what_was_proved(record: Record) -> None:
    report = verify_bytes(dump_jsonl([record]), tokenizer=TOKENIZER, score=score)
    assert report.violations == []
    assert report.ok and report.drift == 0 and report.first_bad_token is None
    assert (report.rollouts, report.segments, report.calls) == (1, 2, 4)
    assert report.tokens == sum(len(s["token_ids"]) for s in record["segments"])
    assert report.trainable_tokens == report.sampled_tokens == sum(c["length"] for c in record["calls"])
    assert report.logprobs is not None
    assert (report.logprobs.tokens, report.logprobs.max) == (report.sampled_tokens, 0.0)
    unexercised = {"G3", "F5"}
    proved = set(report.checked) | unexercised
    assert {"T1", "T2", "T3", "T4", "T5", "T6", "T7", "P1", "P2", "P3", "P4", "P5", "L1", "L2", "L3", "L4"} <= proved
    assert {"L5", "F1", "F2", "F4", "V1", "V2", "S1", "S2", "S4", "D1", "D3", "D6", "D7", "X1", "X3", "X4"} <= proved


# -- one token hit: (corruption, the segment and position hit)

Hit = tuple[int, int]


def change(
    name: str, call: int = 2, offset: int = 1, by: Callable[[Any], Any] = lambda v: v + 1
) -> Callable[[Record], Hit]:
    def corrupt(record: Record) -> Hit:
        segment, at = sampled(record, call, offset)
        segment[name][at] = by(segment[name][at])
        return segment["index"], at

    return corrupt


def change_prompt(
    name: str, at: int, by: Callable[[Any], Any] = lambda v: v + 1, segment: int = 0
) -> Callable[[Record], Hit]:
    def corrupt(record: Record) -> Hit:
        values = record["segments"][segment][name]
        values[at] = by(values[at])
        return segment, at

    return corrupt


def change_copy(name: str, call: int, offset: int, by: Callable[[Any], Any]) -> Callable[[Record], Hit]:
    def corrupt(record: Record) -> Hit:
        entry = record["calls"][call]
        entry[name][offset] = by(entry[name][offset])
        return entry["segment_index"], entry["start"] + offset

    return corrupt


def drop(name: str, at: int) -> Callable[[Record], Hit]:
    def corrupt(record: Record) -> Hit:
        del record["segments"][0][name][at]
        return 0, at

    return corrupt


def drop_last_zero(record: Record) -> Hit:
    """Of equal entries in a row it is the last whose loss shows."""
    at = record["calls"][0]["start"] - 1
    return drop("loss_mask", at)(record)


def drop_everywhere(record: Record) -> Hit:
    for name in ARRAYS:
        del record["segments"][0][name][30]
    return 0, 30


def swap_neighbours(record: Record) -> Hit:
    ids = record["segments"][0]["token_ids"]
    ids[14], ids[15] = ids[15], ids[14]
    return 0, 14


TOKEN_HITS: dict[str, Callable[[Record], Hit]] = {
    "sampled id": change("token_ids"),
    "sampled id of another call": change("token_ids", call=0, offset=7, by=lambda v: v ^ 1),
    "prompt id": change_prompt("token_ids", 17),
    "first id of all": change_prompt("token_ids", 0),
    "id in the shared prefix of the child": change_prompt("token_ids", 20, segment=1),
    "id made negative": change("token_ids", by=lambda v: -v),
    "id outside the vocabulary": change("token_ids", by=lambda v: v + 1000),
    "id beyond 32 bits": change("token_ids", by=lambda v: v + 2**40),
    "id turned into text": change("token_ids", by=str),
    "id turned into a fraction": change("token_ids", by=lambda v: v + 0.5),
    "logprob": change("logprobs", by=lambda v: v - 0.5),
    "logprob's last bit": change("logprobs", by=lambda v: v * (1 + 2**-23)),
    "logprob's double bit below float32": change("logprobs", by=lambda v: v * (1 + 2**-50)),
    "logprob above zero": change("logprobs", by=lambda v: -v),
    "logprob missing": change("logprobs", by=lambda v: None),
    "logprob on a prompt id": change_prompt("logprobs", 9, by=lambda v: -0.25),
    "mask taken off a sampled id": change("loss_mask", by=lambda v: 0),
    "mask put on a prompt id": change_prompt("loss_mask", 12, by=lambda v: 1),
    "mask that is neither 0 nor 1": change("loss_mask", by=lambda v: 2),
    "call of another token": change("call_index", by=lambda v: v - 1),
    "call on a prompt id": change_prompt("call_index", 5, by=lambda v: 0),
    "message of a token": change_prompt("message_index", 14, by=lambda v: v + 1),
    "role of a token": change_prompt("role", 14, by=lambda v: 3),
    "scaffold said to be content": change_prompt("is_content", 0, by=lambda v: 1),
    "version of a token": change("version", by=lambda v: 0),
    "check value": change_prompt("check", 33),
    "check value of the last token": change_prompt("check", -1),
    "the call's copy of an id": change_copy("token_ids", 1, 3, lambda v: v + 1),
    "the call's copy of a logprob": change_copy("logprobs", 1, 3, lambda v: v - 0.125),
    "id lost from one array": drop("token_ids", 40),
    "logprob lost": drop("logprobs", 55),
    "mask entry lost": drop_last_zero,
    "a whole token lost": drop_everywhere,
    "two ids swapped": swap_neighbours,
}


@pytest.mark.parametrize("name", TOKEN_HITS)
def test_a_damaged_token_is_named(record: Record, name: str) -> None:
    segment, at = TOKEN_HITS[name](record)
    if at < 0:
        at += len(record["segments"][segment]["token_ids"])
    report = verify_bytes(dump_jsonl([record]))
    assert not report.ok
    bad = report.first_bad_token
    assert bad is not None, report.violations
    assert (bad.segment, bad.position) == (segment, at), report.violations
    owner = next(
        c
        for c in record["calls"]
        if c["segment_index"] == segment and c["delta_start"] <= at < c["start"] + c["length"]
    )
    assert bad.call_id == owner["call_id"]
    assert bad.invariant


RESEALABLE = {
    # changed prompt ids that no call repeats and no parent shares are what the record says; only an engine can tell
    "sampled id": "L3",
    "sampled id of another call": "L3",
    "id in the shared prefix of the child": "P4",
    "id outside the vocabulary": "S2",
    "logprob": "L3",
    "logprob above zero": "L3",
    "logprob on a prompt id": "L4",
    "mask taken off a sampled id": "T4",
    "mask put on a prompt id": "T4",
    "call of another token": "T5",
    "call on a prompt id": "T5",
    "message of a token": "T8",
    "role of a token": "T8",
    "scaffold said to be content": "T8",
    "version of a token": "V2",
    "the call's copy of an id": "L3",
    "the call's copy of a logprob": "L3",
}


@pytest.mark.parametrize("name", RESEALABLE)
def test_a_token_rewritten_and_sealed_again_is_found_by_the_invariants(record: Record, name: str) -> None:
    segment, at = TOKEN_HITS[name](record)
    report = verify([resealed(record)])
    assert not {"D1", "D6", "D7"} & {v.invariant for v in report.violations}
    assert RESEALABLE[name] in {v.invariant for v in report.violations if (v.segment, v.position) == (segment, at)}
    bad = report.first_bad_token
    assert bad is not None and (bad.segment, bad.position) == (segment, at)


def test_the_former_id_is_told(record: Record) -> None:
    segment, at = sampled(record)
    was = segment["token_ids"][at]
    segment["token_ids"][at] = was + 5
    report = verify([record])
    assert report.first_bad_token is not None
    assert report.first_bad_token.message == f"token_ids is {was + 5} and was {was} when the record was written"


def test_the_former_prompt_id_is_found_by_trying(record: Record) -> None:
    was = record["segments"][0]["token_ids"][17]
    record["segments"][0]["token_ids"][17] = 299
    bad = verify([record]).first_bad_token
    assert bad is not None and bad.message.startswith(f"token_ids is 299 and was {was}")


# -- not one token: (corruption, invariant that must be among the violations); all sealed again


def call_field(call: int, name: str, value: Any) -> Callable[[Record], None]:
    return lambda record: record["calls"][call].__setitem__(name, value)


def segment_field(segment: int, name: str, value: Any) -> Callable[[Record], None]:
    return lambda record: record["segments"][segment].__setitem__(name, value)


def shift_call(record: Record) -> None:
    record["calls"][1]["start"] += 1
    record["calls"][1]["prompt_len"] += 1


def train_twice(record: Record) -> None:
    child = record["segments"][1]
    at = next(i for i, call in enumerate(child["call_index"]) if call >= 0)
    child["loss_mask"][at] = 1


def cut_tail(record: Record) -> None:
    for name in ARRAYS:
        del record["segments"][1][name][-1]


def append_unseen(record: Record) -> None:
    segment = record["segments"][1]
    for name, value in zip(ARRAYS, (65, 0, 0.0, -1, -1, 0, 0, -1, 0), strict=True):
        segment[name].append(value)


def swap_calls(record: Record) -> None:
    calls = record["calls"]
    calls[1], calls[2] = calls[2], calls[1]
    calls[1]["index"], calls[2]["index"] = 1, 2


def control_token_typed(record: Record) -> None:
    segment = record["segments"][0]
    at = segment["role"].index(2)
    at += segment["is_content"][at:].index(1)
    segment["token_ids"][at] = START


def stop_in_the_middle(record: Record) -> None:
    segment, at = sampled(record, 0, 10)
    segment["token_ids"][at] = record["calls"][0]["token_ids"][10] = END


def wrong_reward(record: Record) -> None:
    record["rewards"] = [{"name": "judge", "value": 1.0, "weight": 0.5}]
    record["reward"] = 0.75


def orphan_reward(record: Record) -> None:
    record["rewards"] = [{"name": "judge", "value": 1.0, "scope": "call", "target_id": "tokencall-99"}]
    record["reward"] = 1.0


def own_judge(record: Record) -> None:
    call = record["calls"][0]
    record["rewards"] = [{"name": "judge", "value": 1.0, "source": call["run_id"]}]
    record["reward"] = 1.0


def greedy_but_not_the_likeliest(record: Record) -> None:
    segment, at = sampled(record, 2, 1)
    size = len(segment["token_ids"])
    record["calls"][2]["sampling"] = {"temperature": 0}
    segment["top_ids"] = [[1]] * size
    segment["top_logprobs"] = [[-100.0]] * size
    segment["top_logprobs"][at] = [segment["logprobs"][at] + 0.001]


def other_text(record: Record) -> None:
    segment, at = sampled(record, 2, 0)
    segment["token_ids"][at] = record["calls"][2]["token_ids"][0] = ord("N")


def filler(record: Record) -> None:
    segment, at = sampled(record, 2, 0)
    segment["logprobs"][at] = record["calls"][2]["logprobs"][0] = -9999.0


def synthesized_trained(record: Record) -> None:
    call = record["calls"][2]
    call["synthesized"] = [{"pos": call["start"], "len": 1, "why": "closed"}]


def in_two_attempts(change: Callable[[Any], object]) -> Callable[[Record], None]:
    """The last call, as one that was broken off after three ids; `change` is done to its second attempt."""

    def corrupt(record: Record) -> None:
        call = record["calls"][3]
        parts = [(0, 3, "abort"), (3, call["length"], "stop")]
        call["attempts"] = [
            {
                "start": begin,
                "length": end - begin,
                "token_ids": call["token_ids"][begin:end],
                "finish": {"type": kind},
                "weight_versions": [{"version": "8", "start": 0, "end": end - begin}],
            }
            for begin, end, kind in parts
        ]
        change(call["attempts"])

    return corrupt


def test_a_call_in_two_attempts_passes(record: Record) -> None:
    in_two_attempts(lambda attempts: None)(record)
    report = verify([resealed(record)], tokenizer=TOKENIZER, score=score)
    assert report.ok and report.checked["F5"], report.violations


RESEALED: dict[str, tuple[Callable[[Record], None], str]] = {
    "call moved by one": (shift_call, "P1"),
    "call longer than its ids": (call_field(3, "length", 12), "T2"),
    "prompt length wrong": (call_field(1, "prompt_len", 5), "T3"),
    "call overlaps the one before": (call_field(1, "delta_start", 3), "T2"),
    "shared token trained twice": (train_twice, "T4"),
    "segment cut short": (cut_tail, "T2"),
    "ids appended after the last call": (append_unseen, "P2"),
    "calls in another order": (swap_calls, "T2"),
    "call said to be untrainable": (call_field(0, "trainable", False), "T7"),
    "parent offset too small": (segment_field(1, "parent_offset", 10), "P3"),
    "parent offset too large": (segment_field(1, "parent_offset", 90), "P4"),
    "cause denied": (segment_field(1, "cause", "root"), "P3"),
    "segment begun after its own call": (segment_field(1, "created_at", 10**15), "P3"),
    "prompt rebuilt within a segment": (call_field(2, "bridge", "fallback"), "P5"),
    "stop without its token": (call_field(0, "finish", {"type": "stop", "matched": START, "raw": None}), "F1"),
    "more than was asked for": (call_field(0, "sampling", {"max_new_tokens": 3}), "F2"),
    "aborted call trained": (call_field(1, "finish", {"type": "abort", "matched": None, "raw": None}), "F3"),
    "stop id in the middle": (stop_in_the_middle, "F4"),
    "versions with a gap": (call_field(3, "weight_versions", [{"version": "8", "start": 1, "end": 9}]), "V1"),
    "version that comes back": (
        call_field(
            3,
            "weight_versions",
            [{"version": v, "start": s, "end": e} for v, s, e in (("8", 0, 3), ("7", 3, 6), ("8", 6, 9))],
        ),
        "V1",
    ),
    "control token in a user's words": (control_token_typed, "S1"),
    "engine's filler for a logprob": (filler, "L2"),
    "synthesized id that is trained": (synthesized_trained, "S4"),
    "text other than was shown": (other_text, "X1"),
    "tool call other than was executed": (
        lambda r: r["messages"][2].__setitem__("tool_calls", [["call-1", "f", '{"x": 2}']]),
        "X3",
    ),
    "message other than was rendered": (lambda r: r["messages"][1].__setitem__("text", "What is g?"), "X4"),
    "reward that does not add up": (wrong_reward, "G3"),
    "reward for nobody": (orphan_reward, "G3"),
    "reward by a run that is trained": (own_judge, "G4"),
    "greedy call that did not take the likeliest id": (greedy_but_not_the_likeliest, "L6"),
    "another tokenizer": (lambda r: r["tokenizer"].__setitem__("sha256", "ef" * 32), "S2"),
    "attempt with another id": (in_two_attempts(lambda a: a[1]["token_ids"].__setitem__(0, 65)), "F5"),
    "attempt that is lost": (in_two_attempts(lambda a: a.pop()), "F5"),
    "attempts the other way round": (in_two_attempts(lambda a: a.reverse()), "F5"),
    "attempt after one that had ended": (in_two_attempts(lambda a: a[0].__setitem__("finish", {"type": "stop"})), "F5"),
    "attempt whose versions have a gap": (in_two_attempts(lambda a: a[1]["weight_versions"].pop()), "F5"),
    "incomplete yet trained": (lambda r: r.__setitem__("status", "incomplete"), "D2"),
}


@pytest.mark.parametrize("name", RESEALED)
def test_a_record_that_contradicts_itself_is_found_though_sealed_again(record: Record, name: str) -> None:
    corrupt, invariant = RESEALED[name]
    corrupt(record)
    report = verify([resealed(record)], tokenizer=TOKENIZER)
    assert not {"D1", "D6", "D7"} & {v.invariant for v in report.violations}
    assert invariant in {v.invariant for v in report.violations}, report.violations


@pytest.mark.parametrize(
    ("name", "corrupt", "invariant"),
    [
        ("call digest", lambda r: r["calls"][1].__setitem__("digest", "0" * 64), "D1"),
        ("rollout digest", lambda r: r.__setitem__("digest", "0" * 64), "D1"),
        ("seal", lambda r: r.__setitem__("record_sha256", "0" * 64), "D6"),
        ("agent id", lambda r: r.__setitem__("agent_id", "agent-2"), "D6"),
        ("finish reason's own words", lambda r: r["calls"][0]["finish"].__setitem__("raw", "eos"), "D6"),
        ("unknown field", lambda r: r.__setitem__("extra", 1), "D6"),
        ("field lost", lambda r: r.pop("conversation_id"), "T0"),
        ("field of another type", lambda r: r["calls"][0].__setitem__("start", "5"), "T0"),
        ("segment lost", lambda r: r["segments"].pop(0), "T1"),
        ("call lost", lambda r: r["calls"].pop(1), "T1"),
    ],
)
def test_damage_outside_the_tokens_is_found(
    record: Record, name: str, corrupt: Callable[[Record], None], invariant: str
) -> None:
    corrupt(record)
    assert invariant in {v.invariant for v in verify([record]).violations}


def test_the_same_rollout_twice_in_a_file_is_found(record: Record) -> None:
    assert [v.invariant for v in verify([record, copy.deepcopy(record)]).violations] == ["T6"]


ENTRY = re.compile(r"^segments\[(\d+)\]\.(\w+)\[(\d+)\]$")


@pytest.mark.parametrize("seed", range(5))
def test_any_changed_byte_is_caught_and_the_token_it_hit_is_named(record: Record, seed: int) -> None:
    """Random bytes of the file become random other bytes: damaged digits, commas, brackets, quotes, invalid UTF-8."""
    data, random_ = dump_jsonl([record]), random.Random(seed)
    named = 0
    for _ in range(150):
        at = random_.randrange(len(data) - 1)
        byte = random_.choice([random_.randrange(256), ord(random_.choice('0123456789,.-e"[]{} '))])
        if byte == data[at]:
            continue
        damaged = data[:at] + bytes([byte]) + data[at + 1 :]
        entry = ENTRY.match(locate(data, at) or "")
        hit = (
            (int(entry[1]), int(entry[3])) if entry and entry[2] in ARRAYS and data[at : at + 1] not in b",[]" else None
        )
        try:
            report = verify_bytes(damaged)
        except Unreadable as error:
            if hit is not None and entry is not None and damaged[at : at + 1] != b"\n":
                # a comma put into 1005 leaves 1 and 05: the second is what is no number
                near = [f"segments[{hit[0]}].{entry[2]}[{hit[1] + more}]" for more in (0, 1)]
                assert error.path in near, (damaged[at - 9 : at + 9], error)
                named += 1
            continue
        assert not report.ok, (at, byte)
        if hit is not None:
            bad = report.first_bad_token
            assert bad is not None, (report.violations, damaged[at - 9 : at + 9])
            assert (bad.segment, bad.position) == hit, (report.violations, damaged[at - 9 : at + 9])
            named += 1
    assert named > 40


def test_the_number_written_otherwise_is_found(record: Record) -> None:
    data = dump_jsonl([record])
    damaged = data.replace(b"0.0,", b"0e0,", 1)
    assert load_jsonl(damaged) == load_jsonl(data)
    bad = verify_bytes(damaged).first_bad_token
    assert bad is not None and (bad.invariant, bad.segment, bad.position) == ("D3", 0, 0)


@pytest.mark.parametrize(
    ("tool_format", "text"),
    [
        ("hermes_json", '<tool_call>\n{"name": "look", "arguments": {"at": "up", "n": 3}}\n</tool_call>'),
        ("llama3_json", '{"name": "look", "parameters": {"at": "up", "n": 3}}'),
        ("mistral", '[TOOL_CALLS]look[ARGS]{"at": "up", "n": 3}'),
        ("mistral", '{"name": "look", "arguments": {"at": "up", "n": 3}, "id": "aB3dE5gH7"}'),
        ("deepseek", 'look<｜tool▁sep｜>{"at": "up", "n": 3}'),
        ("harmony", '<|channel|>commentary to=functions.look<|message|>{"at": "up", "n": 3}<|call|>'),
        ("qwen_xml", "<function=look>\n<parameter=at>\nup\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>"),
        (
            "glm_xml",
            "look\n<arg_key>at</arg_key>\n<arg_value>up</arg_value>\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>",
        ),
    ],
)
def test_a_calls_ids_are_held_to_what_ran_in_every_form(tool_format: str, text: str) -> None:
    assert says_call(text, "look", '{"at": "up", "n": 3}', tool_format)
    assert not says_call(text, "look", '{"at": "down", "n": 3}', tool_format)
    assert not says_call(text, "look", '{"at": "up", "n": 4}', tool_format)
    assert not says_call(text, "leave", '{"at": "up", "n": 3}', tool_format)
