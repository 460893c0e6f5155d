"""The same conversations through every provider's translator: the request sent, the events, any cut, streamed and whole."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.core.errors import ProviderError
from perdure.core.events import Event, Said
from perdure.core.expand import expand
from perdure.core.messages import HiddenReasoningPart, Message, ReasoningPart, TextPart
from perdure.core.model import (
    Chunk,
    HiddenReasoningChunk,
    ModelDone,
    Prompt,
    ReasoningChunk,
    TextChunk,
    ToolCallChunk,
)
from perdure.loop.answer import Answer
from perdure.providers.http import Http
from perdure.providers.retries import Retries
from tests.contract.conversations import CONVERSATIONS, OWN, Conversation
from tests.contract.speakers import Outcome, Speaker, Wraps, expected_calls, expected_content, expected_usage, play
from tests.contract.translators.anthropic_messages import AnthropicSpeaker
from tests.contract.translators.clouds import BedrockSpeaker, VertexSpeaker
from tests.contract.translators.dialects import MinimaxSpeaker, MistralSpeaker, OllamaSpeaker, OpenRouterSpeaker
from tests.contract.translators.gemini import GeminiSpeaker
from tests.contract.translators.openai_chat import OpenAIChatSpeaker
from tests.contract.translators.openai_responses import OpenAIResponsesSpeaker
from tests.doubles.wire import END, HEAD, Wire, chunk

SPEAKERS: tuple[Speaker, ...] = (
    OpenAIChatSpeaker(),
    OpenAIResponsesSpeaker(),
    AnthropicSpeaker(),
    BedrockSpeaker(),
    VertexSpeaker(),
    GeminiSpeaker(),
    OpenRouterSpeaker(),
    MistralSpeaker(),
    MinimaxSpeaker(),
    OllamaSpeaker(),
)

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = os.environ.get("PERDURE_UPDATE_SNAPSHOTS") == "1"
EVERY_CUT_BELOW = 6000

CASES = [
    pytest.param(speaker, conversation, id=f"{speaker.name}-{conversation.name}")
    for speaker in SPEAKERS
    for conversation in CONVERSATIONS
    if conversation.needs <= speaker.can
]
each_case = pytest.mark.parametrize(("speaker", "conversation"), CASES)


@pytest.fixture
async def http():  # type: ignore[no-untyped-def]
    made = Http(sleep=lambda _: asyncio.sleep(0))
    yield made
    await made.close()


@pytest.fixture
async def wire():  # type: ignore[no-untyped-def]
    made = Wire()
    await made.start()
    yield made
    await made.stop()


def prompt_of(speaker: Speaker, conversation: Conversation) -> Prompt:
    def owned(message: Message) -> Message:
        if message.model != OWN:
            return message
        message = msgspec.structs.replace(message, model=speaker.handle)
        return speaker.wrapped(message) if isinstance(speaker, Wraps) else message

    return Prompt(
        model=speaker.handle.partition("/")[2],
        model_handle=speaker.handle,
        system="Be brief.",
        messages=[owned(message) for message in conversation.messages],
        tools=conversation.tools,
        assistant_message_id="message-answer",
        **conversation.more,
    )


async def ask(
    speaker: Speaker, conversation: Conversation, http: Http, wire: Wire, *, stream: bool
) -> tuple[Outcome, list[tuple[str, dict[str, str], bytes]]]:
    """The outcome of a real call, and the requests it took."""
    said = conversation.said
    if stream:
        kind = speaker.stream_type.encode()
        head = HEAD.replace(b"text/event-stream", kind)
        wire.answers = [[head + chunk(speaker.streamed(said)) + END]]
    else:
        whole = speaker.whole(said)
        assert whole is not None
        status, body = whole
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        wire.answers = [[head.encode() + body]]
    model = speaker.model(http, wire.url, stream=stream)
    chunks: list[Chunk] = []
    done: ModelDone | None = None
    error = None
    try:
        async for batch in model.stream(prompt_of(speaker, conversation)):
            for item in batch:
                if isinstance(item, ModelDone):
                    done = item
                else:
                    chunks.append(item)
    except ProviderError as failure:
        error = (failure.kind, failure.retryable, failure.message)
    return Outcome(tuple(chunks), done, error), wire.requests


def stored(outcome: Outcome) -> Message:
    """The message the loop stores for an answer."""
    assert outcome.done is not None
    answer = Answer("message-answer", "step-1", 1, deltas=False)
    answer.take(outcome.chunks)
    return answer.message(outcome.done, run_id="run-1", agent_id="agent-1", conversation_id="c", model="m")


def events_of(outcome: Outcome) -> list[Event]:
    answer = Answer("message-answer", "step-1", 1, deltas=True)
    return answer.take(outcome.chunks)


def as_data(value: Any) -> dict[str, Any]:
    found = {key: each for key, each in msgspec.to_builtins(value).items() if each is not None and each is not True}
    return {"type": type(value).__name__, **found}


def pretty(value: Any, indent: str = "") -> str:
    """JSON whose short values stand on one line."""
    line = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(line) + len(indent) < 120 or not isinstance(value, dict | list) or not value:
        return line.replace("\u2028", "\\u2028")
    inner = indent + " "
    if isinstance(value, dict):
        items = [f"{inner}{json.dumps(key)}: {pretty(value[key], inner)}" for key in sorted(value)]
    else:
        items = [inner + pretty(each, inner) for each in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + "\n" + ",\n".join(items) + "\n" + indent + closing


def shown(outcome: Outcome) -> dict[str, Any]:
    """An outcome as its snapshot has it; `exchange` is a trace, told apart by its own tests."""
    found: dict[str, Any] = {"chunks": [as_data(each) for each in outcome.chunks]}
    if outcome.done is not None:
        done = msgspec.to_builtins(msgspec.structs.replace(outcome.done, exchange=None))
        found["done"] = {key: value for key, value in done.items() if value not in (None, [], {}, ())}
    if outcome.error is not None:
        found["error"] = list(outcome.error)
    return found


@each_case
async def test_the_request_and_the_events(speaker: Speaker, conversation: Conversation, http: Http, wire: Wire) -> None:
    outcome, requests = await ask(speaker, conversation, http, wire, stream=True)
    line, headers, body = requests[0]
    kept = {name: value for name, value in headers.items() if name not in ("host", "content-length", "user-agent")}
    now = {
        "request": {"line": line, "headers": kept, "body": speaker.shown(json.loads(body))},
        **shown(outcome),
    }
    path = SNAPSHOTS / speaker.name / f"{conversation.name}.json"
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(pretty(now) + "\n")
    assert path.exists(), f"no snapshot {path}: look at the outcome, then run with PERDURE_UPDATE_SNAPSHOTS=1"
    assert json.loads(json.dumps(now)) == json.loads(path.read_text())


@each_case
def test_what_was_said_comes_out(speaker: Speaker, conversation: Conversation) -> None:
    said = conversation.said
    outcome = play(speaker.translator(), [speaker.streamed(said)])
    if conversation.error is not None:
        assert outcome.done is None and outcome.error is not None
        assert outcome.error[:2] == conversation.error
        return
    done = outcome.done
    assert outcome.error is None and done is not None
    content = tuple(speaker.opened(part) for part in done.content) if isinstance(speaker, Wraps) else done.content
    assert content == expected_content(speaker, said)
    calls = [(call.id if speaker.keeps_call_ids else "", call.name, call.arguments) for call in done.tool_calls]
    wanted = [(call.id if speaker.keeps_call_ids else "", call.name, call.arguments) for call in expected_calls(said)]
    assert calls == wanted
    assert len({call.id for call in done.tool_calls}) == len(calls)
    assert done.usage == expected_usage(speaker, said)
    if conversation.name == "refusal":
        assert done.extra.get("refusal") is True
    else:
        assert done.finish == said.finish


@each_case
def test_chunks_joined_are_the_answer(speaker: Speaker, conversation: Conversation) -> None:
    outcome = play(speaker.translator(), [speaker.streamed(conversation.said)])
    if outcome.done is None:
        return
    texts = "".join(each.text for each in outcome.chunks if isinstance(each, TextChunk))
    thinking = "".join(each.text for each in outcome.chunks if isinstance(each, ReasoningChunk))
    signatures = [each.signature for each in outcome.chunks if isinstance(each, ReasoningChunk) and each.signature]
    hidden = [each.data for each in outcome.chunks if isinstance(each, HiddenReasoningChunk)]
    calls: dict[int, list[str]] = {}
    for each in outcome.chunks:
        if isinstance(each, ToolCallChunk):
            entry = calls.setdefault(each.index, [each.id or "", each.name or "", ""])
            entry[2] += each.arguments
    content = outcome.done.content
    assert texts == "".join(part.text for part in content if isinstance(part, TextPart))
    assert thinking == "".join(part.text for part in content if isinstance(part, ReasoningPart))
    assert signatures == [part.signature for part in content if isinstance(part, ReasoningPart) and part.signature]
    assert hidden == [part.data for part in content if isinstance(part, HiddenReasoningPart)]
    assert [tuple(calls[index]) for index in sorted(calls)] == [
        (call.id, call.name, call.arguments) for call in outcome.done.tool_calls
    ]


@each_case
def test_any_cut_of_the_bytes_gives_the_same_events(speaker: Speaker, conversation: Conversation) -> None:
    body = speaker.streamed(conversation.said)
    whole = shown_alike(speaker, play(speaker.translator(), [body]))
    assert shown_alike(speaker, play(speaker.translator(), [body[at : at + 1] for at in range(len(body))])) == whole
    if len(body) < EVERY_CUT_BELOW:
        for at in range(1, len(body)):
            assert shown_alike(speaker, play(speaker.translator(), [body[:at], body[at:]])) == whole, at


@each_case
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_cuts_give_the_same_events(speaker: Speaker, conversation: Conversation, data: st.DataObject) -> None:
    body = speaker.streamed(conversation.said)
    whole = shown_alike(speaker, play(speaker.translator(), [body]))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(body)), max_size=40)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert shown_alike(speaker, play(speaker.translator(), pieces)) == whole


def shown_alike(speaker: Speaker, outcome: Outcome) -> dict[str, Any]:
    """An outcome without the ids that are made up for calls that came without one."""
    found = shown(outcome)
    if not speaker.keeps_call_ids:
        for each in (*found["chunks"], *found.get("done", {}).get("tool_calls", ())):
            each.pop("id", None)
    return found


@each_case
async def test_streamed_and_whole_are_stored_and_shown_alike(
    speaker: Speaker, conversation: Conversation, http: Http, wire: Wire
) -> None:
    said = conversation.said
    if said.cut or (said.failure is not None and said.items) or speaker.whole(said) is None:
        return  # there is no whole answer that breaks off
    streamed, _ = await ask(speaker, conversation, http, wire, stream=True)
    before = len(wire.requests)
    whole, requests = await ask(speaker, conversation, http, wire, stream=False)
    assert b'"stream":true' not in requests[-1][2]
    if conversation.error is not None:
        assert whole.error is not None and whole.error[0] == conversation.error[0]
        assert len(requests) - before == Retries().attempts
        return
    first, second = stored(streamed), stored(whole)
    if not speaker.keeps_call_ids:
        first, second = _without_call_ids(first), _without_call_ids(second)
    assert second == first
    assert streamed.done is not None and whole.done is not None
    assert (streamed.done.finish, streamed.done.usage) == (whole.done.finish, whole.done.usage)
    assert streamed.done.extra == whole.done.extra


@each_case
def test_deltas_add_up_to_the_parts_that_are_listed_later(speaker: Speaker, conversation: Conversation) -> None:
    outcome = play(speaker.translator(), [speaker.streamed(conversation.said)])
    if outcome.done is None:
        return
    seen: dict[int, str] = {}
    for event in events_of(outcome):
        part: int = getattr(event, "part")  # noqa: B009
        told = getattr(event, "text", None) or getattr(event, "arguments", None) or ""
        seen[part] = seen.get(part, "") + (told if not isinstance(event, Said) else event.hidden_reasoning or "")
    listed: dict[int, str] = {}
    for event in expand(stored(outcome)):
        assert isinstance(event, Said)
        calls = "".join(call.arguments for call in event.tool_calls)
        listed[event.part] = event.text or event.reasoning or event.hidden_reasoning or calls or ""
    assert seen == listed


def _without_call_ids(message: Message) -> Message:
    calls = tuple(msgspec.structs.replace(call, id="") for call in message.tool_calls)
    return msgspec.structs.replace(message, tool_calls=calls)
