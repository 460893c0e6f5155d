"""Images sent with the real SDK: fetched once and safely, kept by value, shown to the model every turn."""

import base64
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from letta_client import APIStatusError, Letta

from tests.doubles.openai_chat import OpenAIDouble, call, text
from tests.e2e.conftest import ServerProcess

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()

SHOW = '''
def picture(url: str) -> list:
    """Show a picture.

    Args:
        url (str): where it is
    """
    return [{"type": "text", "text": "Here:"}, {"type": "image", "source": {"type": "url", "url": url}}]
'''


class Pictures(BaseHTTPRequestHandler):
    fetched = 0

    def do_GET(self) -> None:
        type(self).fetched += 1
        body = PNG if self.path == "/a.png" else b"<html>not a picture</html>"
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def pictures() -> Iterator[str]:
    site = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    thread = threading.Thread(target=site.serve_forever, daemon=True)
    thread.start()
    Pictures.fetched = 0
    yield f"http://127.0.0.1:{site.server_address[1]}"
    site.shutdown()
    thread.join(5)


def image(**source: Any) -> dict[str, Any]:
    return {"type": "image", "source": source}


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


def test_an_image_is_fetched_once_and_kept_by_value(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble, pictures: str
) -> None:
    client = Letta(base_url=own_server(PERDURE_ALLOW_PRIVATE_URLS="true").url, max_retries=0)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False)
    engine.script(text("A dot."), text("Still a dot."))
    parts = user({"type": "text", "text": "What is it?"}, image(type="url", url=f"{pictures}/a.png"))
    client.agents.messages.create(agent.id, messages=parts)
    client.agents.messages.create(agent.id, input="And now?")
    for request in engine.requests[-2:]:
        assert request["messages"][1]["content"] == [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": DATA_URL}},
        ]
    assert Pictures.fetched == 1
    listed = [m for m in client.agents.messages.list(agent.id).items if m.message_type == "user_message"]
    assert listed[0].content[1].source.media_type == "image/png"
    assert base64.b64decode(listed[0].content[1].source.data) == PNG
    with pytest.raises(APIStatusError) as refused:
        client.agents.messages.create(agent.id, messages=user(image(type="url", url=f"{pictures}/page")))
    assert refused.value.status_code == 400
    assert "messages[0].content[0].source.url" in str(refused.value)


def test_a_private_address_is_refused_and_nothing_is_stored(
    client: Letta, new_agent: Callable[..., Any], engine: OpenAIDouble, pictures: str
) -> None:
    agent = new_agent()
    asked = len(engine.requests)
    with pytest.raises(APIStatusError) as refused:
        client.agents.messages.create(agent.id, messages=user(image(type="url", url=f"{pictures}/a.png")))
    assert refused.value.status_code == 400
    assert "PERDURE_ALLOW_PRIVATE_URLS" in str(refused.value)
    assert (Pictures.fetched, len(engine.requests)) == (0, asked)
    assert [m.message_type for m in client.agents.messages.list(agent.id).items] == ["system_message"]
    assert client.agents.messages.create(agent.id, input="Hi").stop_reason.stop_reason == "end_turn"


def test_the_media_type_is_what_the_bytes_say(
    client: Letta, new_agent: Callable[..., Any], engine: OpenAIDouble
) -> None:
    agent = new_agent()
    data = base64.b64encode(PNG).decode()
    client.agents.messages.create(
        agent.id, messages=user(image(type="base64", media_type="image/jpeg", data=data, detail="low"))
    )
    assert engine.requests[-1]["messages"][1]["content"] == [
        {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "low"}}
    ]


def test_a_tool_may_return_an_image(
    own_server: Callable[..., ServerProcess], engine: OpenAIDouble, pictures: str
) -> None:
    client = Letta(base_url=own_server(PERDURE_ALLOW_PRIVATE_URLS="true").url, max_retries=0)
    tool = client.tools.upsert(source_code=SHOW)
    agent = client.agents.create(model="openai/gpt-test", include_base_tools=False, tool_ids=[tool.id])
    engine.script(call("picture", {"url": f"{pictures}/a.png"}), text("A dot."))
    answer = client.agents.messages.create(agent.id, input="Show me.")
    returned = answer.messages[1]
    assert returned.message_type == "tool_return_message"
    assert returned.status == "success"
    shown = engine.requests[-1]["messages"][-2:]
    assert shown[0]["content"] == "Here:"
    assert shown[1]["content"][1] == {"type": "image_url", "image_url": {"url": DATA_URL}}
    engine.script(call("picture", {"url": f"{pictures}/page"}), text("No."))
    answer = client.agents.messages.create(agent.id, input="Show me another.")
    assert answer.messages[1].status == "error"
    assert "PNG, JPEG, GIF or WebP" in answer.messages[1].tool_return
