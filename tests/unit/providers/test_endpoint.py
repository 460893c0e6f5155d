"""By which API a provider's models are called."""

import pytest

from perdure.core.messages import ImagePart, Message
from perdure.core.model import Prompt
from perdure.providers.configs import ProviderConfig, ProviderOptions
from perdure.providers.endpoint import ChatProvider
from perdure.providers.http import Http
from perdure.providers.images import takes_images
from perdure.providers.limited import limited
from perdure.providers.limits import Gate, Limits
from perdure.providers.openai_chat import OpenAIChat
from perdure.providers.openai_messages import IMAGE_LEFT_OUT
from perdure.providers.openai_responses import OpenAIResponses
from perdure.providers.profiles import WireApi

OPENAI = "https://api.openai.com/v1"


def provider(base_url: str = OPENAI, kind: str = "openai", wire_api: WireApi | None = None) -> ChatProvider:
    options = ProviderOptions(wire_api=wire_api)
    return ChatProvider(ProviderConfig(name=kind, kind=kind, base_url=base_url, options=options), Http())


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5.4-mini", "o3", "o1-pro", "gpt-6-sol", "codex-mini-latest"])
def test_reasoning_models_at_their_own_address_go_through_responses(model: str) -> None:
    assert isinstance(provider().chat(model), OpenAIResponses)
    assert isinstance(provider("https://api.openai.com").chat(model), OpenAIResponses)
    assert isinstance(provider("http://127.0.0.1:4000/v1").chat(model), OpenAIChat)
    assert isinstance(provider("https://openrouter.ai/api/v1", "openrouter").chat(f"openai/{model}"), OpenAIChat)


@pytest.mark.parametrize("model", ["gpt-4.1", "gpt-4o-mini", "gpt-5-chat-latest", "ft:gpt-4o:x", "something-else"])
def test_all_others_go_through_chat_completions(model: str) -> None:
    assert isinstance(provider().chat(model), OpenAIChat)


def test_what_an_agent_asks_for_wins_over_the_configuration_and_that_over_the_rule() -> None:
    assert isinstance(provider(wire_api="chat").chat("gpt-5"), OpenAIChat)
    assert isinstance(provider(wire_api="chat").chat("gpt-5", wire_api="responses"), OpenAIResponses)
    assert isinstance(provider("http://127.0.0.1:1", wire_api="responses").chat("qwen"), OpenAIResponses)
    assert isinstance(provider("http://127.0.0.1:1", wire_api="responses").chat("qwen", wire_api="chat"), OpenAIChat)


def test_a_model_that_reads_text_only_is_told_of_images_in_words() -> None:
    deepseek = provider("http://127.0.0.1:1/v1", "deepseek")
    picture = ImagePart(media_type="image/png", data="aGk=")
    prompt = Prompt(
        model="m", system="", messages=[Message(id="message-1", role="user", created_us=1, content=(picture,))]
    )
    seeing, reading = (deepseek.chat(name) for name in ("deepseek-flash", "deepseek-v4-pro"))
    assert isinstance(seeing, OpenAIChat) and isinstance(reading, OpenAIChat)
    assert (seeing.takes_images, reading.takes_images) == (True, False)
    assert b"data:image/png" in seeing.body(prompt)
    assert IMAGE_LEFT_OUT.encode() in reading.body(prompt) and b"image_url" not in reading.body(prompt)


def test_limits_do_not_hide_that_a_model_reads_text_only() -> None:
    own = Gate(Limits(concurrent=1))
    models = [
        provider("http://127.0.0.1:1/v1", "deepseek").chat(name) for name in ("deepseek-flash", "deepseek-v4-pro")
    ]
    assert [takes_images(limited(model, own, None)) for model in models] == [True, False]
