"""What a conversation waits for: calls that a person must approve or a client must run, and how an answer is judged.

Invariant: judging is pure. Whatever is answered, every call of the request gets exactly one return, and from every state some
message leads on: an answer, a cancellation, or any message at all once the request has expired.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.errors import Conflict, Invalid, RequestError
from perdure.core.ids import new_id, new_otid
from perdure.core.messages import Approval, Message, ToolReturn

NOTHING_PENDING = "No tool call is currently awaiting approval."
CANCELLED = "The request was cancelled before anybody answered it."
EXPIRED = "Nobody answered the request in time."
INTERRUPTED = "The call was interrupted. Whether it took effect is not known."


class PendingCall(Struct, frozen=True, omit_defaults=True):
    """One call of the parked step. `asks`: it waits for an answer (the others run once that has come); `client`: the client
    runs it and answers with its return."""

    id: str
    name: str
    asks: bool = True
    client: bool = False


class Pending(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a conversation waits for. `calls`: all calls of the parked step, in the model's order.

    `expires_us`: when the request denies itself (None: never). `answered_by`: the run that is carrying the answers out.
    """

    request_id: str
    run_id: str
    step_id: str
    at_us: int
    calls: tuple[PendingCall, ...]
    expires_us: int | None = None
    answered_by: str | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        return tuple(call.id for call in self.calls if call.asks)

    def waits(self, now: int) -> bool:
        """Whether an answer can still be given."""
        return self.answered_by is None and not self.expired(now)

    def expired(self, now: int) -> bool:
        return self.expires_us is not None and self.expires_us <= now


class Verdict(Struct, frozen=True):
    """What becomes of a submission: `inputs` to store now, `later` to store once the calls are answered; or `refused`.

    `answers`: the submission answers the request. `closed`: the request is over and these messages end it.
    """

    inputs: tuple[Message, ...] = ()
    later: tuple[Message, ...] = ()
    answers: bool = False
    closed: tuple[Message, ...] = ()
    refused: RequestError | None = None


def is_answer(inputs: Sequence[Message]) -> bool:
    """Whether a submission's first message answers a request (the only place where one may stand)."""
    return bool(inputs) and inputs[0].role == "approval"


def judge(
    pending: Pending | None, inputs: tuple[Message, ...], now: int, *, agent_id: str, conversation_id: str
) -> Verdict:
    """What to do with a submission to a conversation that is free. Answers of nothing that waits are refused."""
    if is_answer(inputs):
        if pending is None:
            return Verdict(refused=Invalid(NOTHING_PENDING))
        if not pending.waits(now):
            why = EXPIRED if pending.answered_by is None else "The request has been answered."
            return Verdict(refused=Invalid(f"{NOTHING_PENDING} {why}"))
        try:
            answer = matched(pending, inputs[0])
        except RequestError as wrong:
            return Verdict(refused=wrong)
        return Verdict(inputs=(answer,), later=inputs[1:], answers=True)
    if pending is None:
        return Verdict(inputs=inputs)
    if pending.waits(now):
        return Verdict(refused=still_waiting(pending))
    reason = INTERRUPTED if pending.answered_by is not None else EXPIRED
    closed = closing(pending, reason, agent_id=agent_id, conversation_id=conversation_id, now=now)
    return Verdict(inputs=inputs, closed=closed)


def still_waiting(pending: Pending) -> Conflict:
    message = (
        "The agent is waiting for approval of a tool call and takes no other message meanwhile: approve or deny the pending "
        "request, or cancel its run."
    )
    detail: dict[str, Any] = {
        "code": "PENDING_APPROVAL",
        "message": message,
        "pending_request_id": pending.request_id,
    }
    return Conflict(message, detail=detail)


def matched(pending: Pending, answer: Message) -> Message:
    """The answer with each call's name on its return. Invalid unless it answers exactly the calls that wait."""
    answer = _by_request_id(pending, answer)
    given = answered_ids(answer)
    expected = pending.asked
    if len(set(given)) != len(given):
        raise Invalid("approvals: a tool call is answered twice; give one answer for each tool_call_id.")
    if set(given) != set(expected):
        raise Invalid(
            f"approvals: the answers are for other tool calls than those awaiting approval. Expected {sorted(expected)}, "
            f"received {sorted(given)}."
        )
    names = {call.id: call.name for call in pending.calls}
    clients = {call.id for call in pending.calls if call.client}
    for approval in answer.approvals:
        if approval.approve and approval.tool_call_id in clients:
            raise Invalid(
                f"approvals: {names[approval.tool_call_id]} ({approval.tool_call_id}) is run by the client. Send what it "
                'returned, as {"type": "tool", "tool_call_id", "status", "tool_return"}, or deny it.'
            )
    returns = tuple(msgspec.structs.replace(each, name=names[each.tool_call_id]) for each in answer.tool_returns)
    return msgspec.structs.replace(answer, tool_returns=returns)


def answered_ids(answer: Message) -> list[str]:
    return [each.tool_call_id for each in (*answer.approvals, *answer.tool_returns)]


def _by_request_id(pending: Pending, answer: Message) -> Message:
    """Older clients answer the request by its message id: fine for its only call, and for denying all of them."""
    if len(answer.approvals) != 1 or answer.tool_returns or answer.approvals[0].tool_call_id != pending.request_id:
        return answer
    lone = answer.approvals[0]
    if lone.approve and len(pending.asked) > 1:
        return answer
    approvals = tuple(msgspec.structs.replace(lone, tool_call_id=call_id) for call_id in pending.asked)
    return msgspec.structs.replace(answer, approvals=approvals)


def denial(name: str, reason: str | None) -> str:
    """What the model is told in place of a return."""
    said = f" Reason: {reason}" if reason else ""
    return f"Error: the request to call {name} was denied.{said}"


def closing(
    pending: Pending,
    reason: str,
    *,
    agent_id: str,
    conversation_id: str,
    now: int,
    run_id: str | None = None,
    returns: Mapping[str, ToolReturn] = {},
) -> tuple[Message, ...]:
    """The messages that end a request which nobody answers any more: the denial (where none was given), and a return for
    each of its calls. `run_id` None: the run that asked. `returns`: call id -> what a call has returned."""
    common: dict[str, Any] = {
        "agent_id": agent_id,
        "conversation_id": conversation_id,
        "run_id": run_id or pending.run_id,
        "created_us": now,
    }
    answered = pending.answered_by is not None
    ends = tuple(
        returns.get(c.id) or ToolReturn(c.id, c.name, "error", _unmet(c, answered, reason), ran=False)
        for c in pending.calls
    )
    tool = Message(id=new_id("message"), role="tool", tool_returns=ends, step_id=pending.step_id, **common)
    if answered:
        return (tool,)
    denials = tuple(Approval(call_id, False, reason, automatic=True) for call_id in pending.asked)
    return (Message(id=new_id("message"), role="approval", approvals=denials, otid=new_otid(), **common), tool)


def _unmet(call: PendingCall, answered: bool, reason: str) -> str:
    if answered:
        return f"Error: {reason}"
    return denial(call.name, reason) if call.asks else f"Error: {call.name} was not run. {reason}"
