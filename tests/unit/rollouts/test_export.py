"""Every format says the same: what trains in it, computed again here from its rows alone, is what trains in the record.

The readings below are written from each framework's own documentation of its fields; none of them uses the exporters' code.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from perdure.core.errors import Invalid
from perdure.rollouts.export import FORMATS
from perdure.rollouts.export.formats import SHAPES, check_format, dump, lines, shape_of
from perdure.tokens.builder import Given
from perdure.tokens.export import dump_jsonl, load_jsonl
from perdure.tokens.record import Reward
from perdure.tokens.trajectory import rollouts_of
from tests.unit.tokens.trajectory_ledger import conversation

Record = dict[str, Any]
Row = dict[str, Any]
Trained = Counter[tuple[bytes, int, float]]
"""How often an id trains after which ids, with which logprob."""

GIVEN = Given(
    rollout_id="rollout-1",
    group_id="group-1",
    group_index=3,
    group_size=8,
    task={"id": "sums", "hash": "ab", "metadata": {"env_name": "arithmetic"}},
    rewards=(Reward(name="judge", value=1.5, weight=0.5), Reward(name="judge", value=1.0)),
    system_text="Be brief.",
)


def records(*, run_id: str | None = None) -> list[Record]:
    ledger = conversation()
    return rollouts_of(ledger.segments, ledger.calls, ledger.messages, run_id=run_id, given=GIVEN)


def rows(name: str, made: list[Record]) -> list[Row]:
    return [msgspec.json.decode(line) for record in made for line in lines(record, name).splitlines()]


def trained(ids: list[int], mask: list[Any], logprobs: list[Any]) -> Trained:
    assert len(ids) == len(mask) == len(logprobs)
    found: Trained = Counter()
    context = hashlib.sha256()
    for token_id, bit, logprob in zip(ids, mask, logprobs, strict=True):
        if bit:
            found[context.digest(), token_id, logprob] += 1
        context.update(struct.pack("<i", token_id))
    return found


def of_record(made: list[Record]) -> Trained:
    found: Trained = Counter()
    for record in made:
        for segment in record["segments"]:
            found += trained(segment["token_ids"], segment["loss_mask"], segment["logprobs"])
    return found


def padded(row: Row, prompt: str, response: str, mask: str, logprobs: str) -> Trained:
    before = [0] * len(row[prompt])
    return trained(row[prompt] + row[response], before + row[mask], before + row[logprobs])


def of_call(prompt: list[int], made: list[int], logprobs: list[float]) -> Trained:
    assert len(made) == len(logprobs)
    return trained(prompt + made, [0] * len(prompt) + [1] * len(made), [0.0] * len(prompt) + logprobs)


def of_slime(row: Row) -> Trained:
    assert row["response_length"] == len(row["loss_mask"]) == len(row["rollout_log_probs"])
    before = [0] * (len(row["tokens"]) - row["response_length"])
    return trained(row["tokens"], before + row["loss_mask"], before + row["rollout_log_probs"])


def of_tinker(row: Row) -> Trained:
    inputs = [token_id for chunk in row["model_input"]["chunks"] for token_id in chunk["tokens"]]
    loss = {name: tensor["data"] for name, tensor in row["loss_fn_inputs"].items()}
    for tensor in row["loss_fn_inputs"].values():
        assert tensor["shape"] == [len(inputs)] == [len(tensor["data"])]
    assert inputs[1:] == loss["target_tokens"][:-1]
    return trained([inputs[0], *loss["target_tokens"]], [0, *loss["weights"]], [0.0, *loss["logprobs"]])


def of_turns(row: Row) -> Trained:
    found: Trained = Counter()
    for turn in row["turns"]:
        if turn["role"] == "assistant" and turn["trainable"]:
            assert [triple[1] for triple in turn["output_token_logprobs"]] == turn["output_ids"]
            found += of_call(
                turn["input_ids"], turn["output_ids"], [triple[0] for triple in turn["output_token_logprobs"]]
            )
    return found


def leaves(nodes: list[Row]) -> Iterator[list[Row]]:
    inner = {node["parent"] for node in nodes}
    for at, node in enumerate(nodes):
        if at not in inner:
            path = [node]
            while path[0]["parent"] is not None:
                path.insert(0, nodes[path[0]["parent"]])
            yield path


def of_verifiers(row: Row) -> Trained:
    found: Trained = Counter()
    for path in leaves(row["nodes"]):
        ids, mask, logprobs = list[int](), list[bool](), list[float]()
        for node in path:
            assert len(node["token_ids"]) == len(node["mask"]) == len(node["is_content"])
            given = iter(node["logprobs"])
            ids += node["token_ids"]
            mask += node["mask"]
            logprobs += [next(given) if bit else 0.0 for bit in node["mask"]]
            assert next(given, None) is None
        found += trained(ids, mask, logprobs)
    return found


READINGS: dict[str, Callable[[Row], Trained]] = {
    "verl": lambda row: padded(row, "prompt_ids", "response_ids", "response_mask", "response_logprobs"),
    "trl": lambda row: padded(row, "prompt_ids", "completion_ids", "env_mask", "logprobs"),
    "trl-async": lambda row: trained(row["input_ids"], row["completion_mask"], row["old_log_probs"]),
    "prime-rl": lambda row: trained(row["token_ids"], row["mask"], row["logprobs"]),
    "verifiers": of_verifiers,
    "slime": of_slime,
    "skyrl": lambda row: padded(row, "prompt_token_ids", "response_ids", "loss_masks", "rollout_logprobs"),
    "agent-lightning": lambda row: of_call(
        row["prompt"]["token_ids"], row["response"]["token_ids"], row["response"]["log_probs"]
    ),
    "areal": lambda row: trained(row["input_ids"], row["loss_mask"], row["logprobs"]),
    "nemo-gym": lambda row: of_call(row["prompt_token_ids"], row["generation_token_ids"], row["generation_log_probs"]),
    "tinker": of_tinker,
    "turns": of_turns,
}


def test_every_shape_has_a_reading_here() -> None:
    assert set(READINGS) == set(SHAPES)
    assert set(FORMATS) == {*SHAPES, "jsonl", "parquet"}


@pytest.mark.parametrize("run_id", [None, "run-1", "run-2"])
@pytest.mark.parametrize("name", SHAPES)
def test_all_formats_train_the_same_ids_after_the_same_ids_with_the_same_logprobs(
    name: str, run_id: str | None
) -> None:
    made = records(run_id=run_id)
    wanted = of_record(made)
    found: Trained = Counter()
    for row in rows(name, made):
        found += READINGS[name](row)
    assert found == wanted and len(wanted) >= 14
    assert set(wanted.values()) == {1}


@pytest.mark.parametrize("name", SHAPES)
def test_what_a_shape_reads_back_is_what_it_wrote(name: str) -> None:
    made = records()
    found: Trained = Counter()
    for row in rows(name, made):
        assert SHAPES[name].keys <= row.keys()
        for sample in SHAPES[name].read(row):
            assert sample.notes == ()
            found += trained(sample.ids, sample.mask, sample.logprobs)
    assert found == of_record(made)


@pytest.mark.parametrize("name", SHAPES)
def test_a_rows_shape_is_told_from_its_fields(name: str) -> None:
    for row in rows(name, records()):
        found = shape_of(row)
        assert found is not None and found.name == name
    assert shape_of({"text": "no shape"}) is None


@pytest.mark.parametrize("name", SHAPES)
def test_what_trains_nothing_gives_no_sample(name: str) -> None:
    ledger = conversation()
    made = rollouts_of(ledger.segments, ledger.calls, ledger.messages, status="incomplete")
    assert of_record(made) == Counter()
    assert sum((READINGS[name](row) for row in rows(name, made)), Counter()) == Counter()


def test_each_shapes_own_fields() -> None:
    made = records()
    verl = rows("verl", made)
    assert [row["extra_fields"]["uid"] for row in verl] == ["group-1"] * 2
    assert [(row["extra_fields"]["min_global_steps"], row["extra_fields"]["max_global_steps"]) for row in verl] == [
        (7, 8),
        (8, 8),
    ]
    assert [(row["reward_score"], row["num_turns"]) for row in verl] == [(1.75, 3), (1.75, 1)]
    slime = rows("slime", made)
    assert {row["group_index"] for row in slime} == {rows("trl-async", made)[0]["group_id"]}
    assert [(row["index"], row["status"], row["weight_versions"]) for row in slime] == [
        (3, "completed", ["8", "8", "8"]),
        (3, "completed", ["8"]),
    ]
    assert [row["model_version"] for row in rows("trl-async", made)] == [7, 8]
    skyrl = rows("skyrl", made)
    assert [(row["is_last_step"], row["rewards"]) for row in skyrl] == [(False, 0.0)] * 3 + [(True, 1.75)]
    assert {(row["trajectory_ids"]["instance_id"], row["trajectory_ids"]["repetition_id"]) for row in skyrl} == {
        ("group-1", 3)
    }
    assert [row["reward"] for row in rows("agent-lightning", made)] == [None, None, None, 1.75]
    assert {row["env_name"] for row in rows("prime-rl", made)} == {"arithmetic"}
    assert rows("verifiers", made)[0]["rewards"] == {"judge": {"score": 1.75, "weight": 1.0}}


def test_versions_stand_beside_the_ids_they_sampled() -> None:
    for row in rows("areal", records()):
        assert len(row["versions"]) == len(row["input_ids"]) == len(row["attention_mask"])
        assert all(version in (7, 8) for version, bit in zip(row["versions"], row["loss_mask"], strict=True) if bit)
    first = rows("areal", records())[0]
    assert (first["versions"].count(7), first["versions"].count(8)) == (20, 42 + 8 + 5)


def test_a_version_that_is_no_number_is_minus_one_and_never_a_guess() -> None:
    ledger = conversation()
    ledger.calls[0] = msgspec.structs.replace(ledger.calls[0], versions=())
    made = rollouts_of(ledger.segments, ledger.calls, ledger.messages)
    assert rows("agent-lightning", made)[0]["metadata"]["model_version"] == -1
    assert rows("agent-lightning", made)[0]["metadata"]["weight_version"] == "unknown"


def test_calls_are_linked_to_the_call_whose_ids_they_begin_with() -> None:
    """As Gym's builder proves it: by the digest of the parent's whole sequence over this prompt's first ids."""
    entries = rows("nemo-gym", records())
    by_id = {entry["model_call_id"]: entry for entry in entries}
    assert [entry["parent_call_id"] for entry in entries] == [None, "tokencall-0", "tokencall-1", None]
    for entry in entries:
        whole = entry["prompt_token_ids"] + entry["generation_token_ids"]
        data = b"nemo-gym-tokens" + struct.pack(">BQ", 1, len(whole)) + b"".join(struct.pack(">Q", i) for i in whole)
        assert (entry["digest"], entry["cum_len"]) == (hashlib.sha256(data).hexdigest(), len(whole))
        assert entry["parent_resolution"] == ("resolved" if entry["parent_call_id"] else "root")
        if entry["parent_call_id"]:
            parent = by_id[entry["parent_call_id"]]
            before = parent["prompt_token_ids"] + parent["generation_token_ids"]
            assert entry["prompt_token_ids"][: len(before)] == before


