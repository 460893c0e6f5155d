"""Handles to models: `<provider>/<model>`, whoever serves it.

Invariant: a handle is looked up once; after that a message costs no request but the model call itself.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from perdure.core.agents import ModelSettings
from perdure.core.batches import Via
from perdure.core.errors import AgentError, Invalid, NotFound, ProviderError
from perdure.providers.anthropic import AnthropicProvider
from perdure.providers.base import Model, ModelInfo
from perdure.providers.batched import BatchedHttp, BatchedModel, KeptAnswer
from perdure.providers.batches import BatchApi
from perdure.providers.bedrock import BedrockProvider
from perdure.providers.configs import (
    ProviderConfig,
    ProviderOptions,
    providers_from_config,
    providers_from_env,
    unique,
)
from perdure.providers.endpoint import ChatProvider
from perdure.providers.engines import EngineProvider, LocalProvider, Places, places_of
from perdure.providers.http import Http
from perdure.providers.limited import limited
from perdure.providers.limits import Configured, Gate, Limits
from perdure.providers.profiles import WireApi, profile_of
from perdure.providers.replicas import ReplicaState
from perdure.providers.vertex import VertexProvider
from perdure.providers.vertex_gemini import VertexGeminiProvider

__all__ = [
    "ProviderConfig",
    "ProviderOptions",
    "Registry",
    "Resolved",
    "providers_from_config",
    "providers_from_env",
]

LIST_TIMEOUT_S = 5.0
FALLBACK_FRESH_S = 30.0
FAILED_FRESH_S = 10.0
SHOWN = 12
_DATED = re.compile(r"-(?:\d{8}|\d{4}-\d\d-\d\d)$")  # a model's name may end with the day it came out
UNAVAILABLE = "The embedded engine is not installed: pip install 'perdure[local]', or configure another provider."


class Resolved(Struct, frozen=True):
    """A handle's model. `name`: as its provider knows it. `not_exact`: why its tokens are not on record, where they could be.

    Where the provider has limits, `model` keeps within them (`limited.unlimited` gives the one below).
    """

    model: Model
    name: str
    provider_name: str
    endpoint: str | None
    info: ModelInfo | None = None
    not_exact: str | None = None


_Key = tuple[str, str | None, WireApi | None]  # a handle, and where the agent says its tokenizer is and how to call it


class _Kept(Struct, frozen=True):
    resolved: Resolved
    until: float | None


AnyProvider = ChatProvider | LocalProvider


def _provider(config: ProviderConfig, http: Http, places: Places) -> AnyProvider:
    if config.kind == "local":
        return LocalProvider(config, http, places)
    profile = profile_of(config.kind)
    if profile.token_api is not None:
        return EngineProvider(config, http, places)
    if profile.api == "gemini" and profile.cloud:
        return VertexGeminiProvider(config, http)
    match profile.messages_api:
        case "anthropic":
            return AnthropicProvider(config, http)
        case "bedrock":
            return BedrockProvider(config, http)
        case "vertex":
            return VertexProvider(config, http)
        case None:
            pass
    return ChatProvider(config, http)


class Registry:
    """Every provider: those it is made with, which stay, and those that users add, which `set_added` takes into use at once.

    `errors`: by name, what was wrong with those that could not be listed last time. `look_again`: called before an unknown
    provider is refused; it may call `set_added`. `changes`: goes up when a provider in use is changed or removed.
    `http`: for tests; otherwise the registry opens its own client. `limits`: what its models may be asked; `gates`: those of
    the providers asked so far, by name, made by `make_gate` ("": for all together).
    """

    def __init__(
        self,
        configs: Iterable[ProviderConfig],
        *,
        tokenizers_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
        http: Http | None = None,
        limits: Configured = Configured(),
        make_gate: Callable[[str, Limits], Gate] | None = None,
    ) -> None:
        self.gates: dict[str, Gate] = {}
        self._limits = limits
        self._make_gate = make_gate or _own_gate
        self._together = self._make_gate("", limits.together) if limits.together else None
        self.errors: dict[str, AgentError] = {}
        self.changes = 0
        self.look_again: Callable[[], Awaitable[None]] | None = None
        self._http = http or Http()
        if limits:
            self._http.refused = self._refused
        self._places = places_of(tokenizers_dir, env or {})
        self._configs = {config.name: config for config in unique(configs)}
        self._base = frozenset(self._configs)
        self._providers = {name: _provider(config, self._http, self._places) for name, config in self._configs.items()}
        self._kept: dict[_Key, _Kept] = {}
        self._failed_at: dict[str, float] = {}
        self._locks = {name: asyncio.Lock() for name in self._providers}

    @property
    def names(self) -> list[str]:
        return list(self._providers)

    @property
    def base(self) -> list[ProviderConfig]:
        """Those that were configured, which cannot be changed."""
        return [self._configs[name] for name in self._providers if name in self._base]

    async def set_added(self, configs: Iterable[ProviderConfig]) -> None:
        """From now on these are the added providers. One that is named as a configured one is not used."""
        wanted = {config.name: config for config in configs if config.name not in self._base}
        gone = [name for name, config in self._configs.items() if name not in self._base and wanted.get(name) != config]
        closing = [self._forget(name) for name in gone]
        self.changes += bool(gone)
        for name, config in wanted.items():
            if name not in self._providers:
                self._configs[name] = config
                self._providers[name] = _provider(config, self._http, self._places)
                self._locks[name] = asyncio.Lock()
        await asyncio.gather(*(provider.close() for provider in closing))

    def _forget(self, name: str) -> AnyProvider:
        del self._configs[name], self._locks[name]
        self.errors.pop(name, None)
        self._failed_at.pop(name, None)
        self._kept = {key: kept for key, kept in self._kept.items() if kept.resolved.provider_name != name}
        return self._providers.pop(name)

    async def ask(self, config: ProviderConfig, timeout_s: float = LIST_TIMEOUT_S) -> list[ModelInfo]:
        """What a provider serves that is not in use (yet). ProviderError when it does not say."""
        provider = _provider(config, self._http, self._places)
        try:
            async with asyncio.timeout(timeout_s):
                return await provider.list_models()
        except TimeoutError as cause:
            raise _too_slow(provider, timeout_s) from cause
        finally:
            await provider.close()

    async def resolve(
        self, handle: str, *, settings: ModelSettings | None = None, require_exact: bool = False
    ) -> Resolved:
        """The model of a handle.

        NotFound when nobody serves it. `require_exact`: Invalid unless its tokens can be put on record. A provider that
        cannot be asked for its models is trusted to have this one: the call itself will tell what is wrong.
        """
        key = (handle, None, None) if settings is None else (handle, settings.tokenizer, settings.wire_api)
        resolved = self._known(key)
        if resolved is None:
            provider, name = await self._provider_of(handle)
            async with self._locks[provider.name]:
                resolved = self._known(key) or await self._look_up(provider, name, key)
        if require_exact and resolved.not_exact is not None:
            raise Invalid(resolved.not_exact)
        return resolved

    async def batched(
        self, resolved: Resolved, via: Via, kept: Sequence[KeptAnswer], settings: ModelSettings | None = None
    ) -> BatchedModel | None:
        """The model, called through its provider's batch API. None if it has none, or it is not to be used.

        `kept`: the answers to the calls that were made of it in the run's steps under way.
        """
        provider = self._providers.get(resolved.provider_name)
        if not isinstance(provider, ChatProvider) or provider.batches(via) is None:
            return None
        http = BatchedHttp(kept)
        wire_api = settings.wire_api if settings is not None else None
        model, _ = await provider.over(http).open(resolved.name, resolved.info, None, wire_api)
        return BatchedModel(model, http, resolved.model)

    def batch_api(self, provider_name: str) -> BatchApi | None:
        """A provider's own batch API. None: it has none, or is not configured any more."""
        provider = self._providers.get(provider_name)
        return provider.batches("provider") if isinstance(provider, ChatProvider) else None

    async def small_model(self, handle: str) -> str | None:
        """The handle of the small model that the provider of this one has for work on the side, if it lists one."""
        provider = self._providers.get(handle.partition("/")[0])
        names = provider.profile.small_models if isinstance(provider, ChatProvider) else ()
        if provider is None or not names:
            return None
        try:
            listed = await provider.models()
        except ProviderError:
            return None
        named = (info.handle for name in names for info in listed if _DATED.sub("", info.name) == name)
        return next(named, None)

    def replicas(self, name: str) -> list[ReplicaState]:
        """How the servers of a provider are; [] where it is one server, or none is known by that name."""
        provider = self._providers.get(name)
        return provider.replicas if isinstance(provider, EngineProvider) else []

    async def info(self, handle: str) -> ModelInfo | None:
        """What is known of a handle's model; None for one its provider does not list."""
        return (await self.resolve(handle)).info

    async def models(self) -> list[ModelInfo]:
        """Every provider's models, as each said less than a minute ago; one that just failed is not waited for again."""
        return await self._gather(fresh=False, timeout_s=LIST_TIMEOUT_S)

    async def list_models(self, timeout_s: float = LIST_TIMEOUT_S) -> list[ModelInfo]:
        """Every provider's models, asked now and all at once. `errors` says what is wrong with those that are missing."""
        return await self._gather(fresh=True, timeout_s=timeout_s)

    async def close(self) -> None:
        await asyncio.gather(*(provider.close() for provider in self._providers.values()))
        await self._http.close()

    async def _gather(self, *, fresh: bool, timeout_s: float) -> list[ModelInfo]:
        async def ask(provider: AnyProvider) -> list[ModelInfo]:
            failed_at = self._failed_at.get(provider.name)
            if not fresh and failed_at is not None and time.monotonic() - failed_at < FAILED_FRESH_S:
                return []
            try:
                async with asyncio.timeout(timeout_s):
                    found = await (provider.list_models() if fresh else provider.models())
            except TimeoutError:
                error: AgentError = _too_slow(provider, timeout_s)
            except AgentError as failure:
                error = failure
            else:
                self.errors.pop(provider.name, None)
                self._failed_at.pop(provider.name, None)
                return found
            if self._providers.get(provider.name) is provider:
                self.errors[provider.name] = error
                self._failed_at[provider.name] = time.monotonic()
            return []

        listed = await asyncio.gather(*(ask(provider) for provider in self._providers.values()))
        return [info for found in listed for info in found]

    def _known(self, key: _Key) -> Resolved | None:
        kept = self._kept.get(key)
        if kept is None or (kept.until is not None and kept.until < time.monotonic()):
            return None
        return kept.resolved

    async def provider(self, handle: str) -> AnyProvider:
        """Whose model a handle is. NotFound when there is no such provider."""
        return (await self._provider_of(handle))[0]

    async def _provider_of(self, handle: str) -> tuple[AnyProvider, str]:
        provider_name, _, name = handle.partition("/")
        if not name:
            raise NotFound(f"{handle!r} is no model handle: it has the form provider/model. {self._offered()}")
        if provider_name not in self._providers and self.look_again is not None:
            await self.look_again()
        provider = self._providers.get(provider_name)
        if provider is None:
            why = UNAVAILABLE if provider_name == "local" else self._offered()
            raise NotFound(f"No provider named {provider_name!r} is configured (handle {handle}). {why}")
        return provider, name

    async def _look_up(self, provider: AnyProvider, name: str, key: _Key) -> Resolved:
        info, listed = await provider.find(name)
        if info is None and listed is not None and not provider.any_model:
            shown = ", ".join(each.handle for each in listed[:SHOWN]) or "none"
            more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
            raise NotFound(f"{provider.name} has no model {name!r} (handle {key[0]}). It has: {shown}{more}.")
        true_name = info.name if info is not None else name
        model, not_exact = await provider.open(true_name, info, key[1], key[2])
        within = self._limited(model, provider.name)
        resolved = Resolved(within, true_name, provider.name, provider.base_url, info, not_exact)
        lasting = info is not None and not_exact is None
        if self._providers.get(provider.name) is not provider:
            return resolved  # it was changed in the meantime: for this once
        self._kept[key] = _Kept(resolved, None if lasting else time.monotonic() + FALLBACK_FRESH_S)
        return resolved

    def _limited(self, model: Model, provider_name: str) -> Model:
        if not self._limits:
            return model
        gate = self.gates.get(provider_name)
        if gate is None:
            gate = self.gates[provider_name] = self._make_gate(
                provider_name, self._limits.each.get(provider_name, Limits())
            )
        return limited(model, gate, self._together)

    def _refused(self, provider_name: str, error: ProviderError) -> None:
        if (gate := self.gates.get(provider_name)) is not None:
            gate.refused(error)

    def _offered(self) -> str:
        if not self._providers:
            return "No provider is configured: set OPENAI_API_KEY, SGLANG_BASE_URL or another provider's variable."
        return f"Configured providers: {', '.join(self._providers)}. `perdure models` lists their models."


def _own_gate(_name: str, limits: Limits) -> Gate:
    return Gate(limits)


def _too_slow(provider: AnyProvider, timeout_s: float) -> ProviderError:
    return ProviderError(
        f"{provider.name} did not list its models within {timeout_s:g} s ({provider.base_url}).", kind="llm_timeout"
    )
