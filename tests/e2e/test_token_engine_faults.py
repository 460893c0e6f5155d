"""An engine that takes ids and fails: one error, an agent that goes on, and a record that holds whole answers alone."""

import json
import urllib.request

import pytest
from letta_client import APIStatusError, Letta

from perdure.providers.scripted import Completion
from perdure.tokens.verify import verify_bytes
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer
from tests.e2e.conftest import ServerProcess
from tests.e2e.frames import frames, post


@pytest.mark.parametrize("streamed", [False, True], ids=["sync", "streamed"])
def test_a_generation_that_breaks_off(exact_server: ServerProcess, exact_engine: SGLangDouble, streamed: bool) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = client.agents.create(model="sglang/tiny", include_base_tools=False)
    exact_engine.script("Good morning.")
    client.agents.messages.create(agent_id=agent.id, input="Hi")
    exact_engine.script(Completion(text="this will not end well at all", batch=2, fail_after=4))
    if streamed:
        body = {"input": "Again", "streaming": True, "stream_tokens": True}
        seen = frames(post(f"{exact_server.url}/v1/agents/{agent.id}/messages", body)[1])
        assert seen[-1] == "[DONE]" and seen[-2][1]["error_type"] == "llm_error"
        assert any(each["message_type"] == "assistant_message" for each in seen[:-3])
    else:
        with pytest.raises(APIStatusError) as failed:
            client.agents.messages.create(agent_id=agent.id, input="Again")
        assert failed.value.status_code == 502
    assert len(exact_engine.requests) == 2  # what was begun is not asked for again
    exact_engine.script("Here I am.")
    assert client.agents.messages.create(agent_id=agent.id, input="And now?").messages[0].content == "Here I am."
    shown = small_tokenizer().decode(exact_engine.requests[-1]["input_ids"])
    assert "Good morning." in shown and "Again" in shown and "not end well" not in shown
    with urllib.request.urlopen(f"{exact_server.url}/v1/trajectories?agent_id={agent.id}", timeout=30) as opened:
        data = opened.read()
    report = verify_bytes(data)
    assert report.ok, report.violations
    assert len(json.loads(data)["calls"]) == 2


def test_a_generation_that_breaks_off_before_its_first_token_is_asked_for_again(
    exact_server: ServerProcess, exact_engine: SGLangDouble
) -> None:
    client = Letta(base_url=exact_server.url, max_retries=0)
    agent = client.agents.create(model="sglang/tiny", include_base_tools=False)
    lost = Completion(text="never seen", fail_after=0)
    exact_engine.script(lost, lost, "Good morning.")
    answered = client.agents.messages.create(agent_id=agent.id, input="Hi")
    assert [each.content for each in answered.messages] == ["Good morning."]
    asked = [body["rid"] for body in exact_engine.requests]
    assert len(asked) == len(set(asked)) == 3
    exact_engine.script(lost, lost, lost)
    with pytest.raises(APIStatusError) as failed:
        client.agents.messages.create(agent_id=agent.id, input="Again")
    assert failed.value.status_code == 502 and len(exact_engine.requests) == 6
    assert set(exact_engine.aborts) >= set(asked[:2]) and asked[2] not in exact_engine.aborts
    with urllib.request.urlopen(f"{exact_server.url}/v1/trajectories?agent_id={agent.id}", timeout=30) as opened:
        data = opened.read()
    report = verify_bytes(data)
    assert report.ok, report.violations
    [call] = json.loads(data)["calls"]
    assert call["engine_request_id"] == asked[2]
