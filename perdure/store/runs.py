"""Runs as they are kept: read, cancelled, and watched over by their leases.

Only the holder of the conversation's lease (run, owner and fence number, checked in the same statement) can write.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.errors import LeaseLost, NotFound
from perdure.core.events import Event, LogEnded, RunStopped
from perdure.core.runs import Run, RunConfig, Usage
from perdure.store.base import Many, Query, Row, Tx

_config = msgspec.json.Decoder(RunConfig).decode
_usage = msgspec.json.Decoder(Usage).decode
_dict = msgspec.json.Decoder(dict[str, Any]).decode


_pack = msgspec.msgpack.Encoder().encode
_END: list[Event] = [RunStopped("cancelled"), LogEnded()]  # all that ever happened to a run that never began


_HELD = ((True,),)
PARKED = "at the provider"  # who holds the conversation of a run that waits for a provider's batch: no process, so never dead


class Lease(Struct, frozen=True):
    """The right to write to one conversation: void once `fence` is not the conversation's any more."""

    conversation_id: str
    run_id: str
    owner: str
    fence: int

    @property
    def params(self) -> dict[str, Any]:
        return {
            "conversation_id": self.conversation_id,
            "run_id": self.run_id,
            "owner": self.owner,
            "fence": self.fence,
        }

    def checked(self, query: str, **values: Any) -> Tx[None]:
        """Run a `query` on the conversation that does something only under this fence. LeaseLost if it is void."""
        if not (yield Query(query, self.params | values, presumed=_HELD)):
            raise LeaseLost(f"Run {self.run_id} is not ours any more: another worker took over its conversation.")


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
    """Ask for a run's end: "cancelled" at once if it was only queued, "requested" if a worker has it, "freed" if it waited for
    a provider's batch and whoever looks next ends it, else "ended"."""
    rows = yield Query("cancel_queued_run", {"id": run_id, "now": now})
    if rows:
        yield Query("insert_events", {"run_id": run_id, "first_seq": 1, "last_seq": len(_END), "body": _pack(_END)})
        return "cancelled"
    if not (yield Query("request_cancel", {"id": run_id})):
        return "ended"
    return "freed" if (yield Query("unpark_conversation", {"run_id": run_id, "parked": PARKED})) else "requested"


def hand_over(lease: Lease) -> Tx[None]:
    """Let anyone take up a run from its last committed step at once. It does not count as an attempt that failed."""
    if (yield Query("hand_over", lease.params)):
        yield Query("forgive_attempt", {"id": lease.run_id})


def renew_leases(conversation_ids: Iterable[str], owner: str, until: int, now: int) -> Tx[None]:
    lease = {"owner": owner, "until": until, "now": now}
    yield Many("renew_lease", [{"conversation_id": item, **lease} for item in conversation_ids])


def cancel_requests() -> Tx[list[str]]:
    """The running runs that somebody wants ended."""
    rows = yield Query("cancel_requests")
    return [row[0] for row in rows]


def orphaned_conversations(now: int, dead_owner: str = "", *, limit: int = 100) -> Tx[list[str]]:
    """Conversations with work that nobody holds: agents in turn, those first that have least under way, then those whose last
    run ended longest ago."""
    rows = yield Query("orphaned_runs", {"now": now, "dead_owner": dead_owner, "limit": limit})
    return list(dict.fromkeys(row[1] for row in rows))


def count_waiting() -> Tx[int]:
    """How many runs were accepted and not begun."""
    rows = yield Query("count_waiting")
    return int(rows[0][0])


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
