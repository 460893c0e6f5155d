"""Every break in a token stream has a cause on record, and says how much of the stream before it the new one shares.

A real server on a scripted engine of token ids: each way in which a prompt can stop being the last one and more.
"""

import json
import urllib.request
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from letta_client import Letta

from perdure.tokens.verify import verify_bytes
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer, small_tokenizer_folder
from tests.e2e.conftest import ServerProcess

CALL = '<tool_call>\n{"name": "read_file", "arguments": {"path": "a"}}\n</tool_call>'
INSERT = '<tool_call>\n{"name": "memory_insert", "arguments": {"label": "human", "new_string": "tea"}}\n</tool_call>'
READ = {
    "name": "read_file",
    "description": "Read a file.",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
}
THOUGHT = "<think>\nhm\n</think>\n\n"


@pytest.fixture(scope="module")
def ids() -> Iterator[SGLangDouble]:
    double = SGLangDouble(small_tokenizer(), context=32_768)
    yield double
    double.close()


@pytest.fixture(scope="module")
def other() -> Iterator[SGLangDouble]:
    double = SGLangDouble(small_tokenizer(), model="other", context=32_768)
    yield double
    double.close()


class Talk:
    """One agent, whose conversation is broken in some way between two messages."""

    def __init__(self, server: ServerProcess, engine: SGLangDouble, **fields: Any) -> None:
        self.client = Letta(base_url=server.url, max_retries=0)
        self.engine = engine
        engine.engine.completions.clear()
        self.url = server.url
        self.agent = self.client.agents.create(
            model="sglang/tiny",
            memory_blocks=[{"label": "human", "value": "Ann"}],
            include_base_tools=False,
            tools=["memory_insert"],
            **fields,
        )
        self.id = str(self.agent.id)

    def say(self, *answers: str, **more: Any) -> Any:
        self.engine.script(*(answers or ("Yes.",)))
        return self.client.agents.messages.create(self.id, input=more.pop("input", "Hello?"), **more)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, method=method, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def segments(self, wanted: str = "") -> list[dict[str, Any]]:
        """The record's, which verifies as a whole: every offset is the true one, every sampled id trains once."""
        query = f"conversation_id={wanted}" if wanted else f"agent_id={self.id}"
        with urllib.request.urlopen(f"{self.url}/v1/trajectories?{query}", timeout=30) as answer:
            data = answer.read()
        report = verify_bytes(data, tokenizer=small_tokenizer())
        assert report.ok and not report.drift, report.violations
        records = [json.loads(line) for line in data.splitlines()]
        [record] = [record for record in records if record["conversation_id"] == (wanted or self.id)]
        return record["segments"]


def shared(a: dict[str, Any], b: dict[str, Any]) -> int:
    """How many ids `b`'s first prompt has in common with all of `a`."""
    prompt = b["token_ids"][: b["loss_mask"].index(1)]
    pairs = zip(a["token_ids"], prompt, strict=False)
    return next((at for at, (x, y) in enumerate(pairs) if x != y), min(len(a["token_ids"]), len(prompt)))


@pytest.fixture(scope="module")
def server(
    ids: SGLangDouble, database: Callable[[], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = small_tokenizer_folder(tmp_path_factory.mktemp("tokenizers"))
    (folder / "other").symlink_to(folder / "tiny")
    env = {"SGLANG_BASE_URL": ids.base_url, "PERDURE_TOKENIZERS": str(folder), **database()}
    process = ServerProcess(tmp_path_factory.mktemp("perdure"), env)
    yield process
    process.stop()


def check(segments: list[dict[str, Any]], *causes: str) -> None:
    assert [segment["cause"] for segment in segments] == ["root", *causes]
    for before, segment in pairwise(segments):
        if segment["parent_segment_id"] == before["segment_id"]:
            assert segment["parent_offset"] == shared(before, segment)
        assert segment["parent_segment_id"] is not None and segment["cause_detail"]


def edit_memory(talk: Talk) -> None:
    talk.client.agents.blocks.update("human", agent_id=talk.id, value="Grace")


def attach(talk: Talk) -> None:
    [tool] = talk.client.tools.list(name="memory_replace").items
    talk.client.agents.tools.attach(str(tool.id), agent_id=talk.id)


def new_system(talk: Talk) -> None:
    talk.client.agents.update(talk.id, system="You are another.")


def reset(talk: Talk) -> None:
    talk.ask("PATCH", f"/v1/agents/{talk.id}/reset-messages", {"add_default_initial_messages": False})


def set_messages(talk: Talk) -> None:
    held = talk.client.agents.retrieve(talk.id).message_ids or []
    talk.client.agents.update(talk.id, message_ids=[held[0], *held[3:]])


def compact(talk: Talk) -> None:
    talk.engine.script("They spoke.")
    talk.ask("POST", f"/v1/agents/{talk.id}/summarize", {"compaction_settings": {"mode": "all"}})


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (edit_memory, "memory_rewrite"),
        (attach, "tools_change"),
        (new_system, "memory_rewrite"),
        (set_messages, "history_edit"),
    ],
)
def test_a_change_between_two_messages(
    server: ServerProcess, ids: SGLangDouble, change: Callable[[Talk], None], cause: str
) -> None:
    talk = Talk(server, ids)
    talk.say()
    talk.say()
    change(talk)
    talk.say()
    segments = talk.segments()
    check(segments, cause)
    assert 0 < segments[1]["parent_offset"] < len(segments[0]["token_ids"])
    talk.say()
    check(talk.segments(), cause)  # the next one grows again


