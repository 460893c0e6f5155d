"""What a model's endpoint does wrong, before and within its answer: one error that says what it was, asked again only while
nothing was shown, and an agent that answers the next message."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles import wire
from tests.doubles.openai_chat import OpenAIDouble, Turn, call, failure, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import frames, post

LIMIT_S = 0.7
HTML = {"content-type": "text/html"}
JSON = {"content-type": "application/json"}
PAGE = "<!doctype html><html><head><title>Bad gateway</title></head><body>nginx at 10.0.0.7</body></html>"
OVERLOADED = {"message": "The server is overloaded.", "type": "overloaded_error"}
SAID = "this will break off here"


def said(**more: Any) -> Turn:
    return text(SAID, pieces=8, **more)


# The turn, asked how often, HTTP status, type of the error in a stream, whether some of the answer is shown before it.
FAULTS: dict[str, tuple[Turn, int, int, str, bool]] = {
    "no first token": (said(delay_s=30), 1, 504, "llm_timeout", False),
    "silence between tokens": (said(pause_s=30), 1, 504, "llm_timeout", False),
    "silence after some words": (said(pause_s=30, pause_after=4), 1, 504, "llm_timeout", True),
    "too many requests": (failure(429, {"error": {"message": "Slow"}}, {"retry-after": "0"}), 3, 429, "llm_rate_limit", False),
    "told to come back much later": (
        failure(429, {"error": {"message": "Slow"}}, {"retry-after": "3600"}), 1, 429, "llm_rate_limit", False,
    ),
    "overloaded": (failure(503, {"error": OVERLOADED}), 3, 503, "llm_error", False),
    "overloaded before a word": (said(error_after=1, error=OVERLOADED), 3, 503, "llm_error", False),
    "overloaded after some words": (said(error_after=4, error=OVERLOADED), 1, 503, "llm_error", True),
    "refused key": (failure(401, {"error": {"message": "Incorrect API key"}}), 1, 401, "llm_authentication", False),
    "dropped before a word": (said(die_after=1), 3, 502, "llm_error", False),
    "dropped after some words": (said(die_after=4), 1, 502, "llm_error", True),
    "a proxy's page": (failure(502, PAGE, HTML), 3, 502, "llm_error", False),
    "a page for an answer": (failure(200, PAGE, HTML), 3, 502, "llm_error", False),
    "an empty answer": (failure(200, "", JSON), 3, 500, "llm_empty_response", False),
    "an empty stream": (failure(200, "", {"content-type": "text/event-stream"}), 3, 502, "llm_error", False),
    "JSON of something else": (failure(200, {"hello": "world"}, JSON), 3, 500, "llm_empty_response", False),
    "a list for an object": (failure(200, [1, 2], JSON), 3, 500, "llm_error", False),
    "choices that are none": (failure(200, {"choices": "none"}, JSON), 3, 500, "llm_error", False),
    "an error with status 200": (
        failure(200, {"error": {"message": "No such model", "type": "invalid_request_error"}}, JSON), 1, 400,
        "llm_bad_request", False,
    ),
    "no credits": (
        failure(429, {"error": {"message": "x", "code": "insufficient_quota"}}), 1, 402, "llm_insufficient_credits", False,
    ),
    "a prompt that can never fit": (
        failure(400, {"error": {"message": "Prompt exceeds max length", "code": "1261"}}), 1, 400,
        "llm_error", False,
    ),
    "no choices": (failure(200, {"choices": []}, JSON), 3, 500, "llm_empty_response", False),
}  # fmt: skip


@pytest.fixture(scope="module")
def hole() -> Iterator[int]:
    with wire.hole() as port:
        yield port


@pytest.fixture(scope="module")
def double() -> Iterator[OpenAIDouble]:
    made = OpenAIDouble()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, double: OpenAIDouble, hole: int) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("perdure")
    config = folder / "perdure.toml"
    config.write_text(
        f"""
        [providers.hasty]
        base_url = "{double.base_url}"
        api_key = "sk-secret"
        first_byte_timeout_s = {LIMIT_S}
        between_timeout_s = {LIMIT_S}

        [providers.hole]
        base_url = "http://127.0.0.1:{hole}/v1"
        models = ["m"]
        connect_timeout_s = {LIMIT_S}
        """
    )
    process = ServerProcess(folder / "data", {"PERDURE_CONFIG": str(config)})
    yield process
    assert process.stop() == 0, process.log()


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Letta:
    return Letta(base_url=server.url, max_retries=0)


def asked(server: ServerProcess, agent: Any, streamed: bool) -> tuple[int, str, str, dict[str, Any]]:
    """(status, type of error, words shown before it, the error) of a message that fails."""
    body = {"input": "Hi", "streaming": streamed, "stream_tokens": streamed}
    status, raw = post(
        f"{server.url}/v1/agents/{agent.id}/messages", {key: value for key, value in body.items() if value}
    )
    if not streamed:
        answer = json.loads(raw)
        error = answer.get("error") or {"type": "llm_error", "message": answer["detail"]}
        return status, error["type"], "", error
    seen = frames(raw)
    stop, (event, error), done = seen[-3:]
    assert (event, done, stop["message_type"]) == ("error", "[DONE]", "stop_reason")
    assert sum(isinstance(each, tuple) for each in seen) == 1
    shown = "".join(each["content"] for each in seen[:-3] if each["message_type"] == "assistant_message")
    return status, error["error_type"], shown, error


@pytest.mark.parametrize("streamed", [False, True], ids=["sync", "streamed"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_once_and_over(
    server: ServerProcess, client: Letta, double: OpenAIDouble, name: str, streamed: bool
) -> None:
    turn, attempts, status, error_type, shows = FAULTS[name]
    agent = client.agents.create(model="hasty/gpt-test", include_base_tools=False)
    double.default = turn
    double.requests.clear()
    found = asked(server, agent, streamed)
    double.default = text("ok")
    assert len(double.requests) == attempts
    told = error_type if streamed or error_type != "llm_empty_response" else "llm_error"  # as the wire has it
    assert found[:2] == (200 if streamed else status, told)
    assert bool(found[2]) == (shows and streamed) and SAID.startswith(found[2])
    assert "hasty" in found[3]["message"]
    assert not {"sk-secret", "10.0.0.7"} & set(str(found[3]).split())
    assert [run.status for run in client.runs.list(agent_id=agent.id).items] == ["failed"]
    [step] = client.steps.list(agent_id=agent.id).items
    trace: Any = client.steps.trace.retrieve(step.id)
    assert trace.request_json["messages"][-1]["content"] == "Hi"
    assert found[3]["message"] == trace.response_json["error"]["message"]
    answer = client.agents.messages.create(agent_id=agent.id, input="And now?")
    assert [message.content for message in answer.messages] == ["ok"]
    sent = [(each["role"], each["content"]) for each in double.requests[-1]["messages"]][1:]
    assert sent == [("user", "Hi"), ("user", "And now?")]


@pytest.mark.parametrize("streamed", [False, True], ids=["sync", "streamed"])
def test_a_host_that_takes_no_connection(server: ServerProcess, client: Letta, streamed: bool) -> None:
    agent = client.agents.create(model="hole/m", include_base_tools=False)
    status, error_type, _, error = asked(server, agent, streamed)
    assert (status, error_type) == (200 if streamed else 504, "llm_timeout")
    assert f"no connection within {LIMIT_S:g} s" in error["message"]


@pytest.mark.parametrize("streamed", [False, True], ids=["sync", "streamed"])
@pytest.mark.parametrize("first", [
    failure(429, {"error": {"message": "Slow"}}, {"retry-after": "0"}),
    failure(502, PAGE, HTML),
    said(error_after=1, error=OVERLOADED),
    said(die_after=1),
], ids=["too many requests", "a proxy's page", "overloaded before a word", "dropped before a word"])  # fmt: skip
def test_what_passes_is_never_seen(client: Letta, double: OpenAIDouble, first: Turn, streamed: bool) -> None:
    agent = client.agents.create(model="hasty/gpt-test", include_base_tools=False)
    double.script(first)
    if streamed:
        frames_seen = client.agents.messages.create(agent_id=agent.id, input="Hi", streaming=True, stream_tokens=True)
        shown = "".join(each.content for each in frames_seen if each.message_type == "assistant_message")
    else:
        shown = "".join(each.content for each in client.agents.messages.create(agent_id=agent.id, input="Hi").messages)
    assert shown == "ok"


@pytest.mark.parametrize("streamed", [False, True], ids=["sync", "streamed"])
@pytest.mark.parametrize(
    "name", ["silence after some words", "refused key", "dropped after some words", "a page for an answer"]
)
def test_a_fault_in_a_later_step_leaves_the_steps_before_it(
    server: ServerProcess, client: Letta, double: OpenAIDouble, name: str, streamed: bool
) -> None:
    turn, attempts, status, error_type, shows = FAULTS[name]
    agent = client.agents.create(
        model="hasty/gpt-test",
        include_base_tools=False,
        tools=["memory_insert"],
        memory_blocks=[{"label": "human", "value": "Ada"}],
    )
    double.requests.clear()
    double.script(call("memory_insert", {"label": "human", "new_string": "likes tea"}))
    double.default = turn
    found = asked(server, agent, streamed)
    double.default = text("ok")
    assert len(double.requests) == 1 + attempts
    assert found[:2] == (200 if streamed else status, error_type) and bool(found[2]) == (shows and streamed)
    assert "likes tea" in client.agents.blocks.retrieve("human", agent_id=agent.id).value
    assert [step.status for step in client.steps.list(agent_id=agent.id, order="asc")] == ["success", "failed"]
    answer = client.agents.messages.create(agent_id=agent.id, input="And now?")
    assert [message.content for message in answer.messages] == ["ok"]
    roles = [each["role"] for each in double.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "user"]
