"""What is pinned stays whole: a call with its returns, an answer with what it answers, however often the rest is cut."""

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.history import history
from perdure.core.messages import Message
from perdure.loop.cuts import Room, cut_at, cut_of_all, worth_it
from perdure.loop.pins import apart, pinned_positions, spans, staying
from tests.unit.loop.test_cuts import asks, conversation, open_calls, returns, said, sizes


def whole(messages: list[Message]) -> list[Message]:
    """As a run has them: parked steps joined, everything answered but what waits."""
    return history(messages).messages


def after(messages: list[Message], pins: set[str], at: int) -> list[Message]:
    measured = apart(sizes(messages), pinned_positions(messages, pins))
    return [said("summary", "notes"), *staying(messages, measured, at), *messages[at:]]


@given(conversation(), st.data())
def test_pins_survive_one_compaction_after_the_other_and_no_call_loses_its_return(
    stored: list[Message], data: st.DataObject
) -> None:
    messages = whole(stored)
    pinnable = [message.id for message in messages if message.role != "summary"]
    pins = set(data.draw(st.lists(st.sampled_from(pinnable), max_size=4))) if pinnable else set()
    stay = {messages[at].id for at in pinned_positions(messages, pins)}
    waiting = open_calls(messages)
    for _ in range(len(messages) + 2):
        measured = apart(sizes(messages), pinned_positions(messages, pins))
        room = Room(tail=100.0, most=400.0, summary=16)
        everything = data.draw(st.booleans())
        at = cut_of_all(messages) if everything else cut_at(messages, measured, 0.3, room)
        if at == 0 or not worth_it(messages, measured, at, room):
            break
        shorter = after(messages, pins, at)
        assert len(shorter) <= len(messages)
        assert stay <= {message.id for message in shorter}
        places = {message.id: place for place, message in enumerate(messages)}
        order = [places[message.id] for message in shorter[1:]]
        assert order == sorted(order)
        messages = shorter
        for place, message in enumerate(messages):
            if message.role == "tool":
                called = (
                    {call.id for call in messages[place - 1].tool_calls} if messages[place - 1].tool_calls else None
                )
                assert called is None or {each.tool_call_id for each in message.tool_returns} <= called
        assert open_calls(messages) == waiting
    else:
        raise AssertionError("never ends")


@given(conversation(), st.data())
def test_the_spans_name_what_stays(stored: list[Message], data: st.DataObject) -> None:
    messages = whole(stored)
    if not messages:
        return
    pins = set(data.draw(st.lists(st.sampled_from([message.id for message in messages]), max_size=4)))
    cut = data.draw(st.integers(0, len(messages)))
    measured = apart(sizes(messages), pinned_positions(messages, pins))
    ids = [message.id for message in messages]
    named: list[str] = []
    for first, until in spans(messages, measured, cut):
        named += ids[ids.index(first) : None if until is None else ids.index(until)]
    assert named == [message.id for message in staying(messages, measured, cut)]


def test_a_pinned_return_keeps_its_call_and_a_pinned_answer_its_question() -> None:
    messages = [
        said("user", "what is the code?"),
        said("assistant", "4711"),
        said("user", "look it up"),
        asks("a", "b"),
        returns("a", "b"),
        said("assistant", "done"),
    ]
    assert pinned_positions(messages, {messages[1].id}) == {0, 1}
    assert pinned_positions(messages, {messages[4].id}) == {3, 4}
    assert pinned_positions(messages, {messages[3].id}) == {3, 4}
    assert pinned_positions(messages, {messages[2].id}) == {2}


def test_what_is_pinned_counts_as_fixed() -> None:
    messages = [said("user", "x" * 90), said("assistant", "y" * 90)]
    plain = sizes(messages)
    measured = apart(plain, frozenset({0}))
    assert (measured.total, measured.fixed, measured.each[0]) == (plain.total, plain.fixed + 100, 0)


def test_a_summary_is_never_pinned() -> None:
    summary = said("summary", "notes")
    assert pinned_positions([summary, said("user", "hi")], {summary.id}) == frozenset()


def test_a_compaction_that_would_only_take_the_last_summary_is_not_worth_it() -> None:
    messages = [said("summary", "n" * 500), said("user", "x" * 90), said("assistant", "y")]
    measured = apart(sizes(messages), frozenset({1, 2}))
    assert not worth_it(messages, measured, 3, Room(tail=0, most=0, summary=16))
