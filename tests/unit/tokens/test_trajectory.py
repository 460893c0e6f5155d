"""From ledger to traj/1: what a record holds, what a run's cut keeps, what a broken ledger is told."""

import msgspec
import pytest

from perdure.core.errors import StoreError
from perdure.core.tokens import bytes_to_floats, bytes_to_ids, floats_to_bytes
from perdure.tokens.builder import Given
from perdure.tokens.export import Unreadable, dump_jsonl, load_jsonl, locate
from perdure.tokens.trajectory import rollouts_of
from perdure.tokens.verify import verify, verify_bytes
from tests.unit.tokens.trajectory_ledger import ASK, END, TOKENIZER, Ledger, conversation, score, turn


@pytest.fixture
def ledger() -> Ledger:
    return conversation()


def rollout(ledger: Ledger, **options: object) -> dict:
    (record,) = rollouts_of(ledger.segments, ledger.calls, ledger.messages, **options)  # type: ignore[arg-type]
    return record


def test_segments_are_the_streams_the_engine_saw(ledger: Ledger) -> None:
    record = rollout(ledger)
    assert [s["token_ids"] for s in record["segments"]] == list(ledger.streams.values())
    assert [s["cause"] for s in record["segments"]] == ["root", "compaction"]
    for segment in record["segments"]:
        arrays = ("loss_mask", "logprobs", "call_index", "message_index", "role", "is_content", "version", "check")
        assert {len(segment[name]) for name in arrays} == {len(segment["token_ids"])}


def test_logprobs_keep_their_float32_bits(ledger: Ledger) -> None:
    record = load_jsonl(dump_jsonl([rollout(ledger)]))[0]
    for call, stored in zip(record["calls"], ledger.calls, strict=True):
        segment = record["segments"][call["segment_index"]]
        there = segment["logprobs"][call["start"] : call["start"] + call["length"]]
        assert floats_to_bytes(there) == stored.logprobs == floats_to_bytes(call["logprobs"])


def test_every_sampled_token_trains_once_and_shared_ones_in_the_parent(ledger: Ledger) -> None:
    record = rollout(ledger)
    root, compacted = record["segments"]
    shared = compacted["parent_offset"]
    sampled_in_prefix = [at for at in range(shared) if compacted["call_index"][at] >= 0]
    assert len(sampled_in_prefix) > 5
    assert all(compacted["loss_mask"][at] == 0 and root["loss_mask"][at] == 1 for at in sampled_in_prefix)
    assert [compacted["logprobs"][at] for at in sampled_in_prefix] == [root["logprobs"][at] for at in sampled_in_prefix]
    assert sum(root["loss_mask"]) + sum(compacted["loss_mask"]) == sum(c.length for c in ledger.calls)


def test_the_likeliest_ids_stand_beside_what_was_sampled(ledger: Ledger) -> None:
    first = ledger.calls[0]
    told = [[[-0.1 - at, 65], [-2.7, 66]] for at in range(first.length)]
    ledger.calls[0] = msgspec.structs.replace(first, top_logprobs=told)
    record = rollout(ledger)
    root, compacted = record["segments"]
    start, end = first.prompt_len, first.prompt_len + first.length
    assert root["top_ids"][start:end] == [[65, 66]] * first.length
    assert floats_to_bytes([top[0] for top in root["top_logprobs"][start:end]]) == floats_to_bytes(
        [-0.1 - at for at in range(first.length)]
    )
    for name in ("top_ids", "top_logprobs"):
        assert len(root[name]) == len(root["token_ids"]) and len(compacted[name]) == len(compacted["token_ids"])
        assert not any(root[name][:start]) and not any(root[name][end:])
        shared = compacted["parent_offset"]
        assert compacted[name][:shared] == root[name][:shared]
    assert verify([record], tokenizer=TOKENIZER, score=score).ok
    assert not any("top_ids" in segment for segment in rollout(conversation())["segments"])  # nobody asked


def test_another_agents_work_for_an_attempt_is_in_its_record() -> None:
    ledger = conversation()
    asked, summary = ledger.begin("root", conversation="conv-2"), ledger.said("user", "What is f of 2?")
    asked = ledger.segments[-1] = msgspec.structs.replace(asked, agent_id="agent-2")
    ledger.call(asked, [*turn(summary, "user", "What is f of 2?"), *ASK], "Two.", run="run-3", bridge="render")
    [record] = rollouts_of(ledger.segments, ledger.calls, ledger.messages, given=Given(subagents=("conv-2",)))
    assert [segment["cause"] for segment in record["segments"]] == ["root", "compaction", "subagent"]
    own = record["segments"][-1]
    assert (own["agent_id"], own["parent_segment_id"], own["parent_offset"]) == ("agent-2", None, 0)
    assert "conv-2" in own["cause_detail"] and record["conversation_id"] == "conv-1"
    assert sum(sum(segment["loss_mask"]) for segment in record["segments"]) == sum(c.length for c in ledger.calls)
    report = verify([record], tokenizer=TOKENIZER, score=score)
    assert report.ok, report.violations


def test_versions_are_indexed_per_token(ledger: Ledger) -> None:
    record = rollout(ledger)
    assert record["versions"] == ["7", "8"]
    start = record["calls"][0]["start"]
    assert record["segments"][0]["version"][start - 1 : start + 21] == [-1] + [0] * 20 + [1]


def test_an_engine_without_versions_is_recorded_as_unknown() -> None:
    ledger = Ledger()
    ledger.call(ledger.begin("root"), [(None, "hello", False)], "hi", run="run-1")
    record = rollout(ledger)
    assert record["versions"] == ["unknown"]
    assert record["calls"][0]["weight_versions"] == [{"version": "unknown", "start": 0, "end": 3}]


