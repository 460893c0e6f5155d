"""A run's life in the database: accepted once, claimed by one worker, committed step by step under a fence.

Only the holder of the conversation's lease (run, owner and fence number, checked in the same statement) can write.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.agents import Block
from perdure.core.approvals import Pending, is_answer
from perdure.core.archives import Passage
from perdure.core.errors import Conflict, LeaseLost, NotFound, StaleBlock, Unavailable
from perdure.core.messages import Message
from perdure.core.runs import Run, RunConfig, RunStatus, Step, StopReason, Usage
from perdure.core.tokens import Segment, TokenCall
from perdure.store.approvals import Admission, admit, readmit, replay_of, set_pending
from perdure.store.base import Many, Query, Row, Tx
from perdure.store.blocks import attach_block, create_block
from perdure.store.codec import block_params
from perdure.store.compaction import NewContext, replace_context
from perdure.store.conversations import ConversationState, conversation_state, run_view
from perdure.store.groups import GroupTurn, count_turn
from perdure.store.messages import insert_messages
from perdure.store.passages import file_for_agent
from perdure.store.private_blocks import add_private_blocks, remove_private_block
from perdure.store.run_queue import QueuedRun, queue_run

_json = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode
_config = msgspec.json.Decoder(RunConfig).decode
_usage = msgspec.json.Decoder(Usage).decode
_dict = msgspec.json.Decoder(dict[str, Any]).decode
_input = msgspec.json.Decoder(tuple[Message, ...]).decode


KEY_LIFE_US = 24 * 3600 * 1_000_000


class Lease(Struct, frozen=True):
    """The right to write to one conversation: void once `fence` is not the conversation's any more."""

    conversation_id: str
    run_id: str
    owner: str
    fence: int


class RequestKey(Struct, frozen=True):
    """A client's Idempotency-Key, and the SHA-256 of the request it stands for."""

    key: str
    digest: bytes


class Accepted(Struct, frozen=True):
    """What became of a submission. `lease` and `state` are set when the run may start at once; `attached`: the request had
    been accepted before, under this run id. `admitted`: what was stored of its messages; `fresh`: and nothing else was stored
    since the conversation's last run."""

    run_id: str
    attached: bool = False
    lease: Lease | None = None
    state: ConversationState | None = None
    admitted: Admission = Admission()
    fresh: bool = False


class BlockWrite(Struct, frozen=True):
    """One memory edit to commit. kind: "update" (also renames), "create" (and attach), "detach"."""

    kind: str
    block: Block
    base_version: int


class RunEnd(Struct, frozen=True, kw_only=True):
    """`refused`: the run was not let in, so nothing is said of its agent."""

    status: RunStatus
    stop_reason: StopReason
    completed_us: int
    total_duration_ns: int
    error: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    refused: bool = False


class EventChunk(Struct, frozen=True):
    """Events `first_seq`..`last_seq` of a run's log, encoded."""

    first_seq: int
    last_seq: int
    body: bytes


class StepCommit(Struct, frozen=True, kw_only=True):
    """Everything one step leaves behind; all of it is written or none.

    `isolated`: the labels whose blocks the conversation has for itself.
    `turn`: a turn of a group's manager that ends with it; `queued`: the runs that begin because of it.
    `parked`: what the conversation waits for from now on; `settled`: what it waited for is answered.
    """

    lease: Lease
    agent_id: str
    now: int
    usage: Usage
    step_count: int
    messages: tuple[Message, ...] = ()
    parked: Pending | None = None
    settled: bool = False
    step: Step | None = None
    events: EventChunk | None = None
    context_tokens: int | None = None
    ttft_ns: int | None = None
    segment: Segment | None = None
    call: TokenCall | None = None
    segment_id: str | None = None
    consumed_cause: str | None = None
    request: bytes | None = None
    response: bytes | None = None
    blocks: tuple[BlockWrite, ...] = ()
    passages: tuple[Passage, ...] = ()
    isolated: tuple[str, ...] = ()
    context: NewContext | None = None
    turn: GroupTurn | None = None
    queued: tuple[QueuedRun, ...] = ()
    end: RunEnd | None = None


