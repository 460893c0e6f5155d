"""Published windows: of the maker's own service alone, and unknown where nothing is known."""

import pytest

from perdure.core.providers import AddedProvider
from perdure.providers.added import config_of
from perdure.providers.catalogue import named_models
from perdure.providers.model_traits import traits_of
from perdure.providers.profiles import PROFILES
from perdure.providers.published_windows import published_window


@pytest.mark.parametrize(
    ("kind", "model", "window"),
    [
        ("xai", "grok-4-fast-reasoning", 2_000_000),
        ("xai", "grok-4-1-fast", 2_000_000),
        ("xai", "grok-4-0709", 256_000),
        ("xai", "grok-4.20-0309-reasoning", 1_000_000),
        ("xai", "grok-4.3", 1_000_000),
        ("xai", "grok-4.7", 500_000),
        ("xai", "grok-9", None),
        ("deepseek", "deepseek-flash", 1_000_000),
        ("deepseek", "deepseek-v4-pro", 1_000_000),
        ("moonshot", "kimi-k2-0711-preview", 131_072),
        ("moonshot", "kimi-k2.6", 262_144),
        ("moonshot", "kimi-k3", 1_048_576),
        ("mistral", "mistral-large-latest", 256_000),
        ("mistral", "mistral-large-2411", 128_000),
        ("mistral", "ministral-8b-2512", 256_000),
        ("mistral", "ministral-8b-2410", 128_000),
        ("mistral", "codestral-2508", 256_000),
        ("mistral", "codestral-embed", None),
        ("zai", "glm-5.3-flash", 1_000_000),
        ("zai", "glm-5.1", 200_000),
        ("zai", "glm-4.7", 200_000),
        ("zai", "glm-4.6v", 128_000),
        ("zai_coding", "glm-4.5v", 64_000),
        ("minimax", "MiniMax-M3", 1_000_000),
        ("minimax", "MiniMax-M2.7-highspeed", 204_800),
        ("together", "deepseek-flash", None),
    ],
)
def test_a_makers_word(kind: str, model: str, window: int | None) -> None:
    assert published_window(kind, model) == window


def test_the_same_model_elsewhere_has_no_window_by_its_name() -> None:
    def listed(base_url: str | None) -> list[int | None]:
        provider = AddedProvider(id="", name="mine", kind="deepseek", base_url=base_url)
        config = config_of(provider, api_key="k", access_key="")
        return [info.context_window for info in named_models(config, PROFILES["deepseek"], ["deepseek-flash"])]

    assert listed(None) == [1_000_000]
    assert listed("http://proxy.example/v1") == [None]


@pytest.mark.parametrize("kind", [kind for kind, profile in PROFILES.items() if profile.known])
def test_every_model_that_is_named_has_a_window(kind: str) -> None:
    for name in PROFILES[kind].known:
        assert published_window(kind, name) or traits_of(name).context_window, name


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ("gpt-5", 400_000),
        ("gpt-5-mini", 400_000),
        ("gpt-5-chat-latest", 128_000),
        ("gpt-5.1", 400_000),
        ("gpt-5.3-codex", 400_000),
        ("gpt-5.3-codex-spark", 128_000),
        ("gpt-5.4", 1_050_000),
        ("gpt-5.4-mini", 400_000),
        ("gpt-5.4-pro", 1_050_000),
        ("gpt-5.6-sol", 1_050_000),
        ("openai/gpt-6-luna", 1_050_000),
        ("gpt-4.1", 1_047_576),
        ("o4-mini", 200_000),
        ("gemini-3.8-flash", 1_048_576),
    ],
)
def test_a_window_by_the_models_name(model: str, window: int) -> None:
    assert traits_of(model).context_window == window
