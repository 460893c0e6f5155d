import socket

import pytest

from perdure.cli.client import Client, ClientError, connect
from tests.unit.cli.fake_server import FakeServer, Stream


def test_asks_with_query_body_and_password(server: FakeServer) -> None:
    server.answers["GET", "/v1/agents/"] = [{"id": "a"}]
    server.answers["POST", "/v1/agents/"] = {"id": "b"}
    client = connect(server.url, {"PERDURE_PASSWORD": "secret"})
    assert client.get("/v1/agents/", limit=5, name=None, include=["x", "y"]) == [{"id": "a"}]
    assert client.post("/v1/agents/", {"name": "n"}) == {"id": "b"}
    (_, path, headers, _), (_, _, _, body) = server.asked
    assert path == "/v1/agents/?limit=5&include=x&include=y"
    assert {k.lower(): v for k, v in headers.items()}["authorization"] == "Bearer secret"
    assert body == {"name": "n"}


def test_the_option_wins_over_the_environment() -> None:
    env = {"PERDURE_BASE_URL": "http://one:1", "LETTA_BASE_URL": "http://two:2"}
    assert connect("http://three:3/", env).base_url == "http://three:3"
    assert connect(None, env).base_url == "http://one:1"
    assert connect(None, {"LETTA_BASE_URL": "http://two:2"}).base_url == "http://two:2"
    assert connect(None, {}).base_url == "http://127.0.0.1:8283"


@pytest.mark.parametrize("url", ["127.0.0.1:8283", "ftp://x", "http://", "http://x:notaport", "http://x:99999"])
def test_an_address_that_is_no_url_is_named(url: str) -> None:
    with pytest.raises(ClientError, match="not"):
        Client(url)


def test_no_server_says_how_to_start_one() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    with pytest.raises(ClientError, match="perdure serve"):
        Client(f"http://127.0.0.1:{port}").get("/v1/health/")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"detail": "Agent not found"}, "Agent not found"),
        ({"detail": {"code": "PENDING_APPROVAL", "message": "approve first"}}, "approve first"),
        ({"error": {"type": "llm_error", "message": "model is down"}}, "model is down"),
        (b"plain words", "plain words"),
        (b"", "status 500"),
    ],
)
def test_a_refusal_says_what_the_server_said(server: FakeServer, body: object, says: str) -> None:
    server.answers["GET", "/v1/x"] = (500, body)
    with pytest.raises(ClientError, match=says) as error:
        Client(server.url).get("/v1/x")
    assert error.value.status == 500


def test_a_refused_password_names_the_variable(server: FakeServer) -> None:
    server.answers["GET", "/v1/x"] = (401, {"detail": "Unauthorized"})
    with pytest.raises(ClientError, match="PERDURE_PASSWORD"):
        Client(server.url).get("/v1/x")


def test_an_answer_that_is_not_json_is_said_to_be(server: FakeServer) -> None:
    server.answers["GET", "/v1/x"] = b"<html>"
    with pytest.raises(ClientError, match="JSON"):
        Client(server.url).get("/v1/x")


def test_frames_come_whole_however_they_are_cut(server: FakeServer) -> None:
    frames = [{"message_type": "ping"}, {"message_type": "assistant_message", "content": "a\nb ü"}]
    server.answers["POST", "/v1/s"] = Stream(frames)
    assert list(Client(server.url).stream("/v1/s", {})) == frames


def test_a_stream_without_its_end_is_an_error(server: FakeServer) -> None:
    server.cut = True
    server.answers["POST", "/v1/s"] = Stream([{"message_type": "ping"}])
    with pytest.raises(ClientError, match="before it was complete"):
        list(Client(server.url).stream("/v1/s", {}))


def test_a_resumed_stream_may_end_with_its_error(server: FakeServer) -> None:
    server.cut = True
    server.answers["POST", "/v1/s"] = Stream([{"message_type": "error_message", "message": "no"}])
    assert [frame["message"] for frame in Client(server.url).stream("/v1/s", {})] == ["no"]
