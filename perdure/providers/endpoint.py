"""One configured provider: its endpoint, its models, and a Model for each of them by the API it speaks.

Invariant: what all models of a provider share (connection settings, encoded messages) is made once, with the provider.
"""

import time
from copy import copy
from typing import Any, Self
from urllib.parse import quote

import msgspec

from perdure.core.batches import Via
from perdure.core.errors import ProviderError
from perdure.providers.base import Model, ModelInfo
from perdure.providers.batch_apis import batch_api
from perdure.providers.batches import BatchApi, BatchProfile
from perdure.providers.catalogue import auth_headers, list_models
from perdure.providers.configs import ProviderConfig, deployments_root, with_version, without_version
from perdure.providers.gemini import Gemini
from perdure.providers.gemini_messages import ContentEncoder
from perdure.providers.http import Endpoint, Http
from perdure.providers.model_traits import traits_of
from perdure.providers.openai_chat import OpenAIChat
from perdure.providers.openai_messages import MessageEncoder
from perdure.providers.openai_request import refused
from perdure.providers.openai_responses import OpenAIResponses
from perdure.providers.profiles import ProviderProfile, WireApi, profile_of
from perdure.providers.responses_messages import InputEncoder

FRESH_S = 60.0
LATEST = ":latest"


class ChatProvider:
    """Implements `base.Provider` for everyone who is asked in messages. Its model list is kept for FRESH_S."""

    def __init__(self, config: ProviderConfig, http: Http) -> None:
        assert config.base_url is not None
        self.name = config.name
        self.config = config
        self.profile = profile_of(config.kind)
        self.http = http
        url = _api_url(config, self.profile)
        self.endpoint = Endpoint(config.name, url, headers=auth_headers(config), timeouts=config.options.timeouts)
        self._encoders: dict[bool, MessageEncoder] = {}
        self._inputs = InputEncoder(config.name)
        self._contents: dict[str | None, ContentEncoder] = {}
        self._listed: list[ModelInfo] = []
        self._listed_at: float | None = None

    @property
    def base_url(self) -> str | None:
        return self.endpoint.base_url

    @property
    def any_model(self) -> bool:
        """A model it does not list may be there all the same."""
        configured = self.config.options.any_model
        return not self.profile.lists_all if configured is None else configured

    @property
    def root_url(self) -> str:
        """Where an engine's own API lies."""
        return without_version(self.config.base_url or "")

    async def list_models(self) -> list[ModelInfo]:
        return self.keep(await list_models(self.http, self.endpoint, self.config, self.profile))

    def keep(self, listed: list[ModelInfo]) -> list[ModelInfo]:
        self._listed, self._listed_at = listed, time.monotonic()
        return listed

    async def models(self) -> list[ModelInfo]:
        """`list_models`, or what it said less than FRESH_S ago."""
        if self._listed_at is not None and time.monotonic() - self._listed_at < FRESH_S:
            return self._listed
        return await self.list_models()

    async def find(self, name: str) -> tuple[ModelInfo | None, list[ModelInfo] | None]:
        """(the model of that name, all it has), asking again for a name not known yet. (None, None): it cannot be asked."""
        for ask in (self.models, self.list_models):
            try:
                listed = await ask()
            except ProviderError:
                return None, None
            if (found := _named(listed, name)) is not None:
                return found, listed
        return None, listed

    async def model(self, name: str) -> Model:
        return (await self.open(name, (await self.find(name))[0], None))[0]

    async def open(
        self, name: str, info: ModelInfo | None, tokenizer: str | None, wire_api: WireApi | None = None
    ) -> tuple[Model, str | None]:
        """The model, and why its tokens are not on record where they could be. `tokenizer` and `wire_api`: as an agent says."""
        return self.chat(name, wire_api=wire_api, family=info.family if info is not None else None), None

    def chat(
        self,
        name: str,
        *,
        not_exact: str | None = None,
        wire_api: WireApi | None = None,
        family: str | None = None,
    ) -> Model:
        """The model, called by messages. `family`: the model it is, where its name does not tell."""
        stream = self.config.options.stream
        traits = traits_of(family or name)
        if self.profile.api == "gemini":
            return self._gemini(name, stream is not False)
        if self.wire_api(family or name, wire_api) == "responses":
            return OpenAIResponses(
                self.http,
                self.endpoint,
                name,
                encoder=self._inputs,
                traits=traits,
                stream=self.profile.chat.stream if stream is None else stream,
                path=self._path("/responses"),
                not_exact=not_exact,
            )
        dialect = self.profile.chat
        sees = "images" not in refused(family or name, dialect, traits)
        dialect = dialect if sees else msgspec.structs.replace(dialect, images=None)
        if sees not in self._encoders:
            self._encoders[sees] = MessageEncoder(dialect, provider=self.name)
        return OpenAIChat(
            self.http,
            self.endpoint,
            name,
            dialect,
            encoder=self._encoders[sees],
            traits=traits,
            stream=stream,
            path=self._path("/chat/completions", name),
            not_exact=not_exact,
        )

    def _path(self, path: str, deployment: str | None = None) -> str:
        """A path of the API; in Azure's older one it names the deployment and a version."""
        version = self.config.options.api_version
        if not self.profile.deployments or version is None:
            return path
        below = f"/deployments/{quote(deployment, safe='')}" if deployment else ""
        return f"{below}{path}?api-version={version}"

    def _gemini(self, name: str, stream: bool, **place: Any) -> Model:
        """`place`: where its models are called, and by which right, if not below the base URL by its key."""
        traits = traits_of(name)
        stand_in = traits.call_signature
        encoder = self._contents.setdefault(stand_in, ContentEncoder(self.name, stand_in=stand_in))
        return Gemini(self.http, self.endpoint, name, encoder=encoder, traits=traits, stream=stream, **place)

    def over(self, http: Http) -> Self:
        """The same provider with another way to it, asked for whole answers."""
        other = copy(self)
        other.http = http
        options = msgspec.structs.replace(self.config.options, stream=False)
        other.config = msgspec.structs.replace(self.config, options=options)
        return other

    def batches(self, via: Via) -> BatchApi | None:
        """Its own batch API, if it has one and it is to be used."""
        profile = self.profile.batches
        if profile is None or via == "queue" or (via == "auto" and not self._batches_by_itself(profile)):
            return None
        return batch_api(self.http, self.endpoint, profile, api_version=self.config.options.api_version)

    def _batches_by_itself(self, profile: BatchProfile) -> bool:
        """Whether it is used where a batch leaves that open: as its section says, or where it is known to be there."""
        configured = self.config.options.batches
        return configured if configured is not None else self._at_home and not profile.asked

    @property
    def _at_home(self) -> bool:
        return without_version(self.config.base_url or "") == without_version(self.profile.base_url or "")

    def wire_api(self, name: str, asked: WireApi | None = None) -> WireApi:
        """The API a model is called by: what the agent asks for, the configuration, or the profile's rule for its own address."""
        told = asked or self.config.options.wire_api
        if told is not None:
            return told
        return self.profile.reasoners if self._at_home and traits_of(name).reasons else "chat"

    async def close(self) -> None:
        pass


def _api_url(config: ProviderConfig, profile: ProviderProfile) -> str:
    """Where a provider's API lies."""
    assert config.base_url is not None
    if profile.deployments:
        root = deployments_root(config.base_url)
        return f"{root}/openai" if config.options.api_version is not None else f"{root}/openai/v1"
    return with_version(config.base_url, profile.version) if profile.version else config.base_url


def _named(listed: list[ModelInfo], name: str) -> ModelInfo | None:
    """By its name; by the name without `:latest`, or the file's name where only one has it, as people write them."""
    for info in listed:
        if name in (info.name, info.name.removesuffix(LATEST)):
            return info
    short = [info for info in listed if info.name.rpartition("/")[2].removesuffix(".gguf") == name]
    return short[0] if len(short) == 1 else None
