"""What each provider and model family can do, as data.

Invariant: nothing but this table knows a provider's or a model's name; code asks what a profile says.
"""

import re
from typing import Any, Literal

from msgspec import Struct

ModelsApi = Literal["openai", "sglang", "vllm", "llamacpp", "ollama", "anthropic", "gemini", "listed"]
TokenApi = Literal["sglang", "vllm", "llamacpp"]
WireApi = Literal["chat", "responses"]
MessagesApi = Literal["anthropic", "bedrock", "vertex"]


class ChatProfile(Struct, frozen=True, kw_only=True):
    """How one provider speaks chat completions.

    `max_tokens`: the name of the output limit. `sampling`: settings it takes beyond OpenAI's own. `reasoning_out`: the
    field in which earlier thinking is sent back; None: it is left out. `parse_arguments`: it parses the arguments of
    earlier tool calls, so JSON is all it may be sent. `template_kwargs`: it hands `chat_template_kwargs` to the chat template.
    `required`: its word for "some tool must be called"; `named`: it can be told which one. `formats`: the kinds of
    `response_format` it holds the model to; `formats_with_tools`: also in a request that offers tools.
    """

    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    sampling: frozenset[str] = frozenset()
    stream: bool = True
    stream_usage: bool = True
    reasoning_out: str | None = None
    reasoning_effort: bool = True
    parse_arguments: bool = False
    template_kwargs: bool = False
    parallel_tool_calls: bool = True
    required: str | None = "required"
    named: bool = True
    penalties: bool = True
    seed: str | None = "seed"
    logprobs: bool = True
    formats: frozenset[str] = frozenset({"json_object", "json_schema"})
    formats_with_tools: bool = False
    extra: dict[str, Any] = {}


class ProviderProfile(Struct, frozen=True, kw_only=True):
    """One kind of provider: where it is by default, which environment variables configure it, which APIs it has.

    `url_env` alone is enough to configure an engine one runs oneself; a hosted API needs its key (`key_env`).
    `key_header`: the header the key goes in; None: Authorization, as a bearer's. `version`: what its API lies below, added
    to base URLs without one; None: nothing is added. `api`: how its models are called. `lists_all`: a model
    it does not list is one it does not have. `listed_as` is how the catalogue types it. `reasoners`: the API by which its
    models that reason are called at `base_url`; elsewhere, and for all others, it is chat completions unless told.
    `messages_api`: it speaks Anthropic's Messages API, and where. `cloud`: its address follows from a region (`clouds.py`).
    """

    kind: str
    base_url: str | None = None
    url_env: tuple[str, ...] = ()
    key_env: tuple[str, ...] = ()
    key_header: str | None = None
    version: str | None = "v1"
    api: Literal["openai", "gemini"] = "openai"
    lists_all: bool = True
    listed_as: str | None = None
    models: ModelsApi = "openai"
    token_api: TokenApi | None = None
    reasoners: WireApi = "chat"
    messages_api: MessagesApi | None = None
    cloud: bool = False
    chat: ChatProfile = ChatProfile()


class ModelTraits(Struct, frozen=True, kw_only=True):
    """What is known of a model by its name: `drop` are settings it refuses; `reasons` None: not known.

    `thinking`: the measure Gemini models are told how much to think in. `call_signature`: what stands in for the signature of
    a call that has none, where a model takes no call without.
    """

    context_window: int | None = None
    max_tokens: Literal["max_tokens", "max_completion_tokens"] | None = None
    drop: frozenset[str] = frozenset()
    reasons: bool | None = None
    thinking: Literal["level", "budget"] | None = None
    call_signature: str | None = None


_EXTRA = frozenset({"top_k", "min_p", "repetition_penalty"})
_ENGINE = ChatProfile(sampling=_EXTRA, parse_arguments=True, template_kwargs=True)
_HOSTED = ChatProfile()
_OBJECTS_ONLY = frozenset({"json_object"})

