"""A stored message and its stream of deltas have the same parts, ids and otids."""

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.events import ReasoningDelta, Said, TextDelta, ToolCallDelta
from perdure.core.expand import expand
from perdure.core.ids import new_id, part_otid
from perdure.core.messages import Message, ReasoningPart, TextPart, ToolCall
from perdure.core.model import ModelDone, ReasoningChunk, TextChunk, ToolCallChunk
from perdure.loop.answer import Answer

chunks = st.lists(
    st.one_of(
        st.builds(TextChunk, st.text(min_size=1, max_size=5)),
        st.builds(ReasoningChunk, st.text(min_size=1, max_size=5)),
        st.builds(
            ToolCallChunk, st.integers(0, 2), st.just(None), st.sampled_from(["roll", "look"]), st.just('{"a":1}')
        ),
    ),
    max_size=12,
)


def done_of(given_chunks: list[TextChunk | ReasoningChunk | ToolCallChunk]) -> ModelDone:
    content: list[TextPart | ReasoningPart] = []
    calls: dict[int, ToolCall] = {}
    for chunk in given_chunks:
        if isinstance(chunk, TextChunk):
            content.append(TextPart(chunk.text))
        elif isinstance(chunk, ReasoningChunk):
            content.append(ReasoningPart(chunk.text))
        else:
            calls[chunk.index] = ToolCall(f"call_{chunk.index}", chunk.name or "", chunk.arguments)
    return ModelDone(finish="stop", content=tuple(content), tool_calls=tuple(calls.values()))


@given(chunks)
def test_deltas_join_to_the_stored_parts(given_chunks: list[TextChunk | ReasoningChunk | ToolCallChunk]) -> None:
    answer = Answer(new_id("message"), "step-1", 1, deltas=True)
    named = [
        ToolCallChunk(chunk.index, f"call_{chunk.index}", chunk.name, chunk.arguments)
        if isinstance(chunk, ToolCallChunk)
        else chunk
        for chunk in given_chunks
    ]
    streamed: dict[int, str] = {}
    for event in answer.take(named):
        assert isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta)
        if not isinstance(event, ToolCallDelta):
            streamed[event.part] = streamed.get(event.part, "") + event.text
        else:
            streamed[event.part] = "calls"
    message = answer.message(done_of(named), run_id="r", agent_id="a", conversation_id="a", model="m")
    stored = {
        event.part: event.text or event.reasoning or "calls" for event in expand(message) if isinstance(event, Said)
    }
    assert stored == streamed


def test_parts_have_the_message_uuid_with_their_index_in_the_low_bits() -> None:
    otid = part_otid("message-00000000-0000-4000-8000-0000000000ff", 2)
    assert otid == "00000000-0000-4000-8000-000000000082"


def test_an_answer_that_says_nothing_is_hidden() -> None:
    answer = Answer(new_id("message"), "step-1", 1, deltas=False)
    message = answer.message(
        ModelDone(finish="stop", content=()), run_id="r", agent_id="a", conversation_id="a", model="m"
    )
    assert message.hidden
    assert expand(message) == []


def test_adjacent_texts_are_one_part() -> None:
    message = Message(
        id=new_id("message"), role="assistant", created_us=1, content=(TextPart("a"), TextPart("b"), ReasoningPart("c"))
    )
    assert [(event.text, event.reasoning) for event in expand(message)] == [("ab", None), (None, "c")]  # type: ignore[union-attr]
