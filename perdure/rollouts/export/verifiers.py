"""verifiers' `Trace`: one row a rollout, its messages the nodes of a graph; a segment is one path from a root to a leaf.

Paths share no nodes: a prefix that two segments have in common can end within a message. Where an id stands in two paths it
trains in one, and the other has it with mask false. A node holds the template's ids before its message, as verifiers' own do.
Nodes have `routed_experts` where the record has them, the last id of a path the row before it again. They are verifiers' own form
of an array, but that its bytes are base64, which JSON has no other form for: decode them before the trace is built.
"""

from typing import Any

from perdure.rollouts.export.experts import array_notes, as_array, experts_of, for_every_id
from perdure.rollouts.export.samples import NotThisShape, Row, Sample, Shape, flags, floats, ints, training_segments
from perdure.tokens.record import ASSISTANT, SYSTEM, TOOL, MessageRef, Rollout, SegmentRecord


def rows(rollout: Rollout) -> list[Row]:
    nodes: list[Row] = []
    for split in training_segments(rollout):
        nodes += _path(rollout, split.segment, len(nodes))
    if not nodes:
        return []
    task = rollout.task or {}
    completed = rollout.status in ("completed", "truncated")
    return [
        {
            "version": 1,
            "id": rollout.rollout_id,
            "task": {
                "type": "perdure",
                "data": {"id": task.get("id"), "prompt": None},
                "key": task.get("id"),
                "hash": task.get("hash"),
            },
            "agent": {"config": {"model": rollout.model.handle}, "name": rollout.agent_id},
            "nodes": nodes,
            "rewards": {name: {"score": value, "weight": weight} for name, value, weight in _rewards(rollout)},
            "metrics": dict(rollout.metrics),
            "info": {
                "group_id": rollout.group_id,
                "group_index": rollout.group_index,
                "group_size": rollout.group_size,
                "status": rollout.status,
            },
            "is_completed": completed,
            "ok": completed,
            "stop_condition": rollout.stop_reason,
        }
    ]


def _rewards(rollout: Rollout) -> list[tuple[str, float, float]]:
    """A trace knows one reward a name: those of one name are added up, and the weight is in the score."""
    added: dict[str, float] = {}
    for reward in rollout.rewards:
        added[reward.name] = added.get(reward.name, 0.0) + reward.value * reward.weight
    return [(name, value, 1.0) for name, value in added.items()]


def _path(rollout: Rollout, segment: SegmentRecord, first: int) -> list[Row]:
    nodes: list[Row] = []
    unanswered: list[list[str]] = []
    told = experts_of(segment)
    experts = None if told is None else for_every_id(told)
    for begin, end, message in _pieces(segment):
        ref = rollout.messages[message] if message >= 0 else None
        if ref is not None and ref.role == ASSISTANT:
            unanswered = list(ref.tool_calls)
        mask = [bool(value) for value in segment.loss_mask[begin:end]]
        logprobs = segment.logprobs[begin:end]
        nodes.append(
            {
                "parent": first + len(nodes) - 1 if nodes else None,
                "message": _message(ref, unanswered),
                "sampled": any(call >= 0 for call in segment.call_index[begin:end]),
                "timestamp": segment.created_at / 1e6,
                "token_ids": segment.token_ids[begin:end],
                "mask": mask,
                "is_content": [bool(value) for value in segment.is_content[begin:end]],
                "logprobs": [value or 0.0 for value, sampled in zip(logprobs, mask, strict=True) if sampled],
                **(
                    {} if experts is None else {"routed_experts": {"__nd__": True, **as_array(experts.cut(begin, end))}}
                ),
            }
        )
    return nodes


def _pieces(segment: SegmentRecord) -> list[tuple[int, int, int]]:
    """[begin, end) and the message of each node: the ids of no message belong to the next one, at the end to the last."""
    pieces: list[tuple[int, int, int]] = []
    begin = 0
    size = len(segment.message_index)
    for at in range(1, size + 1):
        now = segment.message_index[at - 1]
        following = segment.message_index[at] if at < size else None
        if now != following and now >= 0:
            pieces.append((begin, at, now))
            begin = at
    if begin < size:
        if not pieces:
            return [(0, size, -1)]
        start, _, message = pieces[-1]
        pieces[-1] = (start, size, message)
    return pieces


def _message(ref: MessageRef | None, unanswered: list[list[str]]) -> Row:
    text = (ref.text if ref is not None else None) or ""
    if ref is None or ref.role == SYSTEM:
        return {"role": "system", "content": text}
    if ref.role == TOOL:
        call_id, name, _ = unanswered.pop(0) if unanswered else ("", None, "")
        return {"role": "tool", "tool_call_id": call_id, "content": text, "name": name}
    if ref.role == ASSISTANT:
        calls = [{"id": call_id, "name": name, "arguments": arguments} for call_id, name, arguments in ref.tool_calls]
        return {"role": "assistant", "content": text or None, "tool_calls": calls or None}
    return {"role": "user", "content": text}


def read(row: Row) -> list[Sample]:
    nodes: Any = row.get("nodes")
    if not isinstance(nodes, list):
        raise NotThisShape("nodes is not a list")
    parents: set[int] = set()
    for at, node in enumerate(nodes):
        parent = node.get("parent")
        if parent is not None and not (type(parent) is int and 0 <= parent < at):
            raise NotThisShape(f"nodes[{at}].parent is {parent!r}, no earlier node")
        if parent is not None:
            parents.add(parent)
    return [_branch(str(row.get("id", "")), nodes, leaf) for leaf in range(len(nodes)) if leaf not in parents]


def _branch(name: str, nodes: list[Row], leaf: int) -> Sample:
    walk: list[int] = []
    at: int | None = leaf
    while at is not None:
        walk.append(at)
        at = nodes[at]["parent"]
    ids: list[int] = []
    mask: list[int] = []
    logprobs: list[float | None] = []
    notes: list[tuple[str, str]] = []
    for number in reversed(walk):
        node = nodes[number]
        own_mask, own = flags(node, "mask"), floats(node, "logprobs")
        if sum(own_mask) != len(own):
            notes.append(("L1", f"nodes[{number}] has {len(own)} logprobs for {sum(own_mask)} sampled ids"))
        size = len(own_mask)
        notes += array_notes(node.get("routed_experts"), size, size, f"nodes[{number}].routed_experts")
        given = iter(own)
        ids += ints(node, "token_ids")
        mask += own_mask
        logprobs += [next(given, None) if sampled else 0.0 for sampled in own_mask]
    return Sample(name=name, ids=ids, mask=mask, logprobs=logprobs, notes=tuple(notes))


SHAPE = Shape(
    name="verifiers",
    about="verifiers Trace, one a rollout",
    rows=rows,
    read=read,
    keys=frozenset({"nodes", "task", "agent"}),
)