PROFILES: dict[str, ProviderProfile] = {
    profile.kind: profile
    for profile in (
        ProviderProfile(
            kind="openai",
            base_url="https://api.openai.com/v1",
            url_env=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
            key_env=("OPENAI_API_KEY",),
            reasoners="responses",  # the address is often another server's, so `max_tokens` is no less common a name
            chat=ChatProfile(formats_with_tools=True),
        ),
        ProviderProfile(
            kind="anthropic",
            base_url="https://api.anthropic.com/v1",
            url_env=("ANTHROPIC_BASE_URL",),
            key_env=("ANTHROPIC_API_KEY",),
            models="anthropic",
            messages_api="anthropic",
        ),
        ProviderProfile(
            kind="bedrock",
            url_env=("BEDROCK_BASE_URL", "ANTHROPIC_BEDROCK_BASE_URL"),
            key_env=("AWS_BEARER_TOKEN_BEDROCK",),
            version=None,
            lists_all=False,
            models="listed",
            messages_api="bedrock",
            cloud=True,
        ),
        ProviderProfile(
            kind="anthropic_vertex",
            url_env=("ANTHROPIC_VERTEX_BASE_URL",),
            version=None,
            lists_all=False,
            listed_as="anthropic",
            models="listed",
            messages_api="vertex",
            cloud=True,
        ),
        ProviderProfile(
            kind="sglang",
            url_env=("SGLANG_BASE_URL", "SGLANG_API_BASE"),
            key_env=("SGLANG_API_KEY",),
            listed_as="openai",
            models="sglang",
            token_api="sglang",
            chat=_ENGINE,
        ),
        ProviderProfile(
            kind="vllm",
            url_env=("VLLM_BASE_URL", "VLLM_API_BASE"),
            key_env=("VLLM_API_KEY",),
            listed_as="openai",
            models="vllm",
            token_api="vllm",
            chat=_ENGINE,
        ),
        ProviderProfile(
            kind="llamacpp",
            url_env=("LLAMACPP_BASE_URL", "LLAMACPP_API_BASE"),
            key_env=("LLAMACPP_API_KEY",),
            listed_as="openai",
            models="llamacpp",
            token_api="llamacpp",
            chat=ChatProfile(
                sampling=frozenset({"top_k", "min_p", "repeat_penalty"}), parse_arguments=True, template_kwargs=True
            ),
        ),
        ProviderProfile(
            kind="ollama",
            url_env=("OLLAMA_BASE_URL", "OLLAMA_API_BASE"),
            models="ollama",
            chat=ChatProfile(parse_arguments=True, parallel_tool_calls=False, logprobs=False),
        ),
        ProviderProfile(
            kind="lmstudio",
            url_env=("LMSTUDIO_BASE_URL", "LMSTUDIO_API_BASE"),
            listed_as="lmstudio_openai",
            chat=ChatProfile(
                sampling=frozenset({"top_k", "repeat_penalty"}),
                parse_arguments=True,
                named=False,
                formats=frozenset({"json_schema"}),
            ),
        ),
        ProviderProfile(
            kind="openrouter",
            base_url="https://openrouter.ai/api/v1",
            url_env=("OPENROUTER_BASE_URL",),
            key_env=("OPENROUTER_API_KEY",),
            chat=ChatProfile(sampling=_EXTRA, reasoning_out="reasoning"),
        ),
        ProviderProfile(
            kind="together",
            base_url="https://api.together.xyz/v1",
            url_env=("TOGETHER_BASE_URL",),
            key_env=("TOGETHER_API_KEY",),
            chat=ChatProfile(sampling=_EXTRA),
        ),
        ProviderProfile(
            kind="groq",
            base_url="https://api.groq.com/openai/v1",
            url_env=("GROQ_BASE_URL",),
            key_env=("GROQ_API_KEY",),
            chat=ChatProfile(max_tokens="max_completion_tokens", logprobs=False),
        ),
        ProviderProfile(
            kind="deepseek",
            base_url="https://api.deepseek.com/v1",
            url_env=("DEEPSEEK_BASE_URL",),
            key_env=("DEEPSEEK_API_KEY",),
            chat=ChatProfile(
                parallel_tool_calls=False, seed=None, reasoning_out="reasoning_content", formats=_OBJECTS_ONLY
            ),
        ),
        ProviderProfile(
            kind="xai",
            base_url="https://api.x.ai/v1",
            url_env=("XAI_BASE_URL",),
            key_env=("XAI_API_KEY",),
            chat=ChatProfile(max_tokens="max_completion_tokens"),
        ),
        ProviderProfile(
            kind="mistral",
            base_url="https://api.mistral.ai/v1",
            url_env=("MISTRAL_BASE_URL",),
            key_env=("MISTRAL_API_KEY",),
            chat=ChatProfile(required="any", seed="random_seed", stream_usage=False, logprobs=False),
        ),
        ProviderProfile(
            kind="fireworks",
            base_url="https://api.fireworks.ai/inference/v1",
            url_env=("FIREWORKS_BASE_URL",),
            key_env=("FIREWORKS_API_KEY",),
            lists_all=False,
            chat=ChatProfile(sampling=frozenset({"top_k", "min_p", "repetition_penalty"})),
        ),
        ProviderProfile(
            kind="cerebras",
            base_url="https://api.cerebras.ai/v1",
            url_env=("CEREBRAS_BASE_URL",),
            key_env=("CEREBRAS_API_KEY",),
            chat=ChatProfile(max_tokens="max_completion_tokens", penalties=False),
        ),
        ProviderProfile(
            kind="baseten",
            base_url="https://inference.baseten.co/v1",
            url_env=("BASETEN_BASE_URL",),
            key_env=("BASETEN_API_KEY",),
            chat=ChatProfile(sampling=_EXTRA),
        ),
        ProviderProfile(
            kind="zai",
            base_url="https://api.z.ai/api/paas/v4",
            url_env=("ZAI_BASE_URL",),
            key_env=("ZAI_API_KEY",),
            lists_all=False,
            chat=ChatProfile(logprobs=False, seed=None, penalties=False, formats=_OBJECTS_ONLY),
        ),
        ProviderProfile(
            kind="google_ai",
            base_url="https://generativelanguage.googleapis.com/v1beta",
            url_env=("GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"),
            key_env=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
            key_header="x-goog-api-key",
            version="v1beta",
            api="gemini",
            models="gemini",
        ),
        ProviderProfile(kind="local", listed_as="openai", models="llamacpp", token_api="llamacpp", chat=_ENGINE),
    )
}

