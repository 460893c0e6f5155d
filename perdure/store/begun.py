"""Intents and receipts of tool calls: what a step was about to do, and what has come of it so far.

Invariant: written under the fence of the run's lease and gone with the step's commit, so a row that is there belongs to a step
that was never committed. The receipt of a committed step is its tool message.
"""

import msgspec

from perdure.core.begun import Begun
from perdure.core.events import Event
from perdure.core.messages import Message, ToolReturn
from perdure.store.base import Query, Tx
from perdure.store.events import events_after
from perdure.store.messages import insert_messages, messages_of_run
from perdure.store.runs import Lease

_pack = msgspec.msgpack.Encoder().encode
_begun = msgspec.msgpack.Decoder(Begun).decode
_return = msgspec.msgpack.Decoder(ToolReturn).decode

INTENT = ""


def keep_intent(lease: Lease, begun: Begun) -> Tx[None]:
    """Before the first call runs. LeaseLost if the fence is void; may be run again."""
    yield from _put(lease, begun.step.id, INTENT, _pack(begun))


def keep_receipt(lease: Lease, step_id: str, answer: ToolReturn) -> Tx[None]:
    """What one of the calls returned, while others are still under way."""
    yield from _put(lease, step_id, answer.tool_call_id, _pack(answer))


def shown_so_far(run_id: str) -> Tx[tuple[list[Event], list[str]]]:
    """A run's stored events, and the ids of its stored messages."""
    events = yield from events_after(run_id, 0)
    messages = yield from messages_of_run(run_id)
    return [event for _, event in events], [message.id for message in messages]


def keep_abandoned(lease: Lease, message: Message) -> Tx[None]:
    """What a lost worker had shown of an answer. LeaseLost if the fence is void; may be run again."""
    yield from lease.checked("hold_fence")
    if not (yield Query("message_by_id", {"id": message.id})):
        yield from insert_messages((message,))


def _put(lease: Lease, step_id: str, call_id: str, body: bytes) -> Tx[None]:
    yield from lease.checked("hold_fence")
    yield Query(
        "keep_begun", {"run_id": lease.run_id, "step_id": step_id, "call_id": call_id, "body": body}, later=True
    )


def begun_step(run_id: str) -> Tx[Begun | None]:
    """The step a run was in the middle of when its worker was lost, with the receipts there are."""
    rows = yield Query("begun_of_run", {"run_id": run_id})
    found = next((_begun(body) for _, call_id, body in rows if call_id == INTENT), None)
    if found is None:
        return None
    returns = {call_id: _return(body) for step_id, call_id, body in rows if call_id and step_id == found.step.id}
    return msgspec.structs.replace(found, returns=returns)
