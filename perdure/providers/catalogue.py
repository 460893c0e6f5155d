"""What a provider serves: its model list, in each of the ways providers tell it, with context windows where they say.

Invariant: a context window is the provider's word or a published figure (`model_traits.py`, `published_windows.py`); where there
is neither it is None.
"""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from perdure.core.errors import ProviderError
from perdure.providers.base import ModelInfo
from perdure.providers.configs import ProviderConfig, deployments_root, without_version
from perdure.providers.http import Endpoint, Http
from perdure.providers.loaded_windows import of_lmstudio, of_ollama, with_slots
from perdure.providers.model_traits import traits_of
from perdure.providers.profiles import ProviderProfile, profile_of
from perdure.providers.published_windows import published_window

TIMEOUT_S = 5.0

_WINDOW_KEYS = (
    "max_input_tokens",
    "max_model_len",
    "context_length",
    "context_window",
    "loaded_context_length",
    "max_context_length",
    "inputTokenLimit",
)
# Where lists are elsewhere than at /models, or come in pages. Azure's deployments are listed by one old version alone.
_LISTS: dict[str, str] = {
    "anthropic": "/models?limit=1000",
    "gemini": "/models?pageSize=1000",
    "azure": "/openai/deployments?api-version=2023-03-15-preview",
}
_LOADED = {"llamacpp": with_slots, "ollama": of_ollama, "lmstudio": of_lmstudio}
_EMBEDDING = re.compile(r"embed|\bbge-|\be5-|\bgte-", re.IGNORECASE)
# Numbers in a vector, as the models' makers publish it; where a model can give several, the number it gives unasked.
EMBEDDING_DIMS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
    "gemini-embedding-001": 3072,
    "gemini-embedding-2": 3072,
    "mistral-embed": 1024,
    "codestral-embed": 1536,
    "nomic-embed-text": 768,
    "mxbai-embed-large": 1024,
    "all-minilm": 384,
    "bge-m3": 1024,
}
# Models of OpenAI's list that do not chat.
_NOT_CHAT = re.compile(
    r"^(?:whisper-|tts-|dall-e-|gpt-image-|chatgpt-image|omni-moderation|text-moderation|davinci-|babbage-|sora-|computer-use-"
    r"|gpt-3\.5-turbo-instruct|gpt-realtime|gpt-audio|gpt-4o[\w-]*-(?:transcribe|realtime|audio|tts))"
)


async def list_models(
    http: Http, endpoint: Endpoint, config: ProviderConfig, profile: ProviderProfile
) -> list[ModelInfo]:
    """Its models now; the configured ones where the configuration lists them. ProviderError when it cannot be asked."""
    options = config.options
    if options.models is not None:
        return named_models(config, profile, options.models)
    if profile.models == "azure":
        endpoint = Endpoint(config.name, deployments_root(endpoint.base_url), headers=auth_headers(config))
    path = _LISTS.get(profile.models, "/models")
    try:
        answer = _decoded(config.name, await http.call(endpoint, path, method="GET", retry=False, timeout_s=TIMEOUT_S))
    except ProviderError as error:
        if error.status in (404, 405) and profile.known:
            return named_models(config, profile, profile.known)
        raise
    entries = answer.get("data", answer.get("models")) if isinstance(answer, dict) else answer
    if not isinstance(entries, list):
        raise ProviderError(f"{config.name} answered {endpoint.base_url}/models without a list of models.")
    found = [_of_entry(config, profile, entry) for entry in entries if isinstance(entry, dict) and _usable(entry)]
    found = [info for info in found if info.name and not (config.kind == "openai" and _NOT_CHAT.search(info.name))]
    told_by = _LOADED.get(profile.models)
    if told_by is None or options.context_window is not None or config.base_url is None:
        return found
    root = Endpoint(config.name, without_version(config.base_url), headers=auth_headers(config))

    async def ask(path: str, body: Any) -> Any:
        raw, method = (None, "GET") if body is None else (msgspec.json.encode(body), "POST")
        return _decoded(config.name, await http.call(root, path, raw, method=method, retry=False, timeout_s=TIMEOUT_S))

    return await told_by(ask, found)


def _usable(entry: dict[str, Any]) -> bool:
    """Gemini says of each model what it can be asked; some make images or speech alone."""
    methods = entry.get("supportedGenerationMethods")
    return not isinstance(methods, list) or "generateContent" in methods or "embedContent" in methods


def named_models(config: ProviderConfig, profile: ProviderProfile, names: Iterable[str]) -> list[ModelInfo]:
    return [_info(config, profile, name, config.options.context_window) for name in names]


def _of_entry(config: ProviderConfig, profile: ProviderProfile, entry: dict[str, Any]) -> ModelInfo:
    name = str(entry.get("id") or entry.get("name") or "").removeprefix("models/")
    window = config.options.context_window
    if window is None:
        inner = [entry.get(key) for key in ("meta", "top_provider", "limits")]
        window = next((found for each in (entry, *inner) if (found := _window(each)) is not None), None)
    embedding = entry.get("type") in ("embedding", "embeddings") or entry.get("object") == "embedding"
    family = entry.get("model") if profile.models == "azure" else None
    family = family if isinstance(family, str) else None
    return _info(config, profile, name, window, embedding=embedding, family=family)


def _window(entry: Any) -> int | None:
    if not isinstance(entry, dict):
        return None
    values = (entry.get(key) for key in _WINDOW_KEYS)
    return next((int(value) for value in values if isinstance(value, int | float) and value > 0), None)


def _info(
    config: ProviderConfig,
    profile: ProviderProfile,
    name: str,
    window: int | None,
    *,
    embedding: bool = False,
    family: str | None = None,
) -> ModelInfo:
    kind = profile.listed_as or profile.kind
    model = family or name
    embedding = embedding or _EMBEDDING.search(model) is not None
    return ModelInfo(
        handle=f"{config.name}/{name}",
        name=name,
        provider_name=config.name,
        provider_type=kind,
        endpoint_type=kind,
        endpoint=shown_url(config.base_url),
        context_window=window or traits_of(model).context_window or _published(config, profile, name),
        embedding_dim=EMBEDDING_DIMS.get(model.removesuffix(":latest")) if embedding else None,
        family=family,
        category=config.category,
        kind="embedding" if embedding else "llm",
    )


def _published(config: ProviderConfig, profile: ProviderProfile, name: str) -> int | None:
    at_home = profile.base_url is not None and (config.base_url or "").rstrip("/") == profile.base_url
    return published_window(config.kind, name) if at_home else None


def auth_headers(config: ProviderConfig) -> dict[str, str]:
    """What a call of this provider carries: its key, where the provider wants it, and what the configuration adds."""
    name = profile_of(config.kind).key_header
    headers = (
        {name or "Authorization": config.api_key if name else f"Bearer {config.api_key}"} if config.api_key else {}
    )
    return {**headers, **config.options.headers}


def shown_url(url: str | None) -> str | None:
    """A URL as it may be shown: without a user or password in it."""
    if url is None:
        return None
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _decoded(name: str, body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        shown = body[:100].decode("utf-8", "replace")
        raise ProviderError(
            f"{name} did not answer with JSON: {shown!r}. Check its base URL.", kind="llm_bad_request"
        ) from cause