def submit_run(
    run: Run,
    inputs: tuple[Message, ...],
    *,
    otids: tuple[str, ...],
    owner: str,
    until: int,
    wait: bool,
    max_queued: int,
    key: RequestKey | None = None,
) -> Tx[Accepted]:
    """Accept a request once: per otid, and per `key` for a day.

    Starts it at once if the conversation is free; otherwise queues it (`wait`) or raises Conflict naming the holder.
    Raises NotFound for an unknown conversation, Unavailable when the queue is full.
    """
    conversation_id, now = run.conversation_id, run.created_us
    state = yield from conversation_state(conversation_id)
    if (otids or key is not None) and (run_id := (yield from known_run(conversation_id, otids, key, now))) is not None:
        return Accepted(run_id, attached=True)
    if is_answer(inputs) and (replay := (yield from replay_of(state, inputs))) is not None:
        if replay.again is None:
            return Accepted(replay.run_id, attached=True)
        inputs = replay.again
    queued = yield Query("queued_runs", {"conversation_id": conversation_id, "limit": max_queued})
    busy = bool(queued) or (state.active_run_id is not None and state.lease_until_us >= now)
    if busy and not wait:
        holder = state.active_run_id or queued[0][0]
        raise Conflict(
            f"Another request for conversation {conversation_id} is currently being processed (run {holder}). "
            "Wait for it to end or cancel it.",
            run_id=holder,
        )
    if len(queued) >= max_queued:
        raise Unavailable(f"{max_queued} messages are already waiting for {conversation_id}. Send again later.")
    fence: int | None = None
    if not busy:
        fence = yield from _take_lease(conversation_id, run.id, owner, until, now, dead_owner="")
        busy = fence is None  # by the database's clock somebody still holds it
    yield Query(
        "insert_run",
        {
            "id": run.id,
            "agent_id": run.agent_id,
            "conversation_id": conversation_id,
            "status": "created" if busy else "running",
            "background": int(run.background),
            "created_us": now,
            "attempts": 0 if busy else 1,
            "config": _json(run.config),
            "input": _json(inputs) if busy else b"[]",
            "metadata": _json(run.metadata) if run.metadata else None,
        },
    )
    admitted = Admission()
    if fence is not None:
        state = yield from _as_leased(state, fence)
        admitted = yield from admit((run.id, run.agent_id), state, inputs, now)
    if admitted.refused is None:  # what is refused now may be sent again later
        for otid in otids:
            yield Query("insert_otid", {"conversation_id": conversation_id, "otid": otid, "run_id": run.id, "now": now})
        if key is not None:
            yield Query(
                "put_request_key",
                {
                    "conversation_id": conversation_id,
                    "key": key.key,
                    "digest": key.digest,
                    "run_id": run.id,
                    "now": now,
                },
            )
    if (url := run.config.callback_url) is not None:
        yield Query("insert_callback", {"run_id": run.id, "url": url, "due_us": now})
    if fence is None:
        return Accepted(run.id)
    lease = Lease(conversation_id, run.id, owner, fence)
    return Accepted(run.id, lease=lease, state=state, admitted=admitted, fresh=not admitted.closed)


def known_run(conversation_id: str, otids: tuple[str, ...], key: RequestKey | None, now: int) -> Tx[str | None]:
    """The run of a request that was accepted before. Conflict if its key was another request's."""
    for otid in otids:
        rows = yield Query("otid_run", {"conversation_id": conversation_id, "otid": otid})
        if rows:
            return rows[0][0]
    return None if key is None else (yield from _run_of_key(conversation_id, key, now))


