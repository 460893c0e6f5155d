"""Agents on Claude: a real server in front of the Anthropic double, which refuses what the API refuses."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.anthropic import (
    MODEL,
    AnthropicDouble,
    blocks,
    call,
    failure,
    redacted,
    signature_of,
    text,
    thinking,
)
from tests.e2e.conftest import ServerProcess

ADAPTIVE = "claude-opus-5-5"
THINKING = {
    "provider_type": "anthropic",
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "max_output_tokens": 8000,
}
ROLL = '''
def roll(sides: int) -> str:
    """Roll a die.

    Args:
        sides (int): how many sides it has
    """
    return f"rolled {sides}"
'''


@pytest.fixture(scope="module")
def claude() -> Iterator[AnthropicDouble]:
    double = AnthropicDouble((MODEL, ADAPTIVE))
    yield double
    double.close()


@pytest.fixture(autouse=True)
def clean_claude(claude: AnthropicDouble) -> Iterator[None]:
    yield
    claude.turns.clear()
    claude.requests.clear()
    claude.headers.clear()
    assert claude.refused == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, claude: AnthropicDouble) -> Iterator[ServerProcess]:
    env = {"ANTHROPIC_BASE_URL": claude.base_url, "ANTHROPIC_API_KEY": "sk-ant-secret"}
    process = ServerProcess(tmp_path_factory.mktemp("perdure"), env)
    yield process
    assert process.stop() == 0, process.log()


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Letta:
    return Letta(base_url=server.url, max_retries=0)


@pytest.fixture
def roll(client: Letta) -> Any:
    return client.tools.upsert(source_code=ROLL)


def agent_of(client: Letta, model: str = MODEL, **fields: Any) -> Any:
    given: dict[str, Any] = {"include_base_tools": False, "model_settings": THINKING, **fields}
    return client.agents.create(model=f"anthropic/{model}", **given)


def streamed(client: Letta, agent: Any, said: str) -> list[Any]:
    stream = client.agents.messages.create(agent_id=agent.id, input=said, streaming=True, stream_tokens=True)
    return [frame for frame in stream if frame.message_type != "ping"]


def joined(frames: list[Any], kind: str, field: str) -> list[tuple[str, str]]:
    """(otid, text) of each message of a kind, its deltas joined."""
    found: dict[str, str] = {}
    for frame in frames:
        if frame.message_type == kind:
            found[frame.otid] = found.get(frame.otid, "") + (getattr(frame, field) or "")
    return list(found.items())


def test_thinking_and_tools_over_several_turns(client: Letta, claude: AnthropicDouble, roll: Any) -> None:
    agent = agent_of(client, tool_ids=[roll.id])
    claude.script(
        blocks(
            thinking("They want a die."), redacted("b3BhcXVl"), "Rolling.", call("roll", {"sides": 6}, id="toolu_1")
        ),
        blocks(
            thinking("Two more."),
            call("roll", {"sides": 8}, id="toolu_2"),
            thinking("And this one, for luck."),
            call("roll", {"sides": 20}, id="toolu_3"),
        ),
        blocks(thinking("All known."), "It rolled."),
        blocks(thinking("Greeted."), "You are welcome."),
    )
    first = streamed(client, agent, "Roll some dice")
    reasoning = [told for _, told in joined(first, "reasoning_message", "reasoning")]
    assert reasoning == ["They want a die.", "Two more.", "And this one, for luck.", "All known."]
    assert [told for _, told in joined(first, "assistant_message", "content")] == ["Rolling.", "It rolled."]
    returns = [frame.tool_return for frame in first if frame.message_type == "tool_return_message"]
    assert returns[0] == "rolled 6" and len(returns) == 2
    assert first[-2].message_type == "stop_reason" and first[-2].stop_reason == "end_turn"
    hidden = [frame for frame in first if frame.message_type == "hidden_reasoning_message"]
    assert [(frame.state, frame.hidden_reasoning) for frame in hidden] == [("redacted", "b3BhcXVl")]
    streamed(client, agent, "Thanks")
    sent = claude.requests[-1]["messages"]
    kinds = [[block["type"] for block in message["content"]] for message in sent]
    assert kinds == [
        ["text"],
        ["thinking", "redacted_thinking", "text", "tool_use"],
        ["tool_result"],
        ["thinking", "tool_use", "thinking", "tool_use"],
        ["tool_result", "tool_result"],
        ["thinking", "text"],
        ["text"],
    ]
    assert sent[1]["content"][0]["signature"] == signature_of("They want a die.")
    assert claude.requests[0]["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert claude.headers[0]["x-api-key"] == "sk-ant-secret"
    assert claude.headers[0]["anthropic-beta"] == "interleaved-thinking-2025-05-14"


def test_streamed_deltas_are_the_listed_messages(client: Letta, claude: AnthropicDouble, roll: Any) -> None:
    agent = agent_of(client, tool_ids=[roll.id])
    claude.script(
        blocks(thinking("a"), call("roll", {"sides": 6}), thinking("b"), call("roll", {"sides": 8}, id="toolu_2")),
        blocks(thinking("c"), "Done."),
    )
    frames = streamed(client, agent, "Roll")
    listed = client.agents.messages.list(agent_id=agent.id, order="asc").items
    for kind, field in (("reasoning_message", "reasoning"), ("assistant_message", "content")):
        kept = [(item.otid, getattr(item, field)) for item in listed if item.message_type == kind]
        assert joined(frames, kind, field) == kept
    signed = [item.signature for item in listed if item.message_type == "reasoning_message"]
    assert signed == [signature_of("a"), signature_of("b"), signature_of("c")]


def test_calls_that_a_person_approves_go_back_between_their_thoughts(
    client: Letta, claude: AnthropicDouble, roll: Any
) -> None:
    agent = agent_of(client, tool_ids=[roll.id])
    client.agents.tools.update_approval(agent_id=agent.id, tool_name="roll", body_requires_approval=True)
    claude.script(
        blocks(
            thinking("a"),
            call("roll", {"sides": 6}),
            thinking("b"),
            call("roll", {"sides": 8}, id="toolu_2"),
        ),
        blocks(thinking("c"), "Done."),
    )
    asked = streamed(client, agent, "Roll")
    assert asked[-2].stop_reason == "requires_approval"
    approvals: Any = [
        {"type": "approval", "tool_call_id": "toolu_1", "approve": True},
        {"type": "approval", "tool_call_id": "toolu_2", "approve": False, "reason": "enough"},
    ]
    answered = client.agents.messages.create(agent_id=agent.id, messages=[{"type": "approval", "approvals": approvals}])
    assert answered.messages[-1].content == "Done."
    sent = claude.requests[-1]["messages"]
    assert [block["type"] for block in sent[1]["content"]] == ["thinking", "tool_use", "thinking", "tool_use"]
    assert [block.get("is_error", False) for block in sent[2]["content"]] == [False, True]


def test_thinking_that_is_not_shown_leaves_no_empty_message(client: Letta, claude: AnthropicDouble) -> None:
    agent = agent_of(client, ADAPTIVE, model_settings={"thinking": {"type": "adaptive", "display": "omitted"}})
    claude.script(blocks(thinking(""), "Hello."))
    frames = streamed(client, agent, "Hi")
    assert [frame.message_type for frame in frames[:-2]] == ["assistant_message"] * len(frames[:-2])
    listed = client.agents.messages.list(agent_id=agent.id, order="asc").items
    assert [item.message_type for item in listed][-2:] == ["user_message", "assistant_message"]
    assert joined(frames, "assistant_message", "content") == [(listed[-1].otid, "Hello.")]
    client.agents.messages.create(agent_id=agent.id, input="Again")
    kept = {"type": "thinking", "thinking": "", "signature": signature_of("")}
    assert claude.requests[-1]["messages"][1]["content"][0] == kept


def test_thinking_goes_back_after_a_restart(tmp_path: Path, claude: AnthropicDouble) -> None:
    env = {"ANTHROPIC_BASE_URL": claude.base_url, "ANTHROPIC_API_KEY": "sk-ant"}
    process = ServerProcess(tmp_path / "server", env)
    try:
        client = Letta(base_url=process.url, max_retries=0)
        agent = agent_of(client)
        claude.script(blocks(thinking("Greeted."), redacted("b3BhcXVl"), "Hello."))
        client.agents.messages.create(agent_id=agent.id, input="Hi")
        process.kill()
        process.start()
        client.agents.messages.create(agent_id=agent.id, input="Again")
        sent = claude.requests[-1]["messages"]
        thought = {"type": "thinking", "thinking": "Greeted.", "signature": signature_of("Greeted.")}
        hidden = {"type": "redacted_thinking", "data": "b3BhcXVl"}
        assert sent[1]["content"] == [thought, hidden, {"type": "text", "text": "Hello."}]
    finally:
        process.stop()


def test_each_turn_reads_what_the_one_before_it_cached(client: Letta, claude: AnthropicDouble, roll: Any) -> None:
    agent = agent_of(client, tool_ids=[roll.id])
    claude.script(blocks(thinking("x"), call("roll", {"sides": 6})))
    client.agents.messages.create(agent_id=agent.id, input="Roll")
    for _ in range(2):
        usage = client.agents.messages.create(agent_id=agent.id, input="More").usage
        assert usage.cached_input_tokens and usage.cached_input_tokens >= usage.prompt_tokens - 3
    for request in claude.requests:
        assert request["tools"][-1]["cache_control"] and request["system"][-1]["cache_control"]


def test_a_model_that_always_thinks_shows_its_thinking(client: Letta, claude: AnthropicDouble) -> None:
    agent = agent_of(client, ADAPTIVE, model_settings={"provider_type": "anthropic", "effort": "low"})
    claude.script(blocks(thinking("Hm."), "Hello."))
    answer = client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert [message.message_type for message in answer.messages] == ["reasoning_message", "assistant_message"]
    sent = claude.requests[-1]
    assert sent["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert sent["output_config"] == {"effort": "low"} and "temperature" not in sent


def test_memory_is_shown_with_numbered_lines_and_edited_without_them(client: Letta, claude: AnthropicDouble) -> None:
    agent = agent_of(
        client, memory_blocks=[{"label": "human", "value": "Ada\nlikes tea"}], include_base_tools=True, tool_ids=[]
    )
    edit = {"label": "human", "old_string": "2→ likes tea", "new_string": "likes coffee"}
    right = {"label": "human", "old_string": "likes tea", "new_string": "likes coffee"}
    claude.script(blocks(call("memory_replace", edit)), blocks(call("memory_replace", right, id="toolu_2")))
    client.agents.messages.create(agent_id=agent.id, input="I like coffee")
    assert "1→ Ada\n2→ likes tea" in claude.requests[0]["system"][0]["text"]
    refused = claude.requests[1]["messages"][2]["content"][0]
    assert refused["is_error"] and "line numbers" in refused["content"]
    assert client.agents.blocks.retrieve(agent_id=agent.id, block_label="human").value == "Ada\nlikes coffee"


def test_models_are_listed_with_their_true_windows(client: Letta) -> None:
    listed = {model.handle: model for model in client.models.list()}
    model = listed[f"anthropic/{MODEL}"]
    assert (model.max_context_window, model.provider_type, model.model_endpoint_type) == (
        200_000,
        "anthropic",
        "anthropic",
    )


def test_overload_before_anything_was_shown_is_tried_again(client: Letta, claude: AnthropicDouble) -> None:
    agent = agent_of(client)
    claude.script(failure(529, "overloaded_error"), text("lost", error_after=1), text("Here."))
    answer = client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert answer.messages[-1].content == "Here." and len(claude.requests) == 3


def test_overload_after_that_is_told_and_the_agent_stays_usable(client: Letta, claude: AnthropicDouble) -> None:
    agent = agent_of(client)
    claude.script(text("Once upon a time", error_after=4))
    with pytest.raises(APIStatusError):
        streamed(client, agent, "Tell me a story")
    assert len(claude.requests) == 1
    assert client.agents.messages.create(agent_id=agent.id, input="Hi").messages[-1].content == "ok"


@pytest.mark.parametrize(
    ("turn", "status", "kind"),
    [
        (failure(401, "authentication_error"), 401, "llm_authentication"),
        (failure(429, "rate_limit_error", headers={"retry-after": "60"}), 429, "llm_rate_limit"),
        (failure(402, "billing_error", "Your credit balance is too low"), 402, "llm_insufficient_credits"),
    ],
)
def test_failures_are_told_apart(
    client: Letta, claude: AnthropicDouble, turn: dict[str, Any], status: int, kind: str
) -> None:
    agent = agent_of(client)
    claude.script(turn)
    with pytest.raises(APIStatusError) as refused:
        client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert refused.value.status_code == status and kind in refused.value.response.text
    assert "sk-ant-secret" not in refused.value.response.text


def test_history_of_another_provider_is_read_without_its_thinking(
    tmp_path: Path, claude: AnthropicDouble, engine: Any, own_server: Callable[..., ServerProcess]
) -> None:
    process = own_server(ANTHROPIC_BASE_URL=claude.base_url, ANTHROPIC_API_KEY="sk-ant")
    client = Letta(base_url=process.url, max_retries=0)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False)
    engine.script({"content": "Hello.", "reasoning": "Unsigned."})
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    client.agents.update(agent_id=agent.id, model=f"anthropic/{MODEL}", model_settings=THINKING)
    client.agents.messages.create(agent_id=agent.id, input="Again")
    sent = claude.requests[-1]["messages"]
    assert sent[1] == {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]}
