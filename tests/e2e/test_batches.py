"""Batches over HTTP: every request becomes a run, in order, whatever happens to the server or to another request."""

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, failure, text
from tests.e2e.conftest import ServerProcess
from tests.e2e.test_durable_requests import Receiver, receiver, wait_for

__all__ = ["receiver"]


class Batches:
    """`client.batches` as SDKs up to 1.0 have it; the newer ones have none."""

    def __init__(self, client: Letta) -> None:
        self._client = client

    def create(self, requests: list[tuple[str, str]], **fields: Any) -> dict[str, Any]:
        """`requests`: (agent id, what is said)."""
        said = [{"agent_id": id, "messages": [{"role": "user", "content": what}]} for id, what in requests]
        return self.post({"requests": said, **fields})

    def post(self, body: Any) -> Any:
        return self._client.post("/v1/messages/batches", cast_to=object, body=body)

    def retrieve(self, batch_id: str) -> Any:
        return self._client.get(f"/v1/messages/batches/{batch_id}", cast_to=object)

    def list(self, **query: Any) -> Any:
        return self._client.get("/v1/messages/batches", cast_to=object, options={"params": query})

    def cancel(self, batch_id: str) -> None:
        self._client.patch(f"/v1/messages/batches/{batch_id}/cancel", cast_to=object)

    def messages(self, batch_id: str, **query: Any) -> Any:
        path = f"/v1/messages/batches/{batch_id}/messages"
        return self._client.get(path, cast_to=object, options={"params": query})["messages"]  # type: ignore[index]

    def ended(self, batch_id: str, within_s: float = 60) -> Any:
        def look() -> Any:
            job = self.retrieve(batch_id)
            going = job["metadata"]["request_counts"]
            return job if not going["waiting"] and not going["running"] else None

        return wait_for(look, within_s)


@pytest.fixture
def batches(client: Letta) -> Batches:
    return Batches(client)


def echo(body: dict[str, Any]) -> dict[str, Any]:
    said = body["messages"][-1]["content"]
    return failure(400, {"error": {"message": "Not this."}}) if said == "refuse" else text(f"You said {said}.")


@pytest.fixture
def echoing(engine: OpenAIDouble) -> Any:
    engine.default = echo
    yield engine
    engine.default = text("ok")


def said(messages: list[Any]) -> list[str]:
    return [part["text"] for message in messages for part in message["content"]]


