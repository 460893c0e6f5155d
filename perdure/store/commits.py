"""What a step leaves behind, written as a whole under the fence of its run's lease, or not at all."""

from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.agents import Block
from perdure.core.approvals import Pending
from perdure.core.archives import Passage
from perdure.core.errors import StaleBlock
from perdure.core.messages import Message
from perdure.core.runs import RunStatus, Step, StopReason, Usage
from perdure.core.tokens import Segment, TokenCall
from perdure.core.traces import KeptRequest
from perdure.store.approvals import set_pending
from perdure.store.base import LARGE, Query, Tx
from perdure.store.blocks import attach_block, create_block
from perdure.store.codec import block_params
from perdure.store.compaction import NewContext, replace_context
from perdure.store.groups import GroupTurn, count_turn
from perdure.store.messages import insert_messages
from perdure.store.passages import file_for_agent
from perdure.store.private_blocks import add_private_blocks, remove_private_block
from perdure.store.run_queue import QueuedRun, queue_run
from perdure.store.runs import Lease

_json = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode

TOP_LOGPROBS_BYTES = 200  # of one position's alternatives, about


class BlockWrite(Struct, frozen=True):
    """One memory edit to commit. kind: "update", "rename", "create" (and attach), "detach"."""

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
    `parked`: what the conversation waits for from now on; `settled`: what it waited for is answered. `begun`: the step's calls
    are on record as under way, which ends with it.
    """

    lease: Lease
    agent_id: str
    now: int
    usage: Usage
    step_count: int
    messages: tuple[Message, ...] = ()
    parked: Pending | None = None
    settled: bool = False
    begun: bool = False
    step: Step | None = None
    events: EventChunk | None = None
    context_tokens: int | None = None
    ttft_ns: int | None = None
    segment: Segment | None = None
    call: TokenCall | None = None
    segment_id: str | None = None
    consumed_cause: str | None = None
    request: KeptRequest | None = None
    response: bytes | None = None
    blocks: tuple[BlockWrite, ...] = ()
    passages: tuple[Passage, ...] = ()
    isolated: tuple[str, ...] = ()
    context: NewContext | None = None
    turn: GroupTurn | None = None
    queued: tuple[QueuedRun, ...] = ()
    end: RunEnd | None = None

    @property
    def large(self) -> bool:
        """Whether it takes more than a moment to write: an answer of megabytes, or the experts of many tokens."""
        size = len(self.events.body) if self.events is not None else 0
        if (call := self.call) is not None:
            size += len(call.delta_ids) + len(call.completion_ids) + len(call.logprobs)
            size += len(call.top_logprobs or ()) * TOP_LOGPROBS_BYTES
            size += len(call.experts.data) if call.experts is not None else 0
        return size > LARGE


def commit_step(commit: StepCommit, *, again: bool = False) -> Tx[None]:
    """Write a step. LeaseLost if the fence is void, StaleBlock if a block changed under an edit, StaleGroup if a turn did.

    `again`: the answer to an earlier attempt was lost, which may have been committed; then there is nothing left to do.
    """
    lease, now = commit.lease, commit.now
    if again and (yield from _was_committed(commit)):
        return
    fence = {"segment_id": commit.segment_id, "consumed_cause": commit.consumed_cause, "now": now}
    if commit.end is None:
        yield from lease.checked("fence_check", **fence)
    else:
        yield from lease.checked("fence_check_and_release", **fence, completed_us=commit.end.completed_us)
    if commit.turn is not None:
        yield from count_turn(commit.turn)
        for queued in commit.queued:
            yield from queue_run(queued)
    yield from insert_messages(commit.messages)
    if commit.parked is not None or commit.settled:
        yield from set_pending(lease.conversation_id, commit.parked)
    if commit.begun:
        yield Query("settle_begun", {"run_id": lease.run_id}, later=True)
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
            later=True,
        )
    else:
        yield from _finish(commit, commit.end)


def _was_committed(commit: StepCommit) -> Tx[bool]:
    """Whoever took the run over may have stored either under the same id: what had been shown of the answer, or the step, whose
    calls it has finished. Nobody else stores both."""
    lease = commit.lease
    if commit.messages and not (yield Query("message_by_id", {"id": commit.messages[-1].id})):
        return False
    if commit.step is not None:
        return bool((yield Query("step_by_id", {"id": commit.step.id})))
    if commit.messages:
        return True
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
        later=True,
    )
    if (request := commit.request) is not None:
        if (base := request.new_base) is not None:
            row = {"id": base.id, "agent_id": step.agent_id, "created_us": base.created_us, "body": base.text}
            yield Query("insert_trace_base", row, later=True)
        row = {"step_id": step.id, "created_us": commit.now, "request": request.body, "response": commit.response}
        yield Query("insert_trace", row | {"base_id": request.base_id}, later=True)


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
            later=True,
        )
    if (call := commit.call) is not None:
        if (experts := call.experts) is not None:  # beside the record, which is read with every restart
            yield Query(
                "insert_experts",
                {"call_id": call.id, "conversation_id": call.conversation_id, "body": experts.data},
            )
            call = msgspec.structs.replace(call, experts=msgspec.structs.replace(experts, data=b""))
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
            later=True,
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
            if not (yield Query("change_block", columns, presumed=((write.base_version + 1,),))):
                raise StaleBlock(block.id)
            if write.kind == "rename":
                yield Query("relabel_attached_block", {"block_id": block.id, "label": block.label})
        yield Query("bump_agents_of_block", {"block_id": block.id, "now": commit.now}, later=True)


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
        later=True,
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
            later=True,
        )


def insert_events(run_id: str, chunk: EventChunk) -> Tx[None]:
    yield Query(
        "insert_events",
        {"run_id": run_id, "first_seq": chunk.first_seq, "last_seq": chunk.last_seq, "body": chunk.body},
        later=True,
    )
