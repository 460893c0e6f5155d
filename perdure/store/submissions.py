"""How a run begins in the database: accepted once, queued or started, claimed by one worker at a time.

A lease is taken in the statement that looks whether it is free, so two workers can never both hold one.
"""

import msgspec
from msgspec import Struct

from perdure.core.approvals import is_answer
from perdure.core.errors import Conflict, Unavailable
from perdure.core.messages import Message
from perdure.core.runs import Run
from perdure.store.approvals import Admission, admit, readmit, replay_of
from perdure.store.base import Query, Tx
from perdure.store.conversations import ConversationState, conversation_state, run_view
from perdure.store.runs import Lease

_json = msgspec.json.Encoder().encode
_input = msgspec.json.Decoder(tuple[Message, ...]).decode

KEY_LIFE_US = 24 * 3600 * 1_000_000


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
    start: bool = True,
) -> Tx[Accepted]:
    """Accept a request once: per otid, and per `key` for a day. `start` False: it waits though its conversation is free.

    Starts it at once if the conversation is free; otherwise queues it (`wait`) or raises Conflict naming the holder.
    Raises NotFound for an unknown conversation, Unavailable when the queue is full.
    """
    conversation_id, now = run.conversation_id, run.created_us
    state = yield from conversation_state(conversation_id, provisional=True)
    if (otids or key is not None) and (run_id := (yield from known_run(conversation_id, otids, key, now))) is not None:
        return Accepted(run_id, attached=True)
    if is_answer(inputs) and (replay := (yield from replay_of(state, inputs))) is not None:
        if replay.again is None:
            return Accepted(replay.run_id, attached=True)
        inputs = replay.again
    held = state.active_run_id is not None and state.lease_until_us >= now
    if (state.queued or held) and not wait:
        holder = (
            state.active_run_id or (yield Query("queued_runs", {"conversation_id": conversation_id, "limit": 1}))[0][0]
        )
        raise Conflict(
            f"Another request for conversation {conversation_id} is currently being processed (run {holder}). "
            "Wait for it to end or cancel it.",
            run_id=holder,
        )
    if state.queued >= max_queued:
        raise Unavailable(f"{max_queued} messages are already waiting for {conversation_id}. Send again later.")
    fence: int | None = None
    # a run whose worker is gone is gone on with first: what comes later must not stand between its message and its answer
    busy = bool(state.queued) or state.active_run_id is not None or not start
    if not busy:
        fence = yield from _take_lease(conversation_id, run.id, owner, until, now, seen=state)
        busy = fence is None  # by the database's clock somebody still holds it
    yield _insert_run(run, inputs, busy=busy)
    admitted = Admission()
    if fence is not None:
        state = yield from _as_leased(state, fence)
        admitted = yield from admit((run.id, run.agent_id), state, inputs, now)
    if admitted.refused is None:  # what is refused now may be sent again later
        yield from _remember(run, otids, key)
    if (url := run.config.callback_url) is not None:
        yield Query("insert_callback", {"run_id": run.id, "url": url, "due_us": now}, later=True)
    if fence is None:
        return Accepted(run.id)
    lease = Lease(conversation_id, run.id, owner, fence)
    return Accepted(run.id, lease=lease, state=state, admitted=admitted, fresh=not admitted.closed)


def _insert_run(run: Run, inputs: tuple[Message, ...], *, busy: bool) -> Query:
    """`busy`: it waits, and its messages with it."""
    return Query(
        "insert_run",
        {
            "id": run.id,
            "agent_id": run.agent_id,
            "conversation_id": run.conversation_id,
            "status": "created" if busy else "running",
            "background": int(run.background),
            "created_us": run.created_us,
            "attempts": 0 if busy else 1,
            "config": _json(run.config),
            "input": _json(inputs) if busy else b"[]",
            "metadata": _json(run.metadata) if run.metadata else None,
        },
        later=True,
    )


def _remember(run: Run, otids: tuple[str, ...], key: RequestKey | None) -> Tx[None]:
    """Know the request again when it is sent again."""
    of = {"conversation_id": run.conversation_id, "run_id": run.id, "now": run.created_us}
    for otid in otids:
        yield Query("insert_otid", {**of, "otid": otid}, later=True)
    if key is not None:
        yield from put_key(run.conversation_id, key, run.id, run.created_us)


def put_key(conversation_id: str, key: RequestKey, run_id: str, now: int) -> Tx[None]:
    row = {"conversation_id": conversation_id, "key": key.key, "digest": key.digest, "run_id": run_id, "now": now}
    yield Query("put_request_key", row, later=True)


def known_run(conversation_id: str, otids: tuple[str, ...], key: RequestKey | None, now: int) -> Tx[str | None]:
    """The run of a request that was accepted before. Conflict if its key was another request's."""
    for otid in otids:
        rows = yield Query("otid_run", {"conversation_id": conversation_id, "otid": otid}, provisional=True)
        if rows:
            return rows[0][0]
    return None if key is None else (yield from run_of_key(conversation_id, key, now))


def run_of_key(conversation_id: str, key: RequestKey, now: int) -> Tx[str | None]:
    """The run (or batch) that was asked for under this key; None if none was, lately. Conflict if it was for something else."""
    rows = yield Query("request_key", {"conversation_id": conversation_id, "key": key.key}, provisional=True)
    if not rows or rows[0][2] < now - KEY_LIFE_US:
        return None
    digest, run_id, _ = rows[0]
    if bytes(digest) != key.digest:
        raise Conflict(
            f"Idempotency-Key {key.key!r} was used for another request ({run_id}). Send this one under a key of its own.",
            run_id=run_id,
        )
    return run_id


def _take_lease(
    conversation_id: str,
    run_id: str,
    owner: str,
    until: int,
    now: int,
    *,
    dead_owner: str = "",
    seen: ConversationState | None = None,
) -> Tx[int | None]:
    """The lease's fence, or None: somebody holds it. `seen`: what it is presumed to be still, with nobody holding it."""
    rows = yield Query(
        "take_lease",
        {
            "conversation_id": conversation_id,
            "run_id": run_id,
            "owner": owner,
            "until": until,
            "now": now,
            "dead_owner": dead_owner,
            "seen": seen.mark if seen is not None else None,
        },
        presumed=None if seen is None else ((seen.fence + 1,),),
    )
    return rows[0][0] if rows else None


def _as_leased(state: ConversationState, fence: int) -> Tx[ConversationState]:
    """The conversation as it was when its lease was taken: another process may have been here since we looked."""
    if fence == state.fence + 1:
        return state
    return run_view(state.id, (yield Query("conversation_for_run", {"id": state.id}))[0])


def claim_next(
    conversation_id: str, *, owner: str, until: int, now: int, dead_owner: str = "", patient: bool = True
) -> Tx[Accepted | None]:
    """Claim the conversation's interrupted or oldest queued run, if it is free; None if there is nothing to do.

    Not `patient`: one that somebody else is just writing to is left to them.
    """
    if not patient and not (yield Query("lock_conversation", {"id": conversation_id})):
        return None
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
            yield Query("delete_run_otids", {"id": run_id, "conversation_id": conversation_id})
            yield Query("forget_request_key", {"conversation_id": conversation_id, "run_id": run_id})
    return Accepted(run_id, lease=Lease(conversation_id, run_id, owner, fence), state=state, admitted=admitted)