def _run_of_key(conversation_id: str, key: RequestKey, now: int) -> Tx[str | None]:
    """The run that was asked for under this key; None if none was, lately. Conflict if it was for something else."""
    rows = yield Query("request_key", {"conversation_id": conversation_id, "key": key.key})
    if not rows or rows[0][2] < now - KEY_LIFE_US:
        return None
    digest, run_id, _ = rows[0]
    if bytes(digest) != key.digest:
        raise Conflict(
            f"Idempotency-Key {key.key!r} was used for another request (run {run_id}). Send this one under a key of its own.",
            run_id=run_id,
        )
    return run_id


def _take_lease(
    conversation_id: str, run_id: str, owner: str, until: int, now: int, *, dead_owner: str
) -> Tx[int | None]:
    rows = yield Query(
        "take_lease",
        {
            "conversation_id": conversation_id,
            "run_id": run_id,
            "owner": owner,
            "until": until,
            "now": now,
            "dead_owner": dead_owner,
        },
    )
    return rows[0][0] if rows else None


def _as_leased(state: ConversationState, fence: int) -> Tx[ConversationState]:
    """The conversation as it was when its lease was taken: another process may have been here since we looked."""
    if fence == state.fence + 1:
        return state
    return run_view(state.id, (yield Query("conversation_for_run", {"id": state.id}))[0])


def claim_next(conversation_id: str, *, owner: str, until: int, now: int, dead_owner: str = "") -> Tx[Accepted | None]:
    """Claim the conversation's interrupted or oldest queued run, if it is free; None if there is nothing to do."""
    rows = yield Query("conversation_for_run", {"id": conversation_id})
    if not rows:
        return None
    state = run_view(conversation_id, rows[0])
    runs = yield Query("active_runs_of", {"conversation_id": conversation_id})
    if not runs:
        return None
    interrupted = [row for row in runs if row[1] == "running"]
    run_id = (interrupted or runs)[0][0]
    fence = yield from _take_lease(conversation_id, run_id, owner, until, now, dead_owner=dead_owner)
    if fence is None:
        return None
    yield Query("start_run", {"id": run_id})
    run = yield Query("run_row", {"id": run_id})
    state = yield from _as_leased(state, fence)
    if interrupted:
        admitted = readmit(run_id, state, run[0][17])
    else:
        admitted = yield from admit((run_id, state.agent_id), state, _input(run[0][17]), now)
        if admitted.refused is not None:
            yield Query("delete_run_otids", {"id": run_id})
            yield Query("forget_request_key", {"conversation_id": conversation_id, "run_id": run_id})
    return Accepted(run_id, lease=Lease(conversation_id, run_id, owner, fence), state=state, admitted=admitted)


def commit_step(commit: StepCommit, *, again: bool = False) -> Tx[None]:
    """Write a step. LeaseLost if the fence is void, StaleBlock if a block changed under an edit, StaleGroup if a turn did.

    `again`: the answer to an earlier attempt was lost, which may have been committed; then there is nothing left to do.
    """
    lease, now = commit.lease, commit.now
    if again and (yield from _was_committed(commit)):
        return
    held = yield Query(
        "fence_check",
        {
            "conversation_id": lease.conversation_id,
            "run_id": lease.run_id,
            "owner": lease.owner,
            "fence": lease.fence,
            "segment_id": commit.segment_id,
            "consumed_cause": commit.consumed_cause,
            "now": now,
        },
    )
    if not held:
        raise LeaseLost(f"Run {lease.run_id} is not ours any more: another worker took over its conversation.")
    if commit.turn is not None:
        yield from count_turn(commit.turn)
        for queued in commit.queued:
            yield from queue_run(queued)
    yield from insert_messages(commit.messages)
    if commit.parked is not None or commit.settled:
        yield from set_pending(lease.conversation_id, commit.parked)
    if commit.context is not None:
        yield from replace_context(lease.conversation_id, commit.context, now)
    yield from _write_blocks(commit)
    if commit.passages:
        yield from file_for_agent(commit.agent_id, commit.passages, commit.now)
    if commit.step is not None:
        yield from _write_step(commit, commit.step)
    if commit.events is not None:
        yield from insert_events(lease.run_id, commit.events)
    yield from _write_tokens(commit)
    if commit.end is None:
        yield Query(
            "progress_run",
            {
                "id": lease.run_id,
                "usage": _json(commit.usage),
                "step_count": commit.step_count,
                "context_tokens": commit.context_tokens,
                "ttft_ns": commit.ttft_ns,
            },
        )
    else:
        yield from _finish(commit, commit.end)