def test_every_request_is_answered_in_its_order_and_one_that_fails_fails_alone(
    batches: Batches, client: Letta, echoing: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    one, two = new_agent().id, new_agent().id
    made = batches.create([(one, "a"), (two, "refuse"), (one, "b"), (two, "c"), (one, "d")])
    assert (made["status"], made["job_type"], made["id"][:4]) == ("running", "batch", "job-")
    assert made["metadata"]["request_counts"]["total"] == 5
    job = batches.ended(made["id"])
    assert (job["status"], job["completed_at"] is not None) == ("completed", True)
    counts = {"total": 5, "waiting": 0, "running": 0, "completed": 4, "failed": 1, "cancelled": 0}
    assert job["metadata"]["request_counts"] == counts
    requests = job["metadata"]["requests"]
    assert [each["status"] for each in requests] == ["completed", "failed", "completed", "completed", "completed"]
    assert "Not this." in requests[1]["error"]
    assert client.runs.retrieve(requests[0]["run_id"]).metadata["batch_id"] == job["id"]  # type: ignore[index]
    assert said(batches.messages(job["id"], order="asc", agent_id=one)) == ["You said a.", "You said b.", "You said d."]
    assert said(batches.messages(job["id"], agent_id=two)) == ["You said c."]


def test_messages_of_a_batch_come_in_pages(
    batches: Batches, echoing: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent().id
    job = batches.ended(batches.create([(agent, word) for word in "abcde"])["id"])
    everything = batches.messages(job["id"])
    assert said(everything) == [f"You said {word}." for word in "edcba"]
    assert {message["role"] for message in everything} == {"assistant"}
    items = {each["id"]: each["run_id"] for each in job["metadata"]["requests"]}
    assert [items[message["batch_item_id"]] for message in everything] == [m["run_id"] for m in everything]
    first = batches.messages(job["id"], limit=2)
    rest = batches.messages(job["id"], after=first[-1]["id"])
    assert [m["id"] for m in (*first, *rest)] == [m["id"] for m in everything]
    assert batches.messages(job["id"], before=everything[2]["id"], limit=1) == everything[1:2]


def test_batches_are_listed_while_they_go_on_and_afterwards_if_one_asks(
    batches: Batches, echoing: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent().id
    echoing.script(text("Slow.", delay_s=3))
    going = batches.create([(agent, "wait")])["id"]
    assert going in [job["id"] for job in batches.list()]
    batches.ended(going)
    assert wait_for(lambda: going not in [job["id"] for job in batches.list()] or None)
    assert going in [job["id"] for job in batches.list(active="false")]


def test_a_cancelled_batch_begins_nothing_more_and_keeps_what_was_answered(
    batches: Batches, client: Letta, echoing: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent, other = new_agent().id, new_agent().id
    echoing.script(text("Done."))
    first = batches.ended(batches.create([(other, "x")])["id"])
    with pytest.raises(APIStatusError) as ended:
        batches.cancel(first["id"])
    assert ended.value.status_code == 409
    echoing.default = lambda body: (
        text("Slow.", delay_s=30) if body["messages"][-1]["content"] == "slow" else echo(body)
    )
    made = batches.create([(agent, "a"), (agent, "slow"), (agent, "never"), (other, "b")])
    asked = lambda: any(r["messages"][-1]["content"] == "slow" for r in echoing.requests)  # noqa: E731
    wait_for(lambda: (asked() and batches.retrieve(made["id"])["metadata"]["request_counts"]["completed"] == 2) or None)
    batches.cancel(made["id"])
    job = batches.ended(made["id"], within_s=20)
    assert job["status"] == "cancelled"
    states = [each["status"] for each in job["metadata"]["requests"]]
    assert states == ["completed", "cancelled", "cancelled", "completed"]
    assert not any(r["messages"][-1]["content"] == "never" for r in echoing.requests)
    batches.cancel(made["id"])  # once more changes nothing
    echoing.default = echo
    assert client.agents.messages.create(agent, input="again").messages[0].content == "You said again."


def test_a_batch_goes_on_after_its_server_was_killed(
    own_server: Callable[..., ServerProcess], echoing: OpenAIDouble
) -> None:
    server = own_server(PERDURE_BATCH_CONCURRENCY="2")
    client = Letta(base_url=server.url, max_retries=0)
    agents = [client.agents.create(model="openai/gpt-test", include_base_tools=False).id for _ in range(4)]
    echoing.default = lambda body: {**echo(body), "delay_s": 0.2}
    batches = Batches(client)
    words = [f"word{number}" for number in range(16)]
    made = batches.create([(agents[at % 4], word) for at, word in enumerate(words)])
    wait_for(lambda: (batches.retrieve(made["id"])["metadata"]["request_counts"]["completed"] >= 4) or None)
    server.kill()
    server.start()
    job = batches.ended(made["id"])
    assert job["metadata"]["request_counts"]["completed"] == 16
    for at, agent in enumerate(agents):
        history = [m for m in client.agents.messages.list(agent).items if m.message_type != "system_message"]
        expected = [line for word in words[at::4] for line in (word, f"You said {word}.")]
        assert [m.content for m in history] == expected  # type: ignore[union-attr]


def test_who_asked_for_it_is_told_when_a_batch_has_ended(
    own_server: Callable[..., ServerProcess], echoing: OpenAIDouble, receiver: str
) -> None:
    server = own_server(PERDURE_ALLOW_PRIVATE_URLS="true", PERDURE_CALLBACK_SECRET="shh")
    client = Letta(base_url=server.url, max_retries=0)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False).id
    batches = Batches(client)
    made = batches.create([(agent, "a"), (agent, "b")], callback_url=receiver)
    headers, body = Receiver.heard.get(timeout=20)
    told = json.loads(body)
    assert told == {"job_id": made["id"], "status": "completed", "completed_at": told["completed_at"]}
    at, _, digest = headers["x-perdure-signature"].partition(",v1=")
    expected = hmac.new(b"shh", at.removeprefix("t=").encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(digest, expected)
    job = wait_for(lambda: j if (j := batches.retrieve(made["id"]))["callback_status_code"] == 200 else None)
    assert job["callback_url"] == receiver
    assert Receiver.heard.empty()  # neither a second time, nor once a request


def test_a_batch_without_a_callback_says_it_has_none(
    batches: Batches, echoing: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    job = batches.ended(batches.create([(new_agent().id, "a")])["id"])
    assert (job["callback_url"], job["callback_error"]) == (None, None)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"requests": []}, 422, "requests"),
        ({"requests": [{"messages": [{"role": "user", "content": "x"}]}]}, 422, r"requests[0]: agent_id"),
        ({"requests": [{"agent_id": "agent-0"}]}, 422, "requests[0]: agent_id"),
        (
            {"requests": [{"agent_id": "agent-00000000-0000-4000-8000-000000000000", "input": "x"}]},
            404,
            "requests[0]: Agent not found",
        ),
        ({"callback_url": "None"}, 422, "callback_url"),
    ],
)
def test_a_wrong_request_refuses_the_batch_and_is_named(
    batches: Batches, new_agent: Callable[..., Any], change: dict[str, Any], status: int, said: str
) -> None:
    body = {"requests": [{"agent_id": new_agent().id, "input": "x"}]}
    with pytest.raises(APIStatusError) as refused:
        batches.post(body | change)
    assert refused.value.status_code == status
    assert said in str(refused.value)


def test_a_batch_that_is_handed_in_again_under_its_key_is_the_same_batch(
    batches: Batches, client: Letta, echoing: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent().id
    body = {"requests": [{"agent_id": agent, "input": "once"}]}
    headers: Any = {"headers": {"Idempotency-Key": f"nightly-{agent}"}}

    def hand_in(body: Any) -> Any:
        return client.post("/v1/messages/batches", cast_to=object, body=body, options=headers)

    first, again = hand_in(body), hand_in(body)
    assert again["id"] == first["id"]
    batches.ended(first["id"])
    assert sum(r["messages"][-1]["content"] == "once" for r in echoing.requests) == 1
    with pytest.raises(APIStatusError) as conflict:
        hand_in({"requests": [{"agent_id": agent, "input": "another"}]})
    assert conflict.value.status_code == 409
    assert first["id"] in str(conflict.value)


def test_an_unknown_batch_is_not_found(batches: Batches) -> None:
    for ask in (batches.retrieve, batches.cancel, batches.messages):
        with pytest.raises(APIStatusError) as unknown:
            ask("job-00000000-0000-4000-8000-000000000000")
        assert unknown.value.status_code == 404