def test_turns_hold_what_tools_said_between_the_calls() -> None:
    first, second = rows("turns", records())
    assert [turn["role"] for turn in first["turns"]] == ["assistant", "tool", "assistant"]
    assert first["turns"][1]["content"] == "one"
    assert (first["run_id"], second["run_id"]) == ("run-1", "run-2")


def test_a_format_nobody_knows_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(Invalid, match=r"format: 'csv' is not known; use jsonl, parquet, verl"):
        check_format("csv")


# -- Parquet


def test_parquet_gives_back_the_very_record() -> None:
    pytest.importorskip("pyarrow")
    from perdure.rollouts.export.parquet import load_parquet

    made = load_jsonl(dump_jsonl(records() + rollouts_of(*_ledger("conv-2"))))
    again = load_parquet(dump(made, "parquet"))
    assert again == made
    assert dump_jsonl(again) == dump_jsonl(made)


def _ledger(conversation_id: str) -> tuple[Any, Any, Any]:
    ledger = conversation()
    segments = [msgspec.structs.replace(s, conversation_id=conversation_id, id=f"{s.id}b") for s in ledger.segments]
    segments[1] = msgspec.structs.replace(segments[1], parent_segment_id=segments[0].id)
    calls = [
        msgspec.structs.replace(c, conversation_id=conversation_id, segment_id=f"{c.segment_id}b", id=f"{c.id}b")
        for c in ledger.calls
    ]
    return segments, calls, ledger.messages


def test_parquet_columns_are_typed_and_the_footer_says_what_is_in_the_file() -> None:
    import io
    import json

    parquet = pytest.importorskip("pyarrow.parquet")
    made = records()
    file = parquet.ParquetFile(io.BytesIO(dump(made, "parquet")))
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert types["token_ids"].startswith("list<") and "int32" in types["token_ids"]
    assert "uint8" in types["loss_mask"] and "float" in types["logprobs"] and types["reward"] == "double"
    footer = file.metadata.metadata
    assert footer[b"schema"] == b"traj/1"
    assert json.loads(footer[b"digests"]) == {made[0]["rollout_id"]: made[0]["record_sha256"]}
    assert json.loads(footer[b"tokenizers"]) == {"bytes": "ab" * 32}
    column = file.metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"
    table = file.read(columns=["token_ids", "loss_mask", "logprobs"]).to_pylist()
    found: Trained = Counter()
    for row in table:
        found += trained(row["token_ids"], row["loss_mask"], row["logprobs"])
    assert found == of_record(made)
