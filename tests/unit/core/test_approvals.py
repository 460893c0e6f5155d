"""How answers to an approval request are judged, and how a request that nobody answers ends."""

from typing import Any

import pytest

from perdure.core.approvals import Pending, PendingCall, Verdict, answered_ids, closing, judge
from perdure.core.errors import Conflict, Invalid
from perdure.core.messages import Approval, Message, TextPart, ToolReturn

NOW = 1_000
USER = Message(id="u", role="user", created_us=1, content=(TextPart("hi"),))


def pending(*asked: str, **more: Any) -> Pending:
    calls = (*(PendingCall(call_id, "t") for call_id in asked), PendingCall("free", "f", asks=False))
    given: dict[str, Any] = {"request_id": "message-1", "run_id": "run-1", "step_id": "step-1", "at_us": 1}
    return Pending(**(given | {"calls": calls} | more))


def answer(*approvals: Approval, returns: tuple[ToolReturn, ...] = ()) -> Message:
    return Message(id="a", role="approval", created_us=1, approvals=approvals, tool_returns=returns)


def judged(waits: Pending | None, *inputs: Message) -> Verdict:
    return judge(waits, inputs, NOW, agent_id="agent-1", conversation_id="conv-1")


def test_a_plain_message_goes_in_where_nothing_waits() -> None:
    assert judged(None, USER) == Verdict(inputs=(USER,))


def test_a_plain_message_is_refused_while_a_request_waits() -> None:
    refused = judged(pending("c"), USER).refused
    assert isinstance(refused, Conflict)
    assert refused.detail is not None
    assert refused.detail["pending_request_id"] == "message-1"


def test_an_answer_goes_in_and_what_follows_it_waits() -> None:
    verdict = judged(pending("c"), answer(Approval("c", True)), USER)
    assert verdict.answers
    assert [message.id for message in verdict.inputs] == ["a"]
    assert verdict.later == (USER,)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [Approval("other", True)],
        [Approval("c", True)],
        [Approval("c", True), Approval("d", True), Approval("free", True)],
        [Approval("c", True), Approval("d", True), Approval("d", False)],
        [Approval("message-1", True)],
    ],
)
def test_an_answer_must_be_for_exactly_the_calls_that_wait(given: list[Approval]) -> None:
    assert isinstance(judged(pending("c", "d"), answer(*given)).refused, Invalid)


def test_a_request_may_be_answered_by_its_own_id() -> None:
    """For its only call; and a denial of it is one of all its calls."""
    [found] = judged(pending("c"), answer(Approval("message-1", True))).inputs
    assert answered_ids(found) == ["c"]
    [found] = judged(pending("c", "d"), answer(Approval("message-1", False, "no"))).inputs
    assert found.approvals == (Approval("c", False, "no"), Approval("d", False, "no"))


def test_a_clients_call_is_answered_with_its_return() -> None:
    waits = pending(calls=(PendingCall("c", "look", client=True),))
    [found] = judged(waits, answer(returns=(ToolReturn("c", "", "success", "x"),))).inputs
    assert found.tool_returns[0].name == "look"
    assert judged(waits, answer(Approval("c", False))).answers
    assert isinstance(judged(waits, answer(Approval("c", True))).refused, Invalid)


@pytest.mark.parametrize("over", [{"expires_us": NOW}, {"answered_by": "run-2"}])
def test_a_request_that_is_over_takes_no_answer_and_stops_nobody(over: dict[str, Any]) -> None:
    waits = pending("c", **over)
    assert isinstance(judged(waits, answer(Approval("c", True))).refused, Invalid)
    verdict = judged(waits, USER)
    assert verdict.inputs == (USER,)
    assert [each.tool_call_id for each in verdict.closed[-1].tool_returns] == ["c", "free"]


def test_no_answer_is_taken_where_nothing_waits() -> None:
    refused = judged(None, answer(Approval("c", True))).refused
    assert isinstance(refused, Invalid)
    assert refused.message == "No tool call is currently awaiting approval."


def test_a_closed_request_says_why_to_everybody() -> None:
    response, tool = closing(pending("c"), "Too late.", agent_id="agent-1", conversation_id="conv-1", now=NOW)
    assert response.approvals == (Approval("c", False, "Too late.", automatic=True),)
    assert all("Too late." in str(each.content) and not each.ran for each in tool.tool_returns)
    assert tool.step_id == "step-1"
    [only] = closing(pending("c", answered_by="run-2"), "Cut.", agent_id="agent-1", conversation_id="conv-1", now=NOW)
    assert only.role == "tool"