# Providers of no kind above speak the common part of chat completions.
OPENAI_COMPATIBLE = ProviderProfile(kind="openai_compatible", listed_as="openai", chat=_HOSTED)

_REASONERS = frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty", "logprobs", "stop"})


def _reasoner(window: int) -> ModelTraits:
    return ModelTraits(context_window=window, max_tokens="max_completion_tokens", drop=_REASONERS, reasons=True)


def _chatter(window: int, max_tokens: Literal["max_completion_tokens"] | None = None) -> ModelTraits:
    return ModelTraits(context_window=window, max_tokens=max_tokens, reasons=False)


def _gemini(thinking: Literal["level", "budget"], call_signature: str | None = None) -> ModelTraits:
    return ModelTraits(context_window=1_048_576, reasons=True, thinking=thinking, call_signature=call_signature)


# First match wins. Context windows from the makers' public model pages.
_TRAITS: tuple[tuple[re.Pattern[str], ModelTraits], ...] = tuple(
    (re.compile(pattern), traits)
    for pattern, traits in (
        (r"gpt-5[\w.]*-chat", _chatter(128_000, max_tokens="max_completion_tokens")),
        (r"gpt-(?:[5-9]|\d\d)", _reasoner(400_000)),
        (r"o1-mini", _reasoner(128_000)),
        (r"o[134](-|$)", _reasoner(200_000)),
        (r"codex-mini", _reasoner(200_000)),
        (r"gpt-4\.1", _chatter(1_047_576)),
        (r"gpt-4o|chatgpt-4o|gpt-4-turbo", _chatter(128_000)),
        (r"gpt-4-32k", _chatter(32_768)),
        (r"gpt-4($|-)", _chatter(8_192)),
        (r"gpt-3\.5-turbo-instruct", _chatter(4_096)),
        (r"gpt-3\.5", _chatter(16_385)),
        (r"gemini-(?:[3-9]|\d\d)", _gemini("level", call_signature="skip_thought_signature_validator")),
        (r"gemini-2\.5", _gemini("budget")),
        (r"gemini-2\.0", ModelTraits(context_window=1_048_576, reasons=False)),
        (r"gpt-oss", ModelTraits(context_window=131_072, reasons=True)),
    )
)
_UNKNOWN = ModelTraits()


def profile_of(kind: str) -> ProviderProfile:
    return PROFILES.get(kind, OPENAI_COMPATIBLE)


def traits_of(model: str) -> ModelTraits:
    """By the model's name without its maker (`openai/gpt-5` is `gpt-5`)."""
    name = model.rpartition("/")[2].lower()
    return next((traits for pattern, traits in _TRAITS if pattern.match(name)), _UNKNOWN)
