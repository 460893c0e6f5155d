"""Where a conversation is cut: never through a call and its answer, never behind what still waits, always smaller."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.ids import new_id
from perdure.core.messages import Approval, ImagePart, Message, TextPart, ToolCall, ToolReturn
from perdure.loop.cuts import (
    IMAGE_CHARS,
    Room,
    Sizes,
    cut_at,
    cut_of_all,
    legal_cuts,
    message_length,
    room_in,
    unanswered_from,
    worth_it,
)
from perdure.loop.sizes import shared_sizes


def said(role: Any, text: str = "", *, step: str | None = None, **more: Any) -> Message:
    content = (TextPart(text),) if text else ()
    return Message(id=new_id("message"), role=role, created_us=1, content=content, step_id=step, **more)


def asks(*ids: str, step: str = "s", role: Any = "assistant") -> Message:
    return said(role, step=step, tool_calls=tuple(ToolCall(each, "f", "{}") for each in ids))


def returns(*ids: str, step: str = "s") -> Message:
    return said("tool", step=step, tool_returns=tuple(ToolReturn(each, "f", "success", "1") for each in ids))


@st.composite
def step_of_model(draw: st.DrawFn) -> list[Message]:
    """One step: words, or calls with their answers, some of them by way of an approval, in any of their orders."""
    step = new_id("step")
    # ids that come again with every answer, as some providers have them
    ids = [f"call_{at}" for at in range(draw(st.integers(0, 3)))]
    if not ids:
        return [said("assistant", draw(st.text(max_size=40)), step=step)]
    if draw(st.booleans()):
        return [asks(*ids, step=step), returns(*ids, step=step)]
    decided = tuple(Approval(each, draw(st.booleans())) for each in ids)
    between = [said("user", "and?")] if draw(st.booleans()) else []
    asked = [asks(*ids, step=step, role="approval"), said("approval", approvals=decided)]
    answered = [returns(each, step=new_id("step")) for each in ids] if draw(st.booleans()) else [returns(*ids)]
    return [*asked, *between, *answered]


@st.composite
def conversation(draw: st.DrawFn) -> list[Message]:
    messages = [said("summary", "notes")] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 8))):
        if draw(st.booleans()):
            messages.append(said("user", draw(st.text(min_size=1, max_size=60))))
        messages += draw(step_of_model())
    match draw(st.sampled_from(["", "question", "pending", "pending mixed"])):
        case "question":
            messages.append(said("user", "well?"))
        case "pending":
            messages.append(asks("call_0", "call_1", role="approval", step="last"))
        case "pending mixed":
            messages += [asks("call_0", role="approval", step="last"), asks("call_1", step="last")]
            messages.append(returns("call_1", step="last"))
        case _:
            pass
    return messages


def sizes(messages: list[Message], draw: Any = None) -> Sizes:
    return Sizes(fixed=50.0, each=tuple(10.0 + message_length(message) for message in messages), basis="counted")


def open_calls(messages: list[Message]) -> Counter[str]:
    """Calls without an answer, by id."""
    waiting: Counter[str] = Counter()
    for message in messages:
        waiting.update(call.id for call in message.tool_calls)
        answers = {answer.tool_call_id for answer in (*message.tool_returns, *message.approvals)}
        for each in answers:
            waiting[each] = 0
    return +waiting


def check(messages: list[Message], at: int) -> None:
    gone, kept = messages[:at], messages[at:]
    assert not open_calls(gone), "a call went and its answer stayed"
    made: set[str] = set()
    for message in kept:
        made |= {call.id for call in message.tool_calls}
        assert {answer.tool_call_id for answer in message.tool_returns} <= made, "an answer stayed without its call"
    assert at <= unanswered_from(messages)
    assert open_calls(kept) == open_calls(messages)


@given(conversation())
def test_no_cut_parts_a_call_from_its_answer(messages: list[Message]) -> None:
    for at in legal_cuts(messages):
        assert 0 < at < len(messages)
        assert messages[at].role in ("assistant", "approval")
        check(messages, at)


@given(conversation())
def test_giving_up_everything_keeps_what_waits(messages: list[Message]) -> None:
    check(messages, cut_of_all(messages))


@given(conversation(), st.floats(0.05, 1.0), st.floats(0, 2_000), st.integers(16, 200))
def test_a_window_is_cut_where_it_may_be_and_gets_smaller(
    messages: list[Message], share: float, tail: float, summary: int
) -> None:
    room = Room(tail=tail, most=2 * tail, summary=summary)
    at = cut_at(messages, sizes(messages), share, room)
    if at == 0:
        return
    assert at in legal_cuts(messages) and worth_it(messages, sizes(messages), at, room)
    assert sum(sizes(messages).each[at:]) <= room.most
    check(messages, at)


@given(conversation(), st.sampled_from(["sliding", "all"]))
def test_compacting_again_and_again_comes_to_an_end(messages: list[Message], mode: str) -> None:
    for _ in range(len(messages) + 2):
        room = Room(tail=100.0, most=400.0, summary=16)
        at = cut_at(messages, sizes(messages), 0.3, room) if mode == "sliding" else cut_of_all(messages)
        if at == 0 or not worth_it(messages, sizes(messages), at, room):
            return
        before = sum(1 for message in messages if message.role != "summary")
        messages = [said("summary", "n"), *messages[at:]]
        assert sum(1 for message in messages if message.role != "summary") < before
    raise AssertionError("never ends")


def test_at_least_the_share_is_given_up_and_more_until_the_rest_fits() -> None:
    messages = [said(role, "x" * 90) for _ in range(10) for role in ("user", "assistant")]
    assert cut_at(messages, sizes(messages), 0.3, Room(tail=2_000.0, most=2_000.0, summary=50)) == 7
    assert cut_at(messages, sizes(messages), 0.3, Room(tail=700.0, most=700.0, summary=50)) == 13
    assert cut_at(messages, sizes(messages), 0.3, Room(tail=50.0, most=50.0, summary=50)) == 0


def test_a_pending_approval_is_never_given_up() -> None:
    messages = [said("user", "a"), said("assistant", "b", step="1"), said("user", "c"), asks("x", role="approval")]
    assert cut_of_all(messages) == 3
    assert legal_cuts(messages) == [1, 3]


def test_among_tools_the_last_answer_stays_in_view() -> None:
    messages = [said("user", "x" * 500)]
    for step in range(6):
        messages += [asks("c", step=str(step)), returns("c", step=str(step))]
    at = cut_at(messages, sizes(messages), 0.3, Room(tail=0.0, most=100.0, summary=50))
    assert [message.role for message in messages[at:]] == ["assistant", "tool"]


def test_a_call_nobody_answered_and_the_model_forgot_holds_nothing_up() -> None:
    messages = [asks("lost", step="1"), said("user", "go on"), said("assistant", "yes", step="2"), said("user", "?")]
    assert legal_cuts(messages) == [2]


@pytest.mark.parametrize(("window", "summary"), [(2_000, 250), (200, 48), (32_768, 2_048)])
def test_a_small_window_gets_a_small_summary(window: int, summary: int) -> None:
    assert room_in(window, 100.0, 0.3).summary == summary


def test_a_big_fixed_part_leaves_half_of_what_is_free() -> None:
    room = room_in(2_000, 1_200.0, 0.3)
    assert room.tail == pytest.approx(1_500 - 1_200 - 250)
    assert room_in(2_000, 1_790.0, 0.3).tail == 0.0


def test_a_total_is_shared_out_by_length() -> None:
    messages = [said("user", "x" * 300), said("assistant", "y" * 100)]
    shared = shared_sizes(600, messages, 250)
    assert (shared.basis, shared.fixed, shared.each) == ("shared", 150.0, (75.0, 25.0))
    assert shared.total == 250


@pytest.mark.parametrize("total", [None, 0, 5, 100_000])
def test_a_total_that_cannot_be_of_this_text_is_not_believed(total: int | None) -> None:
    assert shared_sizes(600, [said("user", "x" * 400)], total).basis == "unknown"


def test_length_counts_words_calls_answers_and_images() -> None:
    assert message_length(said("user", "four")) == 4
    assert message_length(asks("c")) == 3
    assert message_length(returns("c")) == 1
    picture = ToolReturn("c", "f", "success", (TextPart("ab"), ImagePart(url="http://x")))
    assert message_length(said("tool", tool_returns=(picture,))) == 2 + IMAGE_CHARS