def test_a_run_is_cut_after_its_last_call_and_earlier_runs_are_context(ledger: Ledger) -> None:
    first = rollout(ledger, run_id="run-1")
    assert [c["run_id"] for c in first["calls"]] == ["run-1", "run-1"]
    assert len(first["segments"]) == 1
    assert first["segments"][0]["token_ids"] == ledger.streams["segment-0"][: len(first["segments"][0]["token_ids"])]
    second = rollout(ledger, run_id="run-2")
    assert [c["trainable"] for c in second["calls"]] == [False, False, True, True]
    assert second["run_ids"] == ["run-2"]
    for record in (first, second):
        assert verify([record], tokenizer=TOKENIZER, score=score).violations == []


def test_a_runs_segment_whose_parent_is_outside_the_record_stands_alone(ledger: Ledger) -> None:
    ledger.calls[3] = msgspec.structs.replace(ledger.calls[3], run_id="run-3")
    record = rollout(ledger, run_id="run-3")
    assert [s["segment_id"] for s in record["segments"]] == ["segment-1"]
    assert [c["index"] for c in record["calls"]] == [0]
    report = verify([record], tokenizer=TOKENIZER, score=score)
    assert report.violations == []
    assert any("outside this record" in note for note in report.notes)


def test_an_unfinished_run_trains_nothing(ledger: Ledger) -> None:
    record = rollout(ledger, status="incomplete")
    assert sum(sum(s["loss_mask"]) for s in record["segments"]) == 0
    assert verify([record]).ok


def test_an_aborted_call_is_kept_and_not_trained(ledger: Ledger) -> None:
    stored = ledger.calls[3]
    ledger.calls[3] = msgspec.structs.replace(stored, finish=msgspec.structs.replace(stored.finish, type="abort"))
    record = rollout(ledger)
    assert record["calls"][3]["trainable"] is False
    assert record["segments"][1]["trainable"] is False


def test_each_conversation_is_a_rollout(ledger: Ledger) -> None:
    other = ledger.begin("root", conversation="conv-2")
    ledger.call(other, [(None, "hello", False)], "hi", run="run-9")
    records = rollouts_of(ledger.segments, ledger.calls, ledger.messages)
    assert [r["conversation_id"] for r in records] == ["conv-1", "conv-2"]
    assert verify(records).ok


def test_the_same_ledger_gives_the_same_bytes(ledger: Ledger) -> None:
    data = dump_jsonl([rollout(ledger)])
    assert data == dump_jsonl([rollout(conversation())])
    assert dump_jsonl(load_jsonl(data)) == data


def test_the_base_url_is_kept_without_its_password(ledger: Ledger) -> None:
    assert rollout(ledger)["calls"][0]["engine"]["base_id"] == "http://127.0.0.1:30000/path"


def test_the_stop_token_is_sampled_and_no_content(ledger: Ledger) -> None:
    record = rollout(ledger)
    end = record["calls"][0]["start"] + record["calls"][0]["length"] - 1
    segment = record["segments"][0]
    assert (segment["token_ids"][end], segment["is_content"][end], segment["loss_mask"][end]) == (END, 0, 1)


def test_a_ledger_with_a_missing_call_is_an_error_that_names_the_next(ledger: Ledger) -> None:
    del ledger.calls[1]
    with pytest.raises(StoreError, match="does not fit together at call tokencall-2"):
        rollout(ledger)


def test_a_wrong_parent_offset_is_an_error(ledger: Ledger) -> None:
    segment = ledger.segments[1]
    ledger.segments[1] = msgspec.structs.replace(segment, parent_offset=segment.parent_offset + 1)
    with pytest.raises(StoreError, match="does not begin with them"):
        rollout(ledger)


def test_a_logprob_the_engine_did_not_give_is_null_and_a_violation(ledger: Ledger) -> None:
    values = bytes_to_floats(ledger.calls[2].logprobs)
    values[1] = float("nan")
    ledger.calls[2] = msgspec.structs.replace(ledger.calls[2], logprobs=floats_to_bytes(values))
    data = dump_jsonl([rollout(ledger)])
    assert b"NaN" not in data
    report = verify_bytes(data)
    bad = report.first_bad_token
    assert bad is not None and (bad.invariant, bad.call_id) == ("L2", "tokencall-2")
    assert bad.token_id == bytes_to_ids(ledger.calls[2].completion_ids)[1]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b'{"schema":"traj/1"}', "cut off"),
        (b"[]\n", "not a JSON object"),
        (b'{"schema":"traj/9"}\n', "traj/9"),
        (b'{"schema":"traj/1","segments":[{"token_ids":[1,x2,3]}]}\n', "segments[0].token_ids[1]"),
        (b'{"schema":"traj/1","segments":[{"token_ids":[1,\xff2,3]}]}\n', "segments[0].token_ids[1]"),
        (b'{"schema":"traj/1","segments":[{"token_ids":[1,2,3]},{"token_ids":[4', "cut off"),
    ],
)
def test_an_unreadable_file_says_where(data: bytes, says: str) -> None:
    with pytest.raises(Unreadable) as error:
        load_jsonl(data)
    assert says in error.value.message


def test_locate_walks_keys_and_indices() -> None:
    line = b'{"a":{"b":[{"c":[10,20]},{"d":"x,[y"}]},"e":1}'
    assert locate(line, line.index(b"20")) == "a.b[0].c[1]"
    assert locate(line, line.index(b"y")) == "a.b[1].d"
    assert locate(line, line.index(b"1}")) == "e"
