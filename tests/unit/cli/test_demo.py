from pathlib import Path
from typing import Any

import pytest

from perdure.cli import demo_proof, demo_story
from perdure.cli.client import Client, ClientError
from perdure.cli.demo import server_env
from tests.unit.cli.fake_server import FakeServer, Stream

ROLL = demo_story.Message("roll", "roll_dice", {"sides": 6})


def turn(*returns: dict[str, Any]) -> Stream:
    """The frames of a turn in which tools returned so."""
    called = [
        frame
        for given in returns
        for frame in (
            {
                "message_type": "tool_call_message",
                "id": "m",
                "tool_calls": {"name": given["name"], "tool_call_id": "c"},
            },
            {"message_type": "tool_return_message", "id": "t", "tool_call_id": "c", **given},
        )
    ]
    return Stream([{"message_type": "ping"}, *called, {"message_type": "stop_reason", "stop_reason": "end_turn"}])


def test_the_demos_server_gets_providers_but_no_address_or_password() -> None:
    env = {"OPENAI_API_KEY": "k", "PERDURE_MODEL": "m", "PERDURE_PORT": "1", "PERDURE_PASSWORD": "p"}
    assert server_env(env) == {"OPENAI_API_KEY": "k", "PERDURE_MODEL": "m"}


def test_rules_make_a_turn_of_one_call() -> None:
    assert demo_story.rules_for(ROLL) == [
        {"type": "run_first", "tool_name": "roll_dice", "args": {"sides": 6}},
        {"type": "exit_loop", "tool_name": "roll_dice"},
    ]
    assert demo_story.rules_for(demo_story.Message("hello")) == []


def test_the_demos_tool_does_what_it_says() -> None:
    namespace: dict[str, Any] = {}
    exec(demo_story.TOOL_SOURCE, namespace)
    assert namespace[demo_story.TOOL_NAME](68) == "68 F is 20.0 C"


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (turn(), "should have been called"),
        (turn({"name": "other", "tool_return": "1", "status": "success"}), "should have been called"),
        (turn({"name": "roll_dice", "tool_return": "no", "status": "error"}), "should have been called"),
        (Stream([{"message_type": "error_message", "message": "engine died"}]), "engine died"),
    ],
)
def test_a_turn_that_went_wrong_fails_the_demo(server: FakeServer, frames: Stream, says: str) -> None:
    server.answers["POST", "/v1/agents/a/messages"] = frames
    with pytest.raises(ClientError, match=says):
        demo_story._send(Client(server.url), "a", ROLL, must_call=True, first=True)


def test_a_turn_that_went_well_is_shown_whole(server: FakeServer, capsys: Any) -> None:
    returned = {"name": "roll_dice", "tool_return": "4", "status": "success"}
    server.answers["POST", "/v1/agents/a/messages"] = turn(returned)
    demo_story._send(Client(server.url), "a", ROLL, must_call=True, first=True)
    out = capsys.readouterr().out
    assert "you  roll" in out and "tool call  roll_dice" in out and "returned  4" in out


def test_a_model_that_is_not_offered_is_told_with_the_way_out(server: FakeServer) -> None:
    server.answers["GET", "/v1/models/"] = [{"handle": "openai/a"}]
    with pytest.raises(ClientError, match=r"perdure\[local\]"):
        demo_story._check_offered(Client(server.url), "local/smollm2-135m")
    with pytest.raises(ClientError, match="openai/a"):
        demo_story._check_offered(Client(server.url), "openai/b")
    demo_story._check_offered(Client(server.url), "openai/a")


def test_no_record_is_a_failure_only_where_there_should_be_one(server: FakeServer, tmp_path: Path, capsys: Any) -> None:
    server.answers["GET", "/v1/trajectories"] = b""
    with pytest.raises(ClientError, match="no token record"):
        demo_proof.prove(Client(server.url), "a", tmp_path / "t.jsonl", token_exact=True)
    demo_proof.prove(Client(server.url), "a", tmp_path / "t.jsonl", token_exact=False)
    assert "no token-exact record" in capsys.readouterr().out


def test_a_proof_that_fails_fails_the_demo(server: FakeServer, tmp_path: Path) -> None:
    server.answers["GET", "/v1/trajectories"] = b'{"schema": "traj/0"}\n'
    with pytest.raises(ClientError, match="ended with status"):
        demo_proof.prove(Client(server.url), "a", tmp_path / "t.jsonl", token_exact=True)
