"""Agents on providers that hold a conversation to rules of their own: what must come back does, through a real server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles.openai_chat import OpenAIDouble, Turn, calls, failure, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_openai_responses import ROLL

Body = dict[str, Any]
DETAILS = [{"type": "reasoning.encrypted", "index": 0, "format": "openai-responses-v1", "id": "rs_1", "data": "sealed"}]


@pytest.fixture(scope="module")
def shared_double() -> Iterator[OpenAIDouble]:
    made = OpenAIDouble()
    yield made
    made.close()


@pytest.fixture
def double(shared_double: OpenAIDouble) -> Iterator[OpenAIDouble]:
    yield shared_double
    shared_double.reset()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, shared_double: OpenAIDouble) -> Iterator[ServerProcess]:
    env = {f"{name}_BASE_URL": shared_double.base_url for name in ("DEEPSEEK", "MISTRAL", "OPENROUTER")}
    process = ServerProcess(tmp_path_factory.mktemp("perdure"), env | {f"{name[:-9]}_API_KEY": "k" for name in env})
    yield process
    process.stop()


@pytest.fixture
def client(server: ServerProcess) -> Letta:
    return Letta(base_url=server.url, max_retries=0)


def agent_on(client: Letta, provider: str, **more: Any) -> Any:
    tool = client.tools.upsert(source_code=ROLL)
    fields = {"model": f"{provider}/gpt-test", "include_base_tools": False, "tool_ids": [tool.id], **more}
    return client.agents.create(**fields)


def held_to(rule: Callable[[Body], str | None], *turns: Turn) -> list[Callable[[Body], Turn]]:
    """The turns, each for a request that keeps the rule; one that does not is refused in the rule's words."""

    def answer(turn: Turn) -> Callable[[Body], Turn]:
        def check(body: Body) -> Turn:
            wrong = rule(body)
            return (
                turn if wrong is None else failure(400, {"error": {"message": wrong, "type": "invalid_request_error"}})
            )

        return check

    return [answer(turn) for turn in turns]


def missing_thinking(body: Body) -> str | None:
    bare = any(each.get("tool_calls") and not each.get("reasoning_content") for each in body["messages"])
    return "Missing `reasoning_content` field in the assistant message" if bare else None


def wrong_order(body: Body) -> str | None:
    for before, after in zip(body["messages"], body["messages"][1:], strict=False):
        if before["role"] == "tool" and after["role"] == "user":
            return "Unexpected role 'user' after role 'tool'"
    ids = [call["id"] for each in body["messages"] for call in each.get("tool_calls") or ()]
    return "Tool call id must be a-z, A-Z, 0-9, with a length of 9." if any(len(each) != 9 for each in ids) else None


def missing_details(body: Body) -> str | None:
    calling = [each for each in body["messages"] if each.get("tool_calls")]
    lost = any(each.get("reasoning_details") != DETAILS for each in calling)
    return "The reasoning of a call is missing." if lost else None


def test_thinking_goes_back_with_the_calls_it_led_to(client: Letta, double: OpenAIDouble) -> None:
    agent = agent_on(client, "deepseek")
    double.turns.extend(
        held_to(
            missing_thinking,
            {**calls([("call_1", "roll", {"sides": 6})]), "reasoning": "Dice."},
            calls([("call_2", "roll", {"sides": 8})]),
            text("Done.", reasoning="Enough."),
            text("Bye."),
        )
    )
    client.agents.messages.create(agent_id=agent.id, input="Roll")
    answer = client.agents.messages.create(agent_id=agent.id, input="Again")
    assert answer.messages[-1].content == "Bye."
    assert [
        each.get("reasoning_content") for each in double.requests[-1]["messages"] if each["role"] == "assistant"
    ] == [
        "Dice.",
        "(No thinking is on record.)",
        "Enough.",
    ]


def test_ids_and_the_order_of_roles_are_what_the_provider_takes(client: Letta, double: OpenAIDouble) -> None:
    agent = agent_on(client, "mistral", tool_rules=[{"type": "exit_loop", "tool_name": "roll"}])
    double.turns.extend(held_to(wrong_order, calls([("call_of_another_length", "roll", {"sides": 6})]), text("Bye.")))
    first = client.agents.messages.create(agent_id=agent.id, input="Roll")
    assert first.stop_reason.stop_reason == "tool_rule"
    assert client.agents.messages.create(agent_id=agent.id, input="Again").messages[-1].content == "Bye."
    roles = [each["role"] for each in double.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]


def test_details_go_back_as_they_came(client: Letta, double: OpenAIDouble) -> None:
    agent = agent_on(client, "openrouter")
    double.turns.extend(
        held_to(
            missing_details,
            {**calls([("call_1", "roll", {"sides": 6})]), "details": DETAILS},
            {**calls([("call_2", "roll", {"sides": 8})]), "reasoning": "Once more.", "details": DETAILS},
            text("Bye."),
        )
    )
    with client.agents.messages.stream(agent_id=agent.id, input="Roll", stream_tokens=True) as stream:
        kinds = [event.message_type for event in stream]
    assert kinds[-3:] == ["assistant_message", "stop_reason", "usage_statistics"]


@pytest.mark.parametrize(
    ("provider", "rule", "turn"),
    [
        ("openrouter", missing_details, {**calls([("call_1", "roll", {"sides": 6})]), "details": DETAILS}),
        ("deepseek", missing_thinking, {**calls([("call_1", "roll", {"sides": 6})]), "reasoning": "Dice."}),
        ("mistral", wrong_order, calls([("call_of_another_length", "roll", {"sides": 6})])),
    ],
)
def test_what_a_provider_wants_back_is_there_after_a_restart(
    server: ServerProcess, client: Letta, double: OpenAIDouble, provider: str, rule: Any, turn: Turn
) -> None:
    agent = agent_on(client, provider)
    double.turns.extend(held_to(rule, turn, text("Rolled."), text("Bye.")))
    client.agents.messages.create(agent_id=agent.id, input="Roll")
    before = double.requests[-1]["messages"]
    server.kill()
    server.start()
    answer = client.agents.messages.create(agent_id=agent.id, input="Thanks")
    assert answer.messages[-1].content == "Bye."
    assert double.requests[-1]["messages"][1 : len(before)] == before[1:]
