"""Claude on Google Cloud (Vertex AI): the Messages API behind a project, a location and Google's tokens."""

from collections.abc import Mapping, Sequence

import msgspec

from perdure.parsing.sse import SseParser
from perdure.providers.anthropic import AnthropicProvider, Call, Frames, beta_header, endpoint_of
from perdure.providers.clouds import Cloud
from perdure.providers.configs import ProviderConfig
from perdure.providers.google_auth import GoogleTokens
from perdure.providers.http import Endpoint, Http

VERSION = "vertex-2023-10-16"

# Google lists no partners' models to callers. From Anthropic's page on Claude on Google Cloud.
MODELS = (
    "claude-fable-5-1",
    "claude-fable-5",
    "claude-opus-5-5",
    "claude-opus-5",
    "claude-opus-4-8",
    "claude-opus-4-7",
    "claude-opus-4-6",
    "claude-opus-4-5@20251101",
    "claude-sonnet-5-5",
    "claude-sonnet-5",
    "claude-sonnet-4-6",
    "claude-sonnet-4-5@20250929",
    "claude-haiku-4-5@20251001",
)


class Vertex:
    """Implements `anthropic.Platform`."""

    addresses = False

    def __init__(self, endpoint: Endpoint, cloud: Cloud, tokens: GoogleTokens) -> None:
        self.endpoint = endpoint
        self._below = f"/projects/{cloud.project}/locations/{cloud.region}/publishers/anthropic/models/"
        self._tokens = tokens

    def call(self, model: str, *, stream: bool, betas: Sequence[str]) -> Call:
        verb = "streamRawPredict" if stream else "rawPredict"
        fields = {"anthropic_version": VERSION, "stream": True} if stream else {"anthropic_version": VERSION}
        return Call(f"{self._below}{model}:{verb}", fields)

    async def headers(self, path: str, body: bytes, betas: Sequence[str]) -> Mapping[str, str] | None:
        return {"Authorization": f"Bearer {await self._tokens.token()}", **(beta_header(self.endpoint, betas) or {})}

    def frames(self) -> Frames:
        return SseParser()


class VertexProvider(AnthropicProvider):
    """Implements `base.Provider`. Its list is what Google is known to serve; what a project may use, the call tells."""

    def __init__(self, config: ProviderConfig, http: Http) -> None:
        assert config.cloud is not None and config.base_url is not None
        options = msgspec.structs.replace(config.options, models=config.options.models or MODELS)
        tokens = GoogleTokens(http, config.name, file=config.cloud.credentials_file, fixed=config.api_key)
        endpoint = endpoint_of(config, config.base_url, config.options.headers)
        listing = msgspec.structs.replace(config, options=options)
        super().__init__(listing, http, Vertex(endpoint, config.cloud, tokens))
