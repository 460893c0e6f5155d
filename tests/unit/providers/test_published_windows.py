"""Published windows: of the maker's own service alone, and unknown where nothing is known."""

import pytest

from perdure.core.providers import AddedProvider
from perdure.providers.added import config_of
from perdure.providers.catalogue import named_models
from perdure.providers.profiles import PROFILES
from perdure.providers.published_windows import published_window


@pytest.mark.parametrize(
    ("kind", "model", "window"),
    [
        ("xai", "grok-4-fast-reasoning", 2_000_000),
        ("xai", "grok-4-1-fast", 2_000_000),
        ("xai", "grok-4-0709", 256_000),
        ("xai", "grok-9", None),
        ("deepseek", "deepseek-chat", 128_000),
        ("moonshot", "kimi-k2-0711-preview", 131_072),
        ("moonshot", "kimi-k2-thinking", 262_144),
        ("together", "deepseek-chat", None),
    ],
)
def test_a_makers_word(kind: str, model: str, window: int | None) -> None:
    assert published_window(kind, model) == window


def test_the_same_model_elsewhere_has_no_window_by_its_name() -> None:
    def listed(base_url: str | None) -> list[int | None]:
        provider = AddedProvider(id="", name="mine", kind="deepseek", base_url=base_url)
        config = config_of(provider, api_key="k", access_key="")
        return [info.context_window for info in named_models(config, PROFILES["deepseek"], ["deepseek-chat"])]

    assert listed(None) == [128_000]
    assert listed("http://proxy.example/v1") == [None]
