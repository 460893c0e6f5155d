"""Stored messages as the history a model is given."""

from typing import Any

import pytest

from perdure.core.history import history
from perdure.core.messages import Approval, Message, Parked, TextPart, ToolCall, ToolReturn


def message(id: str, role: Any, **more: Any) -> Message:
    return Message(id=id, role=role, created_us=1, **more)


def calls(*ids: str) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(call_id, "t", "{}") for call_id in ids)


def returns(id: str, *ids: str) -> Message:
    return message(id, "tool", tool_returns=tuple(ToolReturn(call_id, "t", "success", "x") for call_id in ids))


ANSWER = message("m2", "assistant", content=(TextPart("Hm."),), tool_calls=calls("a", "c"), step_id="s1")
REQUEST = message("m1", "approval", tool_calls=calls("b"), step_id="s1", parked=Parked(order=("a", "b", "c")))
RESPONSE = message("m3", "approval", approvals=(Approval("b", True),))
USER = message("u", "user", content=(TextPart("hi"),))


def shape(messages: list[Message]) -> list[tuple[str, list[str]]]:
    return [
        (each.role, [call.id for call in each.tool_calls] + [one.tool_call_id for one in each.tool_returns])
        for each in messages
    ]


def test_a_parked_step_is_one_message_in_the_models_order() -> None:
    found = history([USER, ANSWER, REQUEST])
    assert shape(found.messages) == [("user", []), ("assistant", ["a", "b", "c"])]
    assert found.messages[1].id == "m2"
    assert found.messages[1].text == "Hm."
    assert found.answer is None


def test_an_answer_that_is_not_carried_out_is_kept_apart() -> None:
    found = history([USER, ANSWER, REQUEST, RESPONSE])
    assert shape(found.messages)[-1] == ("assistant", ["a", "b", "c"])
    assert found.answer == RESPONSE


def test_an_answer_that_was_carried_out_is_left_out() -> None:
    found = history([USER, ANSWER, REQUEST, RESPONSE, returns("t", "a", "b", "c"), USER])
    assert shape(found.messages)[1:] == [("assistant", ["a", "b", "c"]), ("tool", ["a", "b", "c"]), ("user", [])]
    assert found.answer is None


def test_a_request_of_another_server_may_hold_all_of_its_step() -> None:
    alone = message("m1", "approval", content=(TextPart("Hm."),), tool_calls=calls("a", "b"), step_id="s1")
    assert shape(history([USER, alone]).messages) == [("user", []), ("assistant", ["a", "b"])]


@pytest.mark.parametrize("asked", [[ANSWER], [ANSWER, REQUEST], [ANSWER, REQUEST, RESPONSE]])
def test_calls_that_nobody_answered_are_closed(asked: list[Message]) -> None:
    found = history([USER, *asked, USER])
    assert [role for role, _ in shape(found.messages)] == ["user", "assistant", "tool", "user"]
    assert found.messages[1].tool_calls and not found.answer
    assert [each.tool_call_id for each in found.messages[2].tool_returns] == [
        c.id for c in found.messages[1].tool_calls
    ]
    assert {each.status for each in found.messages[2].tool_returns} == {"error"}
    again = history([USER, *asked, USER])
    assert [each.id for each in again.messages] == [each.id for each in found.messages]


def test_only_the_calls_that_are_left_open_are_closed() -> None:
    found = history([ANSWER, returns("t", "a"), USER])
    assert shape(found.messages) == [("assistant", ["a", "c"]), ("tool", ["c"]), ("tool", ["a"]), ("user", [])]


def test_returns_of_calls_that_are_not_there_are_left_out() -> None:
    assert shape(history([returns("t", "a"), USER, returns("t2", "b")]).messages) == [("user", [])]