def _was_committed(commit: StepCommit) -> Tx[bool]:
    lease = commit.lease
    if commit.step is not None:
        return bool((yield Query("step_by_id", {"id": commit.step.id})))
    ended = {"conversation_id": lease.conversation_id, "fence": lease.fence, "run_id": lease.run_id}
    return bool((yield Query("ended_under_fence", ended)))


def _write_step(commit: StepCommit, step: Step) -> Tx[None]:
    yield Query(
        "insert_step",
        {
            "id": step.id,
            "run_id": step.run_id,
            "agent_id": step.agent_id,
            "created_us": step.created_us,
            "model": step.model,
            "body": _json(step),
        },
    )
    if commit.request is not None:
        yield Query(
            "insert_trace",
            {"step_id": step.id, "created_us": commit.now, "request": commit.request, "response": commit.response},
        )


def _write_tokens(commit: StepCommit) -> Tx[None]:
    if (segment := commit.segment) is not None:
        yield Query(
            "insert_segment",
            {
                "id": segment.id,
                "conversation_id": segment.conversation_id,
                "agent_id": segment.agent_id,
                "idx": segment.index,
                "body": _pack(segment),
            },
        )
    if (call := commit.call) is not None:
        yield Query(
            "insert_call",
            {
                "id": call.id,
                "segment_id": call.segment_id,
                "conversation_id": call.conversation_id,
                "run_id": call.run_id,
                "step_id": call.step_id,
                "body": _pack(call),
            },
        )


def _write_blocks(commit: StepCommit) -> Tx[None]:
    for write in commit.blocks:
        block = write.block
        if write.kind == "create":
            yield from _create_block(commit, block)
        elif write.kind == "detach":
            yield from _detach_block(commit, block)
        else:
            if write.kind == "rename" and (
                yield Query("label_clash", {"block_id": block.id, "label": block.label})
            ):  # another conversation was quicker: the tool is to be told so
                raise StaleBlock(block.id)
            columns = block_params(block) | {"version": write.base_version, "updated_us": commit.now}
            if not (yield Query("change_block", columns)):
                raise StaleBlock(block.id)
            yield Query("relabel_attached_block", {"block_id": block.id, "label": block.label})
        yield Query("bump_agents_of_block", {"block_id": block.id, "now": commit.now})


def _create_block(commit: StepCommit, block: Block) -> Tx[None]:
    """StaleBlock if the agent got one of that label meanwhile."""
    if block.label in commit.isolated:
        yield from add_private_blocks(commit.lease.conversation_id, (block,))
        return
    if (yield Query("attached_label", {"agent_id": commit.agent_id, "label": block.label})):
        raise StaleBlock(block.id)
    yield from create_block(block)
    yield from attach_block(commit.agent_id, block)


def _detach_block(commit: StepCommit, block: Block) -> Tx[None]:
    if commit.isolated and (yield from remove_private_block(commit.lease.conversation_id, block.id)):
        return
    yield Query("detach_block", {"agent_id": commit.agent_id, "block_id": block.id})
    yield Query("bump_agent", {"id": commit.agent_id, "now": commit.now})


