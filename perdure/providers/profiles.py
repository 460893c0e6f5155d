"""Where each provider is, what configures it and which APIs it has, as data.

Invariant: nothing but this table and `dialects.py` knows a provider's name; code asks what a profile says.
"""

from typing import Literal

from msgspec import Struct

from perdure.providers.batches import BatchProfile
from perdure.providers.dialects import CHAT, ChatProfile

ModelsApi = Literal[
    "openai", "sglang", "vllm", "llamacpp", "ollama", "lmstudio", "anthropic", "gemini", "azure", "listed"
]
TokenApi = Literal["sglang", "vllm", "llamacpp"]
WireApi = Literal["chat", "responses"]
MessagesApi = Literal["anthropic", "bedrock", "vertex"]


class ProviderProfile(Struct, frozen=True, kw_only=True):
    """One kind of provider: where it is by default, which environment variables configure it, which APIs it has.

    `url_env` alone is enough to configure an engine one runs oneself; a hosted API needs its key (`key_env`).
    `small_models`: those of its models for work on the side such as summaries, the first choice first.
    `key_header`: the header the key goes in; None: Authorization, as a bearer's. `version`: what its API lies below, added
    to base URLs without one; None: nothing is added. `api`: how its models are called. `lists_all`: a model
    it does not list is one it does not have. `listed_as` is how the catalogue types it. `reasoners`: the API by which its
    models that reason are called at `base_url`; elsewhere, and for all others, it is chat completions unless told.
    `known`: its models, where it has no list of them. `deployments`: its models are called by the names
    of their deployments, and by a version of the API if one is given (`version_env`).
    `batches`: its own batch API, if it has one.
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
    known: tuple[str, ...] = ()
    deployments: bool = False
    version_env: tuple[str, ...] = ()
    messages_api: MessagesApi | None = None
    cloud: bool = False
    small_models: tuple[str, ...] = ()
    chat: ChatProfile = ChatProfile()
    batches: BatchProfile | None = None


# What Google Cloud is known to serve of its own, from its public model pages.
_GEMINI = (
    "gemini-3.8-flash",
    "gemini-3.7-flash",
    "gemini-3.5-flash",
    "gemini-3.1-pro-preview",
    "gemini-3.1-flash-lite",
    "gemini-3-flash-preview",
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
)

# Z.ai's and MiniMax's pages name their models; their APIs may not.
_GLM = (
    "glm-5.3",
    "glm-5.3-flash",
    "glm-5.2",
    "glm-5.1",
    "glm-5",
    "glm-5-turbo",
    "glm-5v-turbo",
    "glm-4.7",
    "glm-4.7-flash",
    "glm-4.7-flashx",
    "glm-4.6",
    "glm-4.6v",
    "glm-4.5",
    "glm-4.5-air",
    "glm-4.5-flash",
    "glm-4.5v",
)
_MINIMAX = (
    "MiniMax-M3",
    "MiniMax-M2.7",
    "MiniMax-M2.7-highspeed",
    "MiniMax-M2.5",
    "MiniMax-M2.5-highspeed",
    "MiniMax-M2.1",
    "MiniMax-M2.1-highspeed",
    "MiniMax-M2",
)

PROFILES: dict[str, ProviderProfile] = {
    profile.kind: profile
    for profile in (
        ProviderProfile(
            kind="openai",
            base_url="https://api.openai.com/v1",
            url_env=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
            key_env=("OPENAI_API_KEY",),
            reasoners="responses",
            small_models=("gpt-6-luna", "gpt-5.4-mini", "gpt-5-mini", "gpt-4.1-mini", "gpt-4o-mini"),
            chat=CHAT["openai"],
            batches=BatchProfile(),
        ),
        ProviderProfile(
            kind="azure",
            url_env=("AZURE_OPENAI_ENDPOINT", "AZURE_BASE_URL", "AZURE_API_BASE"),
            key_env=("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
            key_header="api-key",
            lists_all=False,
            models="azure",
            deployments=True,
            version_env=("AZURE_API_VERSION", "OPENAI_API_VERSION"),
            chat=CHAT["azure"],
            batches=BatchProfile(api="azure", requests=100_000),
        ),
        ProviderProfile(
            kind="anthropic",
            base_url="https://api.anthropic.com/v1",
            url_env=("ANTHROPIC_BASE_URL",),
            key_env=("ANTHROPIC_API_KEY",),
            models="anthropic",
            messages_api="anthropic",
            small_models=("claude-haiku-5-5", "claude-haiku-4-5"),
            batches=BatchProfile(api="anthropic", requests=100_000, size=250 * 2**20, marked=False),
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
            chat=CHAT["sglang"],
        ),
        ProviderProfile(
            kind="vllm",
            url_env=("VLLM_BASE_URL", "VLLM_API_BASE"),
            key_env=("VLLM_API_KEY",),
            listed_as="openai",
            models="vllm",
            token_api="vllm",
            chat=CHAT["vllm"],
        ),
        ProviderProfile(
            kind="llamacpp",
            url_env=("LLAMACPP_BASE_URL", "LLAMACPP_API_BASE"),
            key_env=("LLAMACPP_API_KEY",),
            listed_as="openai",
            models="llamacpp",
            token_api="llamacpp",
            chat=CHAT["llamacpp"],
        ),
        ProviderProfile(
            kind="ollama",
            url_env=("OLLAMA_BASE_URL", "OLLAMA_API_BASE"),
            models="ollama",
            chat=CHAT["ollama"],
        ),
        ProviderProfile(
            kind="lmstudio",
            url_env=("LMSTUDIO_BASE_URL", "LMSTUDIO_API_BASE"),
            listed_as="lmstudio_openai",
            models="lmstudio",
            chat=CHAT["lmstudio"],
        ),
        ProviderProfile(
            kind="openrouter",
            base_url="https://openrouter.ai/api/v1",
            url_env=("OPENROUTER_BASE_URL",),
            key_env=("OPENROUTER_API_KEY",),
            chat=CHAT["openrouter"],
        ),
        ProviderProfile(
            kind="together",
            base_url="https://api.together.xyz/v1",
            url_env=("TOGETHER_BASE_URL",),
            key_env=("TOGETHER_API_KEY",),
            chat=CHAT["together"],
            batches=BatchProfile(api="together", size=100_000_000),
        ),
        ProviderProfile(
            kind="groq",
            base_url="https://api.groq.com/openai/v1",
            url_env=("GROQ_BASE_URL",),
            key_env=("GROQ_API_KEY",),
            chat=CHAT["groq"],
            batches=BatchProfile(),
        ),
        ProviderProfile(
            kind="deepseek",
            base_url="https://api.deepseek.com/v1",
            url_env=("DEEPSEEK_BASE_URL",),
            key_env=("DEEPSEEK_API_KEY",),
            chat=CHAT["deepseek"],
        ),
        ProviderProfile(
            kind="xai",
            base_url="https://api.x.ai/v1",
            url_env=("XAI_BASE_URL",),
            key_env=("XAI_API_KEY",),
            chat=CHAT["xai"],
            batches=BatchProfile(api="xai", size=45_000_000),
        ),
        ProviderProfile(
            kind="mistral",
            base_url="https://api.mistral.ai/v1",
            url_env=("MISTRAL_BASE_URL",),
            key_env=("MISTRAL_API_KEY",),
            chat=CHAT["mistral"],
            batches=BatchProfile(api="mistral"),
        ),
        ProviderProfile(
            kind="fireworks",
            base_url="https://api.fireworks.ai/inference/v1",
            url_env=("FIREWORKS_BASE_URL",),
            key_env=("FIREWORKS_API_KEY",),
            lists_all=False,
            chat=CHAT["fireworks"],
        ),
        ProviderProfile(
            kind="cerebras",
            base_url="https://api.cerebras.ai/v1",
            url_env=("CEREBRAS_BASE_URL",),
            key_env=("CEREBRAS_API_KEY",),
            chat=CHAT["cerebras"],
            batches=BatchProfile(asked=True),
        ),
        ProviderProfile(
            kind="baseten",
            base_url="https://inference.baseten.co/v1",
            url_env=("BASETEN_BASE_URL",),
            key_env=("BASETEN_API_KEY",),
            chat=CHAT["baseten"],
        ),
        ProviderProfile(
            kind="zai",
            base_url="https://api.z.ai/api/paas/v4",
            url_env=("ZAI_BASE_URL",),
            key_env=("ZAI_API_KEY",),
            lists_all=False,
            known=_GLM,
            chat=CHAT["zai"],
        ),
        ProviderProfile(
            kind="zai_coding",
            base_url="https://api.z.ai/api/coding/paas/v4",
            url_env=("ZAI_CODING_BASE_URL",),
            key_env=("ZAI_CODING_API_KEY",),
            lists_all=False,
            known=_GLM,
            chat=CHAT["zai"],
        ),
        ProviderProfile(
            kind="minimax",
            base_url="https://api.minimax.io/v1",
            url_env=("MINIMAX_BASE_URL",),
            key_env=("MINIMAX_API_KEY",),
            lists_all=False,
            known=_MINIMAX,
            chat=CHAT["minimax"],
        ),
        ProviderProfile(
            kind="moonshot",
            base_url="https://api.moonshot.ai/v1",
            url_env=("MOONSHOT_BASE_URL",),
            key_env=("MOONSHOT_API_KEY", "KIMI_API_KEY"),
            chat=CHAT["moonshot"],
            batches=BatchProfile(size=100_000_000),
        ),
        ProviderProfile(
            kind="gemini_openai",
            base_url="https://generativelanguage.googleapis.com/v1beta/openai",
            url_env=("GEMINI_OPENAI_BASE_URL",),
            key_env=("GEMINI_OPENAI_API_KEY",),
            listed_as="google_ai",
            chat=CHAT["gemini_openai"],
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
            small_models=("gemini-3.1-flash-lite", "gemini-2.5-flash"),
            batches=BatchProfile(api="gemini", requests=10_000, size=17_000_000),
        ),
        ProviderProfile(
            kind="google_vertex",
            url_env=("GOOGLE_VERTEX_BASE_URL",),
            lists_all=False,
            models="listed",
            known=_GEMINI,
            api="gemini",
            cloud=True,
        ),
        ProviderProfile(
            kind="local", listed_as="openai", models="llamacpp", token_api="llamacpp", chat=CHAT["llamacpp"]
        ),
    )
}

# Providers of no kind above speak the common part of chat completions.
OPENAI_COMPATIBLE = ProviderProfile(kind="openai_compatible", listed_as="openai", chat=CHAT["openai_compatible"])


def profile_of(kind: str) -> ProviderProfile:
    return PROFILES.get(kind, OPENAI_COMPATIBLE)
