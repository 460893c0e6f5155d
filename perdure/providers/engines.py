"""Providers that take and give token ids: a Model of such an engine keeps its tokens on record.

Invariant: exact or said why not. An engine whose model has no tokenizer here is spoken to by chat completions, and every
answer then carries the reason (`not_exact`), unless it tells its ids with them, as vLLM does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.errors import Invalid, ProviderError
from perdure.providers.base import Model, ModelInfo, TokenEngine
from perdure.providers.catalogue import auth_headers, list_models
from perdure.providers.configs import ProviderConfig, with_version, without_version
from perdure.providers.endpoint import ChatProvider
from perdure.providers.experts import ExpertsAsked
from perdure.providers.http import Endpoint, Http
from perdure.providers.llamacpp import LlamaCpp
from perdure.providers.local import LocalEngine, LocalModel, local_model
from perdure.providers.openai_chat import OpenAIChat
from perdure.providers.profiles import WireApi, profile_of
from perdure.providers.replicas import Replicas, ReplicaState
from perdure.providers.retries import Retries
from perdure.providers.sglang import SGLang
from perdure.providers.token_exact import DEFAULT_MAX_TOKENS, TokenExactModel
from perdure.providers.vllm import VLLM
from perdure.providers.vllm_chat import VLLMChat
from perdure.tokens.base import Renderer, TokenizerNotFound
from perdure.tokens.discovery import default_hf_cache, find_tokenizer
from perdure.tokens.families import renderer_for
from perdure.tokens.grammar import Grammars

SEARCH_TIMEOUT_S = 60.0
LOCAL_MAX_TOKENS = 512  # a small model on a CPU rambles on, and nobody waits for four thousand tokens of it
ASK_TIMEOUT_S = 5.0
OR_BY_CHAT = 'Or set wire_api to "chat" in its model_settings: the server then writes the prompts, and tells their ids.'
API_NAMES: dict[WireApi, str] = {"chat": "chat completions", "responses": "the Responses API"}


class Places(Struct, frozen=True):
    """Where tokenizers may be looked for besides what an engine says."""

    tokenizers_dir: Path | None = None
    hf_cache: Path | None = None
    allow_hub: bool = False


def places_of(tokenizers_dir: Path | None, env: Any) -> Places:
    """The hub is asked only where its extra is installed and nobody said to stay offline."""
    offline = env.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    return Places(tokenizers_dir, default_hf_cache(env), not offline and find_spec("huggingface_hub") is not None)


class _Told(Struct, frozen=True):
    """What an engine says of the model it serves."""

    tokenizer_path: str | None = None
    version: str | None = None
    grammars: Grammars = "any"


class EngineProvider(ChatProvider):
    """Implements `base.Provider` for SGLang, vLLM and llama.cpp."""

    def __init__(self, config: ProviderConfig, http: Http, places: Places) -> None:
        super().__init__(config, http)
        self._places = places
        urls = (self.root_url, *map(without_version, config.replicas))
        retries = Retries(attempts=1) if config.replicas else Retries()
        headers, timeouts = auth_headers(config), self.endpoint.timeouts
        self._roots = [Endpoint(config.name, url, headers=headers, timeouts=timeouts, retries=retries) for url in urls]
        make, self._tell = _ENGINES[self.profile.token_api or ""]
        engines = [make(http, root) for root in self._roots]
        self._engine = Replicas(engines, pause=http.pause) if config.replicas else engines[0]

    @property
    def replicas(self) -> list[ReplicaState]:
        """How its servers are, where it has several."""
        return self._engine.states() if isinstance(self._engine, Replicas) else []

    async def list_models(self) -> list[ModelInfo]:
        """Of the first of its servers that answers: all serve the same."""
        if not self.config.replicas:
            return await super().list_models()
        error: ProviderError | None = None
        for root in self._roots:
            endpoint = Endpoint(self.name, with_version(root.base_url), headers=root.headers, timeouts=root.timeouts)
            try:
                found = await list_models(self.http, endpoint, self.config, self.profile)
            except ProviderError as failure:
                error = error or failure
            else:
                return self.keep(found)
        assert error is not None
        raise error

    async def open(
        self, name: str, info: ModelInfo | None, tokenizer: str | None, wire_api: WireApi | None = None
    ) -> tuple[Model, str | None]:
        api = wire_api or self.config.options.wire_api
        if api == "chat" and self._tells_ids:
            return self._served(name, (await self._told_of_chat()).version), None
        if api is not None:
            reason = f"wire_api asks for {name!r} by {API_NAMES[api]}, which takes and gives no tokens. Leave it out."
            return self.chat(name, not_exact=reason, wire_api=api), reason
        try:
            told = await self._tell(self)
            renderer, experts = await find_model(
                name, tokenizer or self.config.options.tokenizer, told.tokenizer_path, self._places
            )
        except (TokenizerNotFound, Invalid, ProviderError) as cause:
            reason = cause.message if isinstance(cause, Invalid | ProviderError) else str(cause)
            if self._tells_ids:
                return self._served(name, None), f"{reason} {OR_BY_CHAT}"
            return self.chat(name, not_exact=reason), reason
        model = exact_model(
            self._engine,
            renderer,
            self.name,
            name,
            info,
            version=told.version,
            grammars=told.grammars,
            experts=experts,
        )
        return model, None

    @property
    def _tells_ids(self) -> bool:
        """Its chat completions tell which ids they used and sampled. One of several servers is not asked in messages."""
        return isinstance(self._engine, VLLM)

    async def _told_of_chat(self) -> _Told:
        """An engine that is away is found out when it is asked for an answer."""
        try:
            return await self._tell(self)
        except ProviderError:
            return _Told()

    def _served(self, name: str, version: str | None) -> Model:
        """The model, asked in messages, with the ids on record that the server tells of."""
        chat = self.chat(name, wire_api="chat")
        assert isinstance(chat, OpenAIChat) and isinstance(self._engine, VLLM)
        return VLLMChat(
            chat,
            self._engine,
            provider_name=self.name,
            model_name=name,
            handle=f"{self.name}/{name}",
            engine_version=version,
        )

    async def close(self) -> None:
        if isinstance(self._engine, SGLang | VLLM | Replicas):
            await self._engine.close()

    async def ask(self, path: str) -> dict[str, Any]:
        """A GET below the root of the first server that answers; {} where it has no such route."""
        raw = b"{}"
        for root in self._roots:
            try:
                raw = await self.http.call(root, path, method="GET", retry=False, timeout_s=ASK_TIMEOUT_S)
            except ProviderError as error:
                if error.status is not None:
                    return {}
                if root is self._roots[-1]:
                    raise
            else:
                break
        try:
            return msgspec.json.decode(raw, type=dict[str, Any])
        except msgspec.DecodeError:
            return {}

    async def tell_sglang(self) -> _Told:
        info = await self.ask("/model_info") or await self.ask("/get_model_info")
        server = await self.ask("/server_info") or await self.ask("/get_server_info")
        backend = server.get("grammar_backend")
        # other backends match a marker that is one token of the model only by a name of their own
        kept: Grammars = "any" if backend in (None, "xgrammar") else "none" if backend == "none" else "schemas"
        return _Told(info.get("tokenizer_path") or info.get("model_path"), server.get("version"), kept)

    async def tell_vllm(self) -> _Told:
        models, version = await self.ask("/v1/models"), await self.ask("/version")
        roots = [entry.get("root") for entry in models.get("data") or () if isinstance(entry, dict)]
        return _Told(roots[0] if roots else None, version.get("version"))

    async def tell_llamacpp(self) -> _Told:
        props = await self.ask("/props")
        return _Told(props.get("model_path"), props.get("build_info"))


_Tell = Callable[[EngineProvider], Awaitable[_Told]]
_ENGINES: dict[str, tuple[Callable[[Http, Endpoint], TokenEngine], _Tell]] = {
    "sglang": (SGLang, EngineProvider.tell_sglang),
    "vllm": (VLLM, EngineProvider.tell_vllm),
    "llamacpp": (LlamaCpp, EngineProvider.tell_llamacpp),
}


class LocalProvider:
    """Implements `base.Provider` for the embedded engine: one model, one child process, started by its first call."""

    any_model = False
    base_url: str | None = None

    def __init__(self, config: ProviderConfig, http: Http, places: Places) -> None:
        self.name = config.name
        self._config = config
        self._http = http
        self._places = places
        self._engine: LocalEngine | None = None

    async def list_models(self) -> list[ModelInfo]:
        served = self._served()
        kind = profile_of("local").listed_as or "local"
        return [
            ModelInfo(
                handle=f"{self.name}/{served.name}",
                name=served.name,
                provider_name=self.name,
                provider_type=kind,
                endpoint_type=kind,
                context_window=served.window,
            )
        ]

    models = list_models

    async def find(self, name: str) -> tuple[ModelInfo | None, list[ModelInfo] | None]:
        listed = await self.list_models()
        return next((info for info in listed if info.name == name), None), listed

    async def model(self, name: str) -> Model:
        return (await self.open(name, (await self.find(name))[0], None))[0]

    async def open(
        self, name: str, info: ModelInfo | None, tokenizer: str | None, wire_api: WireApi | None = None
    ) -> tuple[Model, str | None]:
        served = self._served()
        setting = tokenizer or self._config.options.tokenizer
        try:
            renderer = await find_renderer(name, setting, str(served.gguf.resolve()), self._places)
        except TokenizerNotFound as cause:
            raise Invalid(str(cause)) from cause
        return exact_model(self._started(served), renderer, self.name, name, info), None

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.close()

    def _served(self) -> LocalModel:
        options = self._config.options
        return local_model(options.gguf, window=options.context_window)

    def _started(self, served: LocalModel) -> LocalEngine:
        if self._engine is None:
            self._engine = LocalEngine(self._http, served)
        return self._engine


async def find_renderer(name: str, setting: str | None, engine_path: str | None, places: Places) -> Renderer:
    """As `find_model`, the renderer alone."""
    return (await find_model(name, setting, engine_path, places))[0]


async def find_model(
    name: str, setting: str | None, engine_path: str | None, places: Places
) -> tuple[Renderer, ExpertsAsked | None]:
    """A model's renderer, and of a mixture of experts its size. TokenizerNotFound, or Invalid for a chat template that cannot be
    used. Reading one takes about a second."""

    def search() -> tuple[Renderer, ExpertsAsked | None]:
        found = find_tokenizer(
            name,
            setting=setting,
            tokenizers_dir=places.tokenizers_dir,
            engine_path=engine_path,
            hf_cache=places.hf_cache,
            allow_hub=places.allow_hub,
        )
        renderer = renderer_for(
            name, found.tokenizer, found.chat_template, special=found.special, stop_token_ids=found.stop_token_ids
        )
        if found.experts is None:
            return renderer, None
        layers, top_k, experts = found.experts
        return renderer, ExpertsAsked(layers=layers, top_k=top_k, num_experts=experts)

    try:
        async with asyncio.timeout(SEARCH_TIMEOUT_S):
            return await asyncio.to_thread(search)
    except TimeoutError as cause:
        raise TokenizerNotFound(
            f"Looking for the tokenizer of {name!r} took more than {SEARCH_TIMEOUT_S:g} s. Put it in a folder `{name}/` in "
            "PERDURE_TOKENIZERS, or set HF_HUB_OFFLINE=1 to leave the hub out."
        ) from cause


def exact_model(
    engine: TokenEngine,
    renderer: Renderer,
    provider: str,
    name: str,
    info: ModelInfo | None,
    *,
    version: str | None = None,
    grammars: Grammars = "any",
    experts: ExpertsAsked | None = None,
) -> Model:
    return TokenExactModel(
        engine,
        renderer,
        provider_name=provider,
        model_name=name,
        handle=f"{provider}/{name}",
        context_window=info.context_window if info is not None else None,
        engine_version=version,
        grammars=grammars,
        experts=experts,
        default_max_tokens=LOCAL_MAX_TOKENS if provider == "local" else DEFAULT_MAX_TOKENS,
    )