def test_a_reset(server: ServerProcess, ids: SGLangDouble) -> None:
    talk = Talk(server, ids)
    talk.say()
    reset(talk)
    talk.say()
    check(talk.segments(), "reset")


def test_an_override_of_the_system_prompt_breaks_once_there_and_once_back(
    server: ServerProcess, ids: SGLangDouble
) -> None:
    talk = Talk(server, ids)
    talk.say()
    talk.say(extra_body={"override_system": "Be a cat."})
    talk.say()
    check(talk.segments(), "memory_rewrite", "memory_rewrite")


def test_a_tool_that_edits_memory_breaks_at_the_next_message_and_not_before(
    server: ServerProcess, ids: SGLangDouble
) -> None:
    talk = Talk(server, ids)
    talk.say(INSERT, "Noted.")
    assert len(talk.segments()) == 1
    talk.say()
    check(talk.segments(), "memory_rewrite")


def test_another_model_for_one_message(server: ServerProcess, ids: SGLangDouble, other: SGLangDouble) -> None:
    talk = Talk(server, ids)
    talk.ask("POST", "/v1/providers/", {"name": "second", "provider_type": "sglang", "base_url": other.base_url})
    talk.say()
    talk.say(override_model="second/other")
    talk.say()
    segments = talk.segments()
    check(segments, "model_change", "model_change")
    assert [segment.get("model", {}).get("path") for segment in segments] == [None, "other", None]
    assert segments[1]["parent_offset"] > 0  # the same tokenizer, so the same beginning


def test_thinking_that_the_template_drops(server: ServerProcess, ids: SGLangDouble) -> None:
    talk = Talk(server, ids, extra_body={"thinking_retention": "tool_cycle"})
    talk.say(THOUGHT + "Yes.")
    talk.say(THOUGHT + "Again.")
    check(talk.segments(), "thinking_drop")


def test_a_tool_of_the_clients_own_does_not_break_the_stream(server: ServerProcess, ids: SGLangDouble) -> None:
    talk = Talk(server, ids)
    asked = talk.say(CALL, extra_body={"client_tools": [READ]})
    assert asked.stop_reason.stop_reason == "requires_approval"
    call_id = next(m.tool_call.tool_call_id for m in asked.messages if m.message_type == "approval_request_message")
    ids.script("It says hello.")
    talk.ask(
        "POST",
        f"/v1/agents/{talk.id}/messages",
        {
            "messages": [
                {
                    "type": "approval",
                    "approvals": [
                        {"type": "tool", "tool_call_id": call_id, "tool_return": "hello", "status": "success"}
                    ],
                }
            ],
            "client_tools": [READ],
        },
    )
    check(talk.segments())


def test_a_fork_is_a_child_of_what_it_was_forked_from(server: ServerProcess, ids: SGLangDouble) -> None:
    talk = Talk(server, ids)
    conversation = talk.client.conversations.create(agent_id=talk.id)
    ids.script("One.", "Two.")
    for words in ("a", "b"):
        talk.ask(
            "POST",
            f"/v1/conversations/{conversation.id}/messages",
            {"messages": [{"role": "user", "content": words}], "streaming": False},
        )
    fork = talk.ask("POST", f"/v1/conversations/{conversation.id}/fork")
    ids.script("Three.")
    talk.ask(
        "POST",
        f"/v1/conversations/{fork['id']}/messages",
        {"messages": [{"role": "user", "content": "c"}], "streaming": False},
    )
    [before] = talk.segments(str(conversation.id))
    [segment] = talk.segments(str(fork["id"]))
    assert (segment["cause"], segment["parent_segment_id"]) == ("fork", before["segment_id"])
    assert segment["parent_offset"] == shared(before, segment) > 0


def test_a_compaction_is_a_call_and_a_break_of_the_same_rollout(server: ServerProcess, ids: SGLangDouble) -> None:
    talk = Talk(server, ids)
    for _ in range(4):
        talk.say()
    compact(talk)
    talk.say()
    segments = talk.segments()
    assert {segment["cause"] for segment in segments[1:]} == {"compaction"}
    assert any(segment["settings"].get("call_type") for segment in segments)
    assert segments[-1]["parent_segment_id"] and segments[-1]["parent_offset"] > 0
