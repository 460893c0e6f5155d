import io
import json
import subprocess
import sys
import time
from typing import Any

import click
import pytest

from perdure.cli.main import COMMANDS, app, main
from tests.unit.cli.fake_server import FakeServer, Stream

HEAVY = ("fastapi", "starlette", "uvicorn", "aiohttp", "pydantic", "sqlalchemy", "alembic", "tokenizers")
AGENT = {
    "id": "agent-1",
    "name": "Sam",
    "model": "local/tiny",
    "created_at": "2026-01-02T03:04:05+00:00",
    "tags": ["x"],
}
ANSWER = Stream(
    [
        {"message_type": "assistant_message", "id": "m", "content": "Hi Ada."},
        {"message_type": "stop_reason", "stop_reason": "end_turn"},
    ]
)


def perdure(monkeypatch: pytest.MonkeyPatch, *arguments: str, stdin: str = "") -> int:
    """Run a command as the shell would; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["perdure", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['perdure', '--help']\n"
        "from perdure.cli.main import main\n"
        "try: main()\n"
        f"finally: print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    took = time.monotonic() - started
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)
    assert took < 3  # 0.2 s where nothing else runs


def test_an_unknown_command_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert perdure(monkeypatch, "sevre") == 2


def test_ctrl_c_is_status_130_without_a_word(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupted(base_url: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("perdure.cli.agents.connect", interrupted)
    assert perdure(monkeypatch, "agents", "list") == 130
    assert capsys.readouterr() == ("", "")


def test_help_explains_arguments_and_lists_commands_in_their_order_with_whole_summaries(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert perdure(monkeypatch, "--help") == 0
    listed = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert not any(line.endswith("...") for line in listed)
    assert perdure(monkeypatch, "chat", "-h") == 0
    assert "Arguments:\n  [AGENT]  An agent's id or name" in capsys.readouterr().out


def test_no_server_is_one_line_and_status_1(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert perdure(monkeypatch, "agents", "list", "--base-url", "http://127.0.0.1:1") == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("perdure: No server answers") and err.count("\n") == 1


def test_lists_are_tabs_in_a_pipe_and_json_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, server: FakeServer
) -> None:
    server.answers["GET", "/v1/agents/"] = [AGENT]
    assert perdure(monkeypatch, "agents", "list", "--base-url", server.url) == 0
    assert capsys.readouterr().out == (
        "ID\tNAME\tMODEL\tTAGS\tCREATED\nagent-1\tSam\tlocal/tiny\tx\t2026-01-02T03:04:05+00:00\n"
    )
    assert perdure(monkeypatch, "agents", "list", "--json", "--base-url", server.url) == 0
    assert json.loads(capsys.readouterr().out) == [AGENT]


def test_an_agent_is_found_by_name_unless_two_have_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, server: FakeServer
) -> None:
    server.answers["GET", "/v1/agents/"] = [AGENT | {"blocks": [{"label": "human", "value": "Ada"}]}]
    assert perdure(monkeypatch, "agents", "show", "Sam", "--base-url", server.url) == 0
    assert "[human]      Ada" in capsys.readouterr().out
    server.answers["GET", "/v1/agents/"] = [AGENT, AGENT | {"id": "agent-2"}]
    assert perdure(monkeypatch, "agents", "show", "Sam", "--base-url", server.url) == 1
    assert "agent-1, agent-2" in capsys.readouterr().err


def test_create_takes_memory_and_the_first_model(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, server: FakeServer
) -> None:
    server.answers["GET", "/v1/models/"] = [{"handle": "local/tiny"}]
    server.answers["POST", "/v1/agents/"] = AGENT
    arguments = ("agents", "create", "Sam", "-m", "human=Ada=1", "--base-url", server.url)
    assert perdure(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out == "agent-1\n"
    memory = [{"label": "human", "value": "Ada=1"}]
    assert server.body_of("POST", "/v1/agents/") == {"model": "local/tiny", "name": "Sam", "memory_blocks": memory}


def test_memory_without_a_label_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Any, server: FakeServer) -> None:
    server.answers["GET", "/v1/models/"] = [{"handle": "local/tiny"}]
    assert perdure(monkeypatch, "agents", "create", "-m", "Ada", "--base-url", server.url) == 1
    assert "LABEL=TEXT" in capsys.readouterr().err


def test_delete_asks_and_in_a_pipe_wants_yes(monkeypatch: pytest.MonkeyPatch, capsys: Any, server: FakeServer) -> None:
    server.answers["GET", "/v1/agents/agent-1"] = AGENT
    server.answers["DELETE", "/v1/agents/agent-1"] = None
    assert perdure(monkeypatch, "agents", "delete", "agent-1", "--base-url", server.url) == 1
    assert "--yes" in capsys.readouterr().err
    assert all(method != "DELETE" for method, *_ in server.asked)
    assert perdure(monkeypatch, "agents", "delete", "agent-1", "--yes", "--base-url", server.url) == 0
    assert server.asked[-1][0] == "DELETE"


def test_chat_sends_stdin_as_one_message(monkeypatch: pytest.MonkeyPatch, capsys: Any, server: FakeServer) -> None:
    server.answers["GET", "/v1/agents/agent-1"] = AGENT
    server.answers["POST", "/v1/agents/agent-1/messages"] = ANSWER
    assert perdure(monkeypatch, "chat", "agent-1", "--base-url", server.url, stdin="Hello,\nSam.\n") == 0
    assert capsys.readouterr().out == "   assistant  Hi Ada.\n"
    body = server.body_of("POST", "/v1/agents/agent-1/messages")
    assert body["messages"][0]["content"] == "Hello,\nSam."
    assert body["messages"][0]["otid"] and body["streaming"] and body["stream_tokens"]


def test_chat_makes_an_agent_and_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any, server: FakeServer) -> None:
    server.answers["POST", "/v1/agents/"] = AGENT
    server.answers["POST", "/v1/agents/agent-1/messages"] = ANSWER
    assert perdure(monkeypatch, "chat", "-m", "hi", "--model", "x/y", "--base-url", server.url) == 0
    out, err = capsys.readouterr()
    assert "New agent Sam (agent-1)" in err and "New agent" not in out
    assert server.body_of("POST", "/v1/agents/")["model"] == "x/y"


def test_chat_with_a_failed_run_has_status_1(monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> None:
    server.answers["GET", "/v1/agents/agent-1"] = AGENT
    failed = Stream([{"message_type": "error_message", "message": "model down"}])
    server.answers["POST", "/v1/agents/agent-1/messages"] = failed
    assert perdure(monkeypatch, "chat", "agent-1", "-m", "hi", "--base-url", server.url) == 1


def test_runs_show_has_steps_usage_and_time(monkeypatch: pytest.MonkeyPatch, capsys: Any, server: FakeServer) -> None:
    run = {"id": "run-1", "agent_id": "agent-1", "status": "completed", "stop_reason": "end_turn"}
    server.answers["GET", "/v1/runs/run-1"] = run | {"total_duration_ns": 1_500_000_000}
    server.answers["GET", "/v1/runs/run-1/steps"] = [{"id": "step-1", "status": "success", "prompt_tokens": 9}]
    server.answers["GET", "/v1/runs/run-1/usage"] = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    assert perdure(monkeypatch, "runs", "show", "run-1", "--base-url", server.url) == 0
    out = capsys.readouterr().out
    assert "1.50 s" in out and "step-1\tsuccess\t-\t9\t-" in out and "total            11" in out


def test_models_of_a_server(monkeypatch: pytest.MonkeyPatch, capsys: Any, server: FakeServer) -> None:
    server.answers["GET", "/v1/models/"] = [{"handle": "a/b", "context_window": 8, "model_endpoint": "http://e"}]
    server.answers["GET", "/v1/models/embedding"] = []
    assert perdure(monkeypatch, "models", "--base-url", server.url) == 0
    assert capsys.readouterr().out == "HANDLE\tKIND\tCONTEXT\tENDPOINT\na/b\tllm\t8\thttp://e\n"


def test_every_command_has_help_of_its_own() -> None:
    for name in COMMANDS:
        command = app.get_command(click.Context(app), name)
        assert command is not None and command.name == name and command.help


def test_providers_and_what_they_can_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert perdure(monkeypatch, "providers") == 0
    assert "mistral\tMISTRAL_BASE_URL\tMISTRAL_API_KEY\thttps://api.mistral.ai/v1" in capsys.readouterr().out
    assert perdure(monkeypatch, "providers", "--markdown") == 0
    assert "| `mistral` | chat completions |" in capsys.readouterr().out
    assert perdure(monkeypatch, "providers", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["providers"]
    assert {"provider": "zai", "forced": False}.items() <= next(row for row in rows if row["provider"] == "zai").items()
