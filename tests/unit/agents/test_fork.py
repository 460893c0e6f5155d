"""Where a fork may end: never between a tool call and its return."""

from hypothesis import given
from hypothesis import strategies as st

from perdure.agents.fork import whole
from perdure.core.ids import new_id
from perdure.core.messages import Message, ToolCall, ToolReturn
from perdure.store.message_reads import Placed


def placed(at: int, role: str, **parts: object) -> Placed:
    return Placed(at, Message(id=new_id("message"), role=role, created_us=at, **parts))  # type: ignore[arg-type]


@st.composite
def contexts(draw: st.DrawFn) -> list[Placed]:
    """What users and models say, calls answered at once, bit by bit, or (only the last) not at all."""
    made: list[Placed] = []
    for turn in range(draw(st.integers(0, 6))):
        made.append(placed(len(made), "user"))
        ids = [f"call-{turn}-{n}" for n in range(draw(st.integers(0, 3)))]
        role = draw(st.sampled_from(["assistant", "approval"]))
        made.append(placed(len(made), role, tool_calls=tuple(ToolCall(each, "f", "{}") for each in ids)))
        cut = draw(st.integers(0, len(ids)))
        for some in (ids[:cut], ids[cut:]):
            if some:
                returns = tuple(ToolReturn(each, "f", "success", "x") for each in some)
                made.append(placed(len(made), "tool", tool_returns=returns))
    return made[: draw(st.integers(0, len(made)))]


def waiting(context: list[Placed]) -> set[str]:
    calls = {call.id for each in context for call in each.message.tool_calls}
    return calls - {answer.tool_call_id for each in context for answer in each.message.tool_returns}


@given(contexts(), st.data())
def test_a_cut_leaves_no_call_waiting_and_is_as_near_as_can_be(context: list[Placed], data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(context)))
    kept = list(whole(context, end))
    assert kept == context[: len(kept)]
    assert not waiting(kept)
    sound = [n for n in range(len(context) + 1) if not waiting(context[:n])]
    later = [n for n in sound if n >= max(end, 1)]
    assert len(kept) == (later[0] if later else sound[-1])
