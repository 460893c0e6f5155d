"""What outlives a request: its callback, its key, its place in the conversation, and every frame that was shown."""

import hashlib
import hmac
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, text
from tests.e2e.conftest import ServerProcess


class Receiver(BaseHTTPRequestHandler):
    """Takes callbacks; answers with the next of `answers`, then 200."""

    heard: "queue.Queue[tuple[dict[str, str], bytes]]" = queue.Queue()
    answers: "queue.Queue[int]" = queue.Queue()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = 200 if self.answers.empty() else self.answers.get()
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.heard.put(({key.lower(): value for key, value in self.headers.items()}, body))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[str]:
    Receiver.heard, Receiver.answers = queue.Queue(), queue.Queue()
    site = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=site.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{site.server_address[1]}/told"
    site.shutdown()
    thread.join(5)


def wait_for(what: Callable[[], Any], within_s: float = 20.0) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if (found := what()) is not None:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def new_agent(client: Letta, **fields: Any) -> Any:
    return client.agents.create(model="openai/gpt-test", include_base_tools=False, **fields)


def test_a_callback_is_signed_tried_again_and_its_outcome_stored(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble, receiver: str
) -> None:
    server = own_server(PERDURE_ALLOW_PRIVATE_URLS="true", PERDURE_CALLBACK_SECRET="shh")
    client = Letta(base_url=server.url, max_retries=0)
    agent = new_agent(client)
    Receiver.answers.put(503)
    run = client.agents.messages.create_async(agent.id, input="Hi", callback_url=receiver)
    first = Receiver.heard.get(timeout=10)
    headers, body = Receiver.heard.get(timeout=10)
    assert first[1] == body
    told = json.loads(body)
    assert (told["run_id"], told["status"], told["stop_reason"]) == (run.id, "completed", "end_turn")
    at, _, digest = headers["x-perdure-signature"].partition(",v1=")
    expected = hmac.new(b"shh", at.removeprefix("t=").encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(digest, expected)
    stored = wait_for(lambda: run_ if (run_ := client.runs.retrieve(run.id)).callback_status_code == 200 else None)
    assert stored.callback_sent_at is not None
    assert stored.callback_error is None


def test_a_callback_survives_the_death_of_the_server(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble, receiver: str
) -> None:
    server = own_server(PERDURE_ALLOW_PRIVATE_URLS="true")
    client = Letta(base_url=server.url, max_retries=0)
    agent = new_agent(client)
    engine.script(text("Late.", delay_s=2))
    run = client.agents.messages.create_async(agent.id, input="Hi", callback_url=receiver)
    wait_for(lambda: engine.requests or None)
    server.kill()
    server.start()
    _, body = Receiver.heard.get(timeout=20)
    assert json.loads(body)["run_id"] == run.id
    assert "x-perdure-signature" not in _


def test_a_callback_to_a_private_address_is_refused_on_record(
    client: Letta, new_agent: Callable[..., Any], receiver: str
) -> None:
    agent = new_agent()
    run = client.agents.messages.create_async(agent.id, input="Hi", callback_url=receiver)
    stored = wait_for(lambda: run_ if (run_ := client.runs.retrieve(run.id)).callback_error else None)
    assert "PERDURE_ALLOW_PRIVATE_URLS" in stored.callback_error
    assert Receiver.heard.empty()


def test_the_same_key_is_the_same_run_and_another_body_a_conflict(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    key = {"Idempotency-Key": "order-17"}
    engine.script(text("Once."))
    first = client.agents.messages.create(agent.id, input="Hi", extra_headers=key)
    asked = len(engine.requests)
    again = client.agents.messages.create(agent.id, input="Hi", extra_headers=key)
    assert again.messages[0].id == first.messages[0].id
    assert len(engine.requests) == asked
    with pytest.raises(APIStatusError) as conflict:
        client.agents.messages.create(agent.id, input="Something else", extra_headers=key)
    assert conflict.value.status_code == 409
    assert "order-17" in str(conflict.value)
    other = new_agent()
    assert client.agents.messages.create(other.id, input="Hi", extra_headers=key).messages[0].id != first.messages[0].id


def busy(client: Letta, engine: OpenAIDouble, agent_id: str) -> Any:
    asked = len(engine.requests)
    engine.script(text("Very slow.", delay_s=30))
    run = client.agents.messages.create_async(agent_id, input="First")
    wait_for(lambda: len(engine.requests) > asked or None)
    return run


def test_a_message_may_reject_a_busy_conversation(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    run = busy(client, engine, agent.id)
    with pytest.raises(APIStatusError) as conflict:
        client.agents.messages.create(agent.id, input="Second", extra_body={"concurrency": "reject"})
    assert conflict.value.status_code == 409
    assert run.id in str(conflict.value)
    client.agents.messages.cancel(agent.id, run_ids=[run.id])


def test_a_message_may_interrupt_what_goes_on(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    run = busy(client, engine, agent.id)
    engine.script(text("Now."))
    answer = client.agents.messages.create(agent.id, input="Second", extra_body={"concurrency": "interrupt"})
    assert answer.messages[0].content == "Now."
    assert client.runs.retrieve(run.id).status == "cancelled"
    assert [m["content"] for m in engine.requests[-1]["messages"][1:]] == ["First", "Second"]


def test_a_message_may_take_back_what_goes_on(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("Before."))
    client.agents.messages.create(agent.id, input="Earlier")
    run = busy(client, engine, agent.id)
    engine.script(text("Instead."))
    answer = client.agents.messages.create(agent.id, input="Second", extra_body={"concurrency": "rollback"})
    assert answer.messages[0].content == "Instead."
    assert [m["content"] for m in engine.requests[-1]["messages"][1:]] == ["Earlier", "Before.", "Second"]
    assert client.runs.retrieve(run.id).status == "cancelled"
    shown = [getattr(m, "content", "") for m in client.agents.messages.list(agent.id).items]
    assert "First" in shown


def test_a_retried_interruption_does_not_interrupt_itself(
    client: Letta, engine: OpenAIDouble, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent()
    engine.script(text("Slow.", delay_s=1.0))
    key = {"Idempotency-Key": "k"}
    body = {"concurrency": "interrupt"}
    answers: list[Any] = []

    def ask() -> None:
        answers.append(client.agents.messages.create(agent.id, input="Hi", extra_body=body, extra_headers=key))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join(20)
    assert [answer.messages[0].content for answer in answers] == ["Slow."] * 3


def test_frames_shown_before_a_crash_keep_their_numbers_after_it(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    server = own_server()
    client = Letta(base_url=server.url, max_retries=0)
    agent = new_agent(client)
    words = "".join(f"word{number} " for number in range(300))
    engine.script(text(words, pieces=300, pause_s=0.02), text("The answer after all."))
    seen: list[Any] = []

    def follow() -> None:
        try:
            for frame in client.agents.messages.create(
                agent.id, input="Talk", streaming=True, stream_tokens=True, background=True
            ):
                seen.append(frame)
        except Exception:
            pass  # the server dies

    follower = threading.Thread(target=follow)
    follower.start()
    wait_for(lambda: len(seen) > 20 or None)
    server.kill()
    follower.join(10)
    server.start()
    last = max(frame.seq_id for frame in seen if getattr(frame, "seq_id", None))
    run_id = next(frame.run_id for frame in seen if getattr(frame, "run_id", None))
    rest = list(client.runs.messages.stream(run_id, starting_after=last))
    numbers = [frame.seq_id for frame in rest if getattr(frame, "seq_id", None)]
    assert numbers == list(range(last + 1, last + 1 + len(numbers)))
    whole = list(client.runs.messages.stream(run_id, starting_after=0))
    before = [(frame.seq_id, frame.model_dump_json()) for frame in seen if getattr(frame, "seq_id", None)]
    after = {frame.seq_id: frame.model_dump_json() for frame in whole if getattr(frame, "seq_id", None)}
    assert all(after[number] == frame for number, frame in before)
    assert "The answer after all." in "".join(getattr(f, "content", "") or "" for f in rest)


def test_a_stream_that_is_not_kept_any_more_is_gone_and_what_was_said_is_not(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble
) -> None:
    server = own_server(PERDURE_KEEP_STREAMS="1")
    client = Letta(base_url=server.url, max_retries=0)
    agent = new_agent(client)
    engine.script(text("Kept."))
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi", "otid": "hello"}], "background": True}
    frames = list(client.agents.messages.create(agent.id, streaming=True, **body))
    run_id = next(frame.run_id for frame in frames if getattr(frame, "run_id", None))
    assert len(list(client.runs.messages.stream(run_id))) > 2

    def gone() -> APIStatusError | None:
        try:
            list(client.runs.messages.stream(run_id))
        except APIStatusError as error:
            return error
        return None

    error = wait_for(gone, within_s=30)
    assert error.status_code == 410
    assert "PERDURE_KEEP_STREAMS" in str(error)
    with pytest.raises(APIStatusError) as again:  # the same request: it is not answered anew
        client.agents.messages.create(agent.id, messages=body["messages"])
    assert again.value.status_code == 410
    assert [m.content for m in client.runs.messages.list(run_id).items if m.message_type == "assistant_message"] == [
        "Kept."
    ]
