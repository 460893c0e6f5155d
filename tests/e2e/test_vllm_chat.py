"""A real server on a vLLM that is asked in messages: tools, memory and cancellation, and a token record that verifies."""

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from letta_client import Letta

from perdure.providers.scripted import Completion
from perdure.tokens.verify import verify_bytes
from tests.doubles.vllm import VLLMDouble
from tests.e2e.conftest import ServerProcess

INSERT = '<tool_call>\n{"name": "memory_insert", "arguments": {"label": "human", "new_string": "tea"}}\n</tool_call>'
SPACED = INSERT.replace('", "arguments"', '",  "arguments"')


@pytest.fixture(scope="module")
def vllm() -> Iterator[VLLMDouble]:
    double = VLLMDouble()
    yield double
    double.close()


@pytest.fixture(scope="module")
def server(
    vllm: VLLMDouble, database: Callable[[], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("perdure"), {"VLLM_BASE_URL": vllm.base_url, **database()})
    yield process
    process.stop()


def agent(server: ServerProcess, **settings: Any) -> tuple[Letta, str]:
    client = Letta(base_url=server.url, max_retries=0)
    made = client.agents.create(
        model="vllm/tiny",
        memory_blocks=[{"label": "human", "value": "Ann"}],
        include_base_tools=False,
        tools=["memory_insert"],
        model_settings={"provider_type": "vllm", "max_output_tokens": 200, **settings},  # type: ignore[typeddict-item]
        extra_body={"memory_rendering": "append"},
    )
    return client, str(made.id)


def ask(server: ServerProcess, method: str, path: str, body: Any = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def record(server: ServerProcess, agent_id: str, vllm: VLLMDouble) -> dict[str, Any]:
    data = ask(server, "GET", f"/v1/trajectories?agent_id={agent_id}")
    report = verify_bytes(data, tokenizer=vllm.tokenizer)
    assert report.ok and not report.drift, report.violations
    [made] = [json.loads(line) for line in data.splitlines()]
    return made


def test_turns_with_a_tool_are_on_record_and_scored_again(server: ServerProcess, vllm: VLLMDouble) -> None:
    client, agent_id = agent(server, wire_api="chat")
    vllm.script(INSERT, "Noted.", SPACED, "Again.", "Bye.")
    for words in ("Note tea.", "Once more.", "Bye?"):
        answer = client.agents.messages.create(agent_id, input=words, extra_body={"return_token_ids": True})
        assert answer.stop_reason.stop_reason == "end_turn"
    made = record(server, agent_id, vllm)
    assert [segment["cause"] for segment in made["segments"]] == ["root", "renderer_fallback"]
    assert "departs after" in made["segments"][1]["cause_detail"]
    assert len(made["calls"]) == 5 and made["tokenizer"] is None
    assert sum(sum(segment["loss_mask"]) for segment in made["segments"]) == sum(
        each["length"] for each in made["calls"]
    )
    scored = json.loads(ask(server, "POST", f"/v1/trajectories/{agent_id}/rescore", {}))
    for segment in scored["segments"]:
        assert segment["logprobs"] == pytest.approx(segment["recorded"], abs=1e-5)


def test_a_cancelled_answer_is_on_record_and_the_conversation_goes_on(server: ServerProcess, vllm: VLLMDouble) -> None:
    client, agent_id = agent(server, wire_api="chat")
    vllm.script(Completion(text="One two three four five six seven eight nine ten.", batch=1, pause_s=0.2), "Yes.")
    begun = threading.Event()

    def cancel() -> None:
        begun.wait(20)
        ask(server, "POST", f"/v1/agents/{agent_id}/messages/cancel", {})

    acting = threading.Thread(target=cancel)
    acting.start()
    with client.agents.messages.stream(agent_id, input="Count.", stream_tokens=True) as stream:
        for message in stream:
            if getattr(message, "message_type", "") == "assistant_message":
                begun.set()
    acting.join()
    for _ in range(100):
        if vllm.disconnects:
            break
        time.sleep(0.05)
    assert vllm.disconnects == 1
    assert client.agents.messages.create(agent_id, input="Go on?").stop_reason.stop_reason == "end_turn"
    made = record(server, agent_id, vllm)
    cut, after = made["calls"]
    assert (cut["finish"]["type"], cut["trainable"], after["trainable"]) == ("abort", False, True)
    assert 0 < cut["length"] < 20


def test_without_a_tokenizer_its_ids_are_kept_and_a_request_for_ids_names_the_ways(
    server: ServerProcess, vllm: VLLMDouble
) -> None:
    client, agent_id = agent(server)
    vllm.script("Hello.")
    client.agents.messages.create(agent_id, input="Hi.")
    assert len(record(server, agent_id, vllm)["calls"]) == 1
    with pytest.raises(Exception, match=r"PERDURE_TOKENIZERS.*wire_api") as refused:
        client.agents.messages.create(agent_id, input="Hi.", extra_body={"return_token_ids": True})
    assert refused.value.status_code == 400  # type: ignore[attr-defined]
