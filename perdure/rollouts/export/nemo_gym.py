"""NeMo Gym's `TokenEntry` (record schema 3): one row a call, linked to the call it goes on from.

`digest` is over the call's whole sequence, so Gym's builder proves each link; `parent_call_id` is the last call whose whole
sequence this prompt begins with, in the same segment or in the one it was forked from. `routed_experts` are
there where the record has them: an array in base64, of the whole sequence but its last id.
"""

import hashlib
import struct
from collections.abc import Sequence

from perdure.rollouts.export.experts import array_notes, as_array, experts_before
from perdure.rollouts.export.samples import Row, Sample, Shape, call_logprobs, floats, ints, training_calls, whence
from perdure.tokens.record import Call, Rollout

SCHEMA_VERSION = 3
DIGEST_VERSION = 1
DOMAIN = b"nemo-gym-tokens"


def rows(rollout: Rollout) -> list[Row]:
    made: list[Row] = []
    before: list[Call] = []
    for call, prompt in training_calls(rollout):
        parent = _parent(rollout, call, before)
        segment = rollout.segments[call.segment_index]
        model = segment.model or rollout.model
        experts = experts_before(segment, call.start + call.length)
        made.append(
            {
                "schema_version": SCHEMA_VERSION,
                "rollout_id": rollout.rollout_id,
                "model_call_id": call.call_id,
                "model": model.path,
                "prompt_token_ids": prompt,
                "generation_token_ids": call.token_ids,
                "generation_log_probs": call_logprobs(call),
                "output_items": [],
                "token_item_index": None,
                "created_at": (call.t_queue or 0) / 1e6,
                "parent_call_id": parent,
                "parent_resolution": "root" if parent is None else "resolved",
                "cum_len": len(prompt) + call.length,
                "digest": digest([*prompt, *call.token_ids]),
                "reward": rollout.reward,
                "source": whence(rollout, segment),
                **({} if experts is None else {"routed_experts": as_array(experts)}),
            }
        )
        before.append(call)
    return made


def _parent(rollout: Rollout, call: Call, before: Sequence[Call]) -> str | None:
    """The latest call before this one that its prompt holds whole."""
    index, limit = call.segment_index, call.start
    by_id = {segment.segment_id: segment for segment in rollout.segments}
    while True:
        held = [each for each in before if each.segment_index == index and each.start + each.length <= limit]
        if held:
            return held[-1].call_id
        segment = rollout.segments[index]
        parent = by_id.get(segment.parent_segment_id or "")
        if parent is None or parent.index == index:
            return None
        index, limit = parent.index, min(limit, segment.parent_offset)


def digest(ids: Sequence[int]) -> str:
    """SHA-256 of the domain's name, a version byte, the count and the ids, these as 64 bits each, most significant first."""
    if not ids:
        return hashlib.sha256(DOMAIN).hexdigest()
    head = struct.pack(">BQ", DIGEST_VERSION, len(ids))
    return hashlib.sha256(DOMAIN + head + struct.pack(f">{len(ids)}Q", *ids)).hexdigest()


def read(row: Row) -> list[Sample]:
    prompt, made = ints(row, "prompt_token_ids"), ints(row, "generation_token_ids")
    notes: list[tuple[str, str]] = []
    length = row.get("cum_len")
    if length is not None and length != len(prompt) + len(made):
        notes.append(("T3", f"cum_len is {length}; prompt and generation have {len(prompt) + len(made)} ids"))
    told = row.get("digest")
    if told is not None and min([*prompt, *made], default=0) >= 0 and told != digest([*prompt, *made]):
        notes.append(("D1", "digest is not that of its ids"))
    size = len(prompt) + len(made)
    notes += array_notes(row.get("routed_experts"), size - 1, size, "routed_experts")
    return [
        Sample(
            name=str(row.get("rollout_id", "")),
            ids=prompt + made,
            mask=[0] * len(prompt) + [1] * len(made),
            logprobs=[0.0] * len(prompt) + floats(row, "generation_log_probs"),
            notes=tuple(notes),
        )
    ]


def whole(rows: list[Row]) -> list[tuple[int, str, str]]:
    """Each prompt begins with the whole sequence of the call it names as its parent."""
    wrong: list[tuple[int, str, str]] = []
    made = {row["model_call_id"]: row["prompt_token_ids"] + row["generation_token_ids"] for row in rows}
    for number, row in enumerate(rows, 1):
        parent = row.get("parent_call_id")
        if parent is None:
            continue
        before = made.get(parent)
        if before is None:
            wrong.append((number, "P4", f"its parent {parent} is not in the file"))
        elif row["prompt_token_ids"][: len(before)] != before:
            wrong.append((number, "P4", f"its prompt does not begin with the ids of its parent {parent}"))
    return wrong


SHAPE = Shape(
    name="nemo-gym",
    about="NeMo Gym TokenEntry, one a call",
    rows=rows,
    read=read,
    keys=frozenset({"prompt_token_ids", "generation_token_ids", "generation_log_probs", "model_call_id"}),
    whole=whole,
)
