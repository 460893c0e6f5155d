"""The Messages API as Amazon Bedrock and Google Vertex serve it."""

import json
from base64 import b64encode
from typing import Any

from perdure.core.model import Chunk, ModelDone
from perdure.parsing.event_stream import encode_message
from perdure.providers.anthropic import ClaudeModel
from perdure.providers.anthropic_frames import MessagesAnswer
from perdure.providers.base import Model
from perdure.providers.bedrock import Bedrock, InvokeFrames
from perdure.providers.clouds import Cloud
from perdure.providers.google_auth import GoogleTokens
from perdure.providers.http import Endpoint, Http
from perdure.providers.vertex import Vertex
from tests.contract.conversations import Said
from tests.contract.translators.anthropic_messages import AnthropicSpeaker

INVOKED = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
FAILED = {
    ":exception-type": "serviceUnavailableException",
    ":content-type": "application/json",
    ":message-type": "exception",
}


class _Translator:
    def __init__(self) -> None:
        self._frames = InvokeFrames()
        self._answer = MessagesAnswer("bedrock")

    def feed(self, data: bytes) -> list[Chunk]:
        return self._answer.feed(self._frames.feed(data))

    def finish(self) -> tuple[list[Chunk], ModelDone]:
        if self._answer.failure is None:
            self._frames.finish()
        return self._answer.finish(), self._answer.done()


class BedrockSpeaker(AnthropicSpeaker):
    """What is said is the same; it comes as base64 in the chunks of a binary stream."""

    name = "bedrock"
    handle = "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0"
    stream_type = "application/vnd.amazon.eventstream"

    def model(self, http: Http, url: str, *, stream: bool) -> Model:
        platform = Bedrock(Endpoint("bedrock", url), Cloud(region="us-east-1"), "bedrock-key")
        return ClaudeModel(http, platform, self.handle.partition("/")[2], stream=stream)

    def translator(self) -> Any:
        return _Translator()

    def streamed(self, said: Said) -> bytes:
        made = b""
        for event in self.events(said):
            if event["type"] == "error":
                made += encode_message(FAILED, json.dumps({"message": event["error"]["message"]}).encode())
                continue
            payload = {"bytes": b64encode(json.dumps(event, ensure_ascii=False).encode()).decode(), "p": "abcd"}
            made += encode_message(INVOKED, json.dumps(payload).encode())
        return made

    def whole(self, said: Said) -> tuple[int, bytes] | None:
        if said.failure is not None:
            return 503, json.dumps({"message": said.failure.message}).encode()
        return super().whole(said)


class VertexSpeaker(AnthropicSpeaker):
    name = "anthropic_vertex"
    handle = "anthropic_vertex/claude-sonnet-4-5@20250929"

    def model(self, http: Http, url: str, *, stream: bool) -> Model:
        tokens = GoogleTokens(http, "anthropic_vertex", fixed="ya29.token")
        cloud = Cloud(region="europe-west1", project="acme")
        platform = Vertex(Endpoint("anthropic_vertex", f"{url}/v1"), cloud, tokens)
        return ClaudeModel(http, platform, self.handle.partition("/")[2], stream=stream)