def _finish(commit: StepCommit, end: RunEnd) -> Tx[None]:
    lease = commit.lease
    yield Query(
        "finish_run",
        {
            "id": lease.run_id,
            "status": end.status,
            "stop_reason": end.stop_reason,
            "completed_us": end.completed_us,
            "usage": _json(commit.usage),
            "step_count": commit.step_count,
            "context_tokens": commit.context_tokens,
            "error": _json(end.error) if end.error else None,
            "metadata": _json(end.metadata) if end.metadata else None,
            "ttft_ns": commit.ttft_ns,
            "total_duration_ns": end.total_duration_ns,
        },
    )
    if not end.refused:
        yield Query(
            "agent_ran",
            {
                "agent_id": commit.agent_id,
                "completed_us": end.completed_us,
                "duration_ms": end.total_duration_ns // 1_000_000,
                "stop_reason": end.stop_reason,
            },
        )
    yield Query(
        "release_lease",
        {
            "conversation_id": lease.conversation_id,
            "run_id": lease.run_id,
            "owner": lease.owner,
            "fence": lease.fence,
            "completed_us": end.completed_us,
        },
    )


def insert_events(run_id: str, chunk: EventChunk) -> Tx[None]:
    yield Query(
        "insert_events",
        {"run_id": run_id, "first_seq": chunk.first_seq, "last_seq": chunk.last_seq, "body": chunk.body},
    )


def run_from_row(row: Row) -> Run:
    return Run(
        id=row[0],
        agent_id=row[1],
        conversation_id=row[2],
        status=row[3],
        background=bool(row[4]),
        created_us=row[5],
        completed_us=row[6],
        stop_reason=row[7],
        attempts=row[8],
        step_count=row[9],
        context_tokens=row[10],
        ttft_ns=row[11],
        total_duration_ns=row[12],
        config=_config(row[13]),
        usage=_usage(row[14]) if row[14] else Usage(),
        error=_dict(row[15]) if row[15] else None,
        metadata=_dict(row[16]) if row[16] else None,
    )


def run_by_id(run_id: str) -> Tx[Run]:
    rows = yield Query("run_row", {"id": run_id})
    if not rows:
        raise NotFound(f"Run {run_id} not found")
    return run_from_row(rows[0])


def request_cancel(run_id: str, now: int) -> Tx[str]:
    """Ask for a run's end: "cancelled" at once if it was only queued, "requested" if a worker has it, else "ended"."""
    rows = yield Query("cancel_queued_run", {"id": run_id, "now": now})
    if rows:
        return "cancelled"
    rows = yield Query("request_cancel", {"id": run_id})
    return "requested" if rows else "ended"


def renew_leases(conversation_ids: Iterable[str], owner: str, until: int, now: int) -> Tx[None]:
    lease = {"owner": owner, "until": until, "now": now}
    yield Many("renew_lease", [{"conversation_id": item, **lease} for item in conversation_ids])


def cancel_requests() -> Tx[list[str]]:
    """The running runs that somebody wants ended."""
    rows = yield Query("cancel_requests")
    return [row[0] for row in rows]


def orphaned_conversations(now: int, dead_owner: str = "") -> Tx[list[str]]:
    """Conversations with work that nobody holds, oldest work first."""
    rows = yield Query("orphaned_runs", {"now": now, "dead_owner": dead_owner})
    return list(dict.fromkeys(row[1] for row in rows))


def run_of_otid(conversation_id: str, otid: str) -> Tx[str | None]:
    """The run that a message with this otid began, if there is one."""
    rows = yield Query("otid_run", {"conversation_id": conversation_id, "otid": otid})
    return rows[0][0] if rows else None


def active_runs(*, conversation_id: str | None = None, agent_id: str | None = None) -> Tx[list[tuple[str, str, str]]]:
    """(run id, status, conversation id) of runs that have not ended, oldest first."""
    if conversation_id is not None:
        rows = yield Query("active_runs_of", {"conversation_id": conversation_id})
    else:
        rows = yield Query("active_runs_of_agent", {"agent_id": agent_id})
    return [(row[0], row[1], row[2]) for row in rows]


def lease_owners() -> Tx[list[str]]:
    """Who holds leases now, as far as the database knows."""
    rows = yield Query("lease_owners")
    return [row[0] for row in rows if row[0]]
