"""Claude on Amazon Bedrock: the Messages API behind InvokeModel, signed, its events in AWS's binary stream."""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from perdure.core.errors import ProviderError
from perdure.parsing.event_stream import EventMessage, EventStreamError, EventStreamParser
from perdure.providers.anthropic import AnthropicProvider, Call, Frames, endpoint_of
from perdure.providers.base import ModelInfo
from perdure.providers.catalogue import TIMEOUT_S, named_models
from perdure.providers.claude_models import ClaudeTraits, claude_traits
from perdure.providers.clouds import Cloud, bedrock_url
from perdure.providers.configs import ProviderConfig
from perdure.providers.http import Endpoint, Http
from perdure.providers.sigv4 import signed_headers

VERSION = "bedrock-2023-05-31"
SERVICE = "bedrock"

_STATUS = {
    "internalServerException": 500,
    "modelStreamErrorException": 500,
    "modelTimeoutException": 504,
    "serviceUnavailableException": 503,
    "throttlingException": 429,
    "validationException": 400,
}


class _Payload(Struct):
    bytes: str | None = None
    message: str | None = None


_decode_payload = msgspec.json.Decoder(_Payload).decode


class InvokeFrames:
    """Implements `anthropic.Frames`: the events inside the chunks of an InvokeModel stream; an exception as an error event."""

    __slots__ = ("_parser",)

    def __init__(self) -> None:
        self._parser = EventStreamParser()

    def feed(self, data: bytes) -> list[bytes]:
        return [event for message in self._parser.feed(data) if (event := _event(message)) is not None]

    def finish(self) -> list[bytes]:
        self._parser.finish()
        return []


def _event(message: EventMessage) -> bytes | None:
    headers = message.headers
    kind = headers.get(":message-type")
    try:
        payload = _decode_payload(message.payload) if message.payload else _Payload()
        if kind == "event":
            return b64decode(payload.bytes) if payload.bytes is not None else None
    except (msgspec.DecodeError, ValueError) as cause:
        raise EventStreamError(f"the payload of a message cannot be read: {cause}") from cause
    name = str(headers.get(":exception-type") or headers.get(":error-code") or "")
    text = payload.message or headers.get(":error-message") or name or "no explanation"
    return msgspec.json.encode({"type": "error", "error": {"code": _STATUS.get(name, 500), "message": text}})


class Bedrock:
    """Implements `anthropic.Platform`. `bearer`: a Bedrock API key, used instead of a signature."""

    addresses = False

    def __init__(self, endpoint: Endpoint, cloud: Cloud, bearer: str | None) -> None:
        self.endpoint = endpoint
        self._cloud = cloud
        self._bearer = bearer

    def call(self, model: str, *, stream: bool, betas: Sequence[str]) -> Call:
        fields: dict[str, Any] = {"anthropic_version": VERSION}
        if betas:
            fields["anthropic_beta"] = list(betas)
        verb = "invoke-with-response-stream" if stream else "invoke"
        return Call(f"/model/{quote(model, safe='')}/{verb}", fields)

    async def headers(self, path: str, body: bytes, betas: Sequence[str]) -> Mapping[str, str] | None:
        return self.signed("POST", self.endpoint, path, body)

    def signed(self, method: str, endpoint: Endpoint, path: str, body: bytes) -> dict[str, str]:
        if self._bearer is not None:
            return {"Authorization": f"Bearer {self._bearer}"}
        if self._cloud.keys is None:
            raise ProviderError(
                f"{self.endpoint.name} has no right to call AWS: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_BEARER_TOKEN_BEDROCK.",
                kind="llm_authentication",
            )
        url = endpoint.url(path)
        return signed_headers(method, url, body, self._cloud.keys, region=self._cloud.region, service=SERVICE)

    def frames(self) -> Frames:
        return InvokeFrames()


class BedrockProvider(AnthropicProvider):
    """Implements `base.Provider`. It lists the Claude models the region serves on demand and the profiles of several regions."""

    def __init__(self, config: ProviderConfig, http: Http) -> None:
        assert config.cloud is not None and config.base_url is not None
        self._bedrock = Bedrock(
            endpoint_of(config, config.base_url, config.options.headers), config.cloud, config.api_key
        )
        super().__init__(config, http, self._bedrock)
        at_home = config.base_url == bedrock_url(config.cloud.region)
        control = f"https://bedrock.{config.cloud.region}.amazonaws.com" if at_home else config.base_url
        self._control = endpoint_of(config, control, config.options.headers)

    def traits(self, name: str) -> ClaudeTraits:
        """Bedrock holds only the models up to 4.6 to a schema."""
        traits = claude_traits(name)
        return msgspec.structs.replace(traits, structured=traits.structured and traits.sampling)

    async def ask(self) -> list[ModelInfo]:
        if self.config.options.models is not None:
            return await super().ask()
        models = await self._get("/foundation-models?byOutputModality=TEXT&byProvider=Anthropic")
        profiles = await self._get("/inference-profiles?maxResults=1000&type=SYSTEM_DEFINED")
        names = [
            str(each.get("modelId"))
            for each in models.get("modelSummaries") or ()
            if "ON_DEMAND" in (each.get("inferenceTypesSupported") or ())
        ]
        names += [str(each.get("inferenceProfileId")) for each in profiles.get("inferenceProfileSummaries") or ()]
        claude = [name for name in dict.fromkeys(names) if "anthropic.claude" in name]
        return named_models(self.config, self.profile, claude)

    async def _get(self, path: str) -> dict[str, Any]:
        headers = self._bedrock.signed("GET", self._control, path, b"")
        body = await self.http.call(
            self._control, path, method="GET", headers=headers, retry=False, timeout_s=TIMEOUT_S
        )
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, msgspec.ValidationError) as cause:
            raise ProviderError(f"{self.name} answered {self._control.base_url}{path} without a list.") from cause
