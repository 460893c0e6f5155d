"""Handles, catalogues and context windows, with providers that answer, that do not, and that say odd things."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import Invalid, NotFound
from perdure.core.messages import Message, TextPart
from perdure.core.model import ModelDone, Prompt, ToolSpec
from perdure.providers.http import Http
from perdure.providers.openai_chat import OpenAIChat
from perdure.providers.registry import ProviderConfig, ProviderOptions, Registry
from perdure.providers.token_exact import TokenExactModel
from tests.doubles.openai_chat import OpenAIDouble
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer, small_tokenizer_folder
from tests.doubles.wire import Wire, answer

ENV = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere"}


def config(name: str, kind: str, url: str | None, **options: Any) -> ProviderConfig:
    return ProviderConfig(name=name, kind=kind, base_url=url, options=ProviderOptions(**options))


def registry(http: Http, *configs: ProviderConfig, tokenizers: Path | None = None) -> Registry:
    return Registry(configs, tokenizers_dir=tokenizers, env=ENV, http=http)


def listed(wire: Wire, *entries: dict[str, Any]) -> None:
    wire.answers = [answer(200, {"object": "list", "data": list(entries)})]


@pytest.fixture
def tokenizers(tmp_path: Path) -> Path:
    return small_tokenizer_folder(tmp_path / "tokenizers")


@pytest.fixture
async def double() -> AsyncIterator[SGLangDouble]:
    made = SGLangDouble(small_tokenizer(), tokenizer_path="org/tiny")
    yield made
    made.close()


async def test_a_handle_is_looked_up_once(http: Http) -> None:
    double = OpenAIDouble(("gpt-test", "org/model"))
    try:
        found = registry(http, config("openai", "openai", double.base_url))
        resolved = await found.resolve("openai/org/model")
        assert isinstance(resolved.model, OpenAIChat)
        assert (resolved.name, resolved.provider_name, resolved.endpoint) == ("org/model", "openai", double.base_url)
        assert await found.resolve("openai/org/model") is resolved
        assert (await found.info("openai/org/model")) == resolved.info is not None
    finally:
        double.close()
    assert await found.resolve("openai/org/model") is resolved


async def test_unknown_handles_say_what_there_is(http: Http, wire: Wire) -> None:
    listed(wire, {"id": "a"}, {"id": "b"})
    found = registry(http, config("acme", "openai_compatible", wire.url))
    for handle, words in (
        ("acme/c", r"acme has no model 'c' .*acme/a, acme/b"),
        ("nobody/x", r"No provider named 'nobody'.*acme"),
        ("plain", "provider/model"),
        ("acme/", "provider/model"),
        ("local/smollm2-135m", r"perdure\[local\]"),
    ):
        with pytest.raises(NotFound, match=words):
            await found.resolve(handle)
    with pytest.raises(NotFound, match="No provider is configured"):
        await registry(http).resolve("openai/x")


async def test_a_new_model_is_found_when_it_is_asked_for(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, {"data": [{"id": "a"}]}), answer(200, {"data": [{"id": "a"}, {"id": "b"}]})]
    found = registry(http, config("acme", "openai_compatible", wire.url))
    await found.resolve("acme/a")
    assert (await found.resolve("acme/b")).name == "b" and len(wire.requests) == 2


async def test_names_as_people_write_them(http: Http, wire: Wire) -> None:
    listed(wire, {"id": "llama3:latest"}, {"id": "/models/Qwen3-4B.gguf"}, {"id": "x/same"}, {"id": "y/same"})
    found = registry(http, config("acme", "openai_compatible", wire.url))
    assert (await found.resolve("acme/llama3")).name == "llama3:latest"
    assert (await found.resolve("acme/Qwen3-4B")).name == "/models/Qwen3-4B.gguf"
    with pytest.raises(NotFound):
        await found.resolve("acme/same")


async def test_a_provider_that_cannot_be_asked_is_trusted(http: Http, wire: Wire) -> None:
    wire.answers = [answer(404, {})]
    found = registry(http, config("acme", "openai_compatible", wire.url))
    resolved = await found.resolve("acme/anything")
    assert resolved.info is None and resolved.name == "anything"


async def test_a_provider_that_does_not_list_all_is_trusted(http: Http, wire: Wire) -> None:
    listed(wire, {"id": "a"})
    assert (await registry(http, config("fw", "fireworks", wire.url)).resolve("fw/b")).name == "b"
    assert (await registry(http, config("x", "openai", wire.url, any_model=True)).resolve("x/b")).name == "b"


async def test_configured_models_are_not_asked_for(http: Http) -> None:
    found = registry(
        http, config("acme", "openai_compatible", "http://no-such-host.invalid", models=("a",), context_window=9)
    )
    assert [(info.handle, info.context_window) for info in await found.list_models()] == [("acme/a", 9)]
    with pytest.raises(NotFound):
        await found.resolve("acme/b")


async def test_lists_come_all_at_once_and_say_who_failed(http: Http, wire: Wire) -> None:
    slow, good = Wire(), Wire()
    await slow.start()
    await good.start()
    slow.answers = [[30.0]]
    listed(good, {"id": "a"})
    wire.answers = [answer(401, {"error": {"message": "bad key"}})]
    found = registry(
        http,
        config("slow", "openai_compatible", slow.url),
        config("denied", "openai_compatible", wire.url),
        config("good", "openai_compatible", good.url),
        config("gone", "openai_compatible", "http://127.0.0.1:9"),
    )
    began = asyncio.get_running_loop().time()
    assert [info.handle for info in await found.list_models(timeout_s=0.4)] == ["good/a"]
    assert asyncio.get_running_loop().time() - began < 2
    assert set(found.errors) == {"slow", "denied", "gone"}
    assert "0.4 s" in found.errors["slow"].message and slow.url in found.errors["slow"].message
    assert "bad key" in found.errors["denied"].message and "denied" in found.errors["denied"].message
    listed(wire, {"id": "b"})
    await found.list_models(timeout_s=0.4)
    assert set(found.errors) == {"slow", "gone"}
    await slow.stop()
    await good.stop()


@pytest.mark.parametrize(
    ("entry", "window"),
    [
        ({"id": "m", "max_model_len": 4096}, 4096),
        ({"id": "m", "context_length": 131072}, 131072),
        ({"id": "m", "context_window": 16384.0}, 16384),
        ({"id": "m", "meta": {"n_ctx_train": 1}, "top_provider": {"context_length": 32000}}, 32000),
        ({"id": "gpt-4o"}, 128_000),
        ({"id": "m", "context_length": "many"}, None),
    ],
)
async def test_context_windows(http: Http, wire: Wire, entry: dict[str, Any], window: int | None) -> None:
    listed(wire, entry)
    assert (await registry(http, config("p", "openai_compatible", wire.url)).list_models())[0].context_window == window


async def test_embedding_models_are_told_apart(http: Http, wire: Wire) -> None:
    listed(
        wire,
        {"id": "text-embedding-3-small"},
        {"id": "gpt-4o"},
        {"id": "whisper-1"},
        {"id": "gpt-4o-mini-transcribe"},
        {"id": "llama-3-8b-instruct"},
        {"id": "x", "type": "embedding"},
    )
    found = await registry(http, config("openai", "openai", wire.url)).list_models()
    assert [(info.name, info.kind, info.embedding_dim) for info in found] == [
        ("text-embedding-3-small", "embedding", 1536),
        ("gpt-4o", "llm", None),
        ("llama-3-8b-instruct", "llm", None),
        ("x", "embedding", None),
    ]


async def test_llamacpp_tells_the_window_of_a_slot(http: Http, wire: Wire) -> None:
    wire.answers = [
        answer(200, {"data": [{"id": "m", "meta": {"n_ctx_train": 8192}}]}),
        answer(200, {"default_generation_settings": {"n_ctx": 2048}, "total_slots": 4}),
    ]
    found = await registry(http, config("llamacpp", "llamacpp", f"{wire.url}/v1")).list_models()
    assert [(info.context_window, info.provider_type) for info in found] == [(2048, "openai")]
    assert [line for line, _, _ in wire.requests] == ["GET /v1/models", "GET /props"]


async def test_what_is_no_list_is_an_error(http: Http, wire: Wire) -> None:
    found = registry(http, config("p", "openai_compatible", wire.url))
    for body in (b"<html>", {"data": 5}, {"hello": 1}):
        wire.answers = [answer(200, body)]
        assert await found.list_models() == [] and "p" in found.errors


async def test_keys_and_urls_stay_out_of_sight(http: Http, wire: Wire) -> None:
    listed(wire, {"id": "m"})
    secret = ProviderConfig(name="p", kind="openai", base_url=wire.url, api_key="sk-secret")
    found = Registry([secret], env=ENV, http=http)
    assert "sk-secret" not in repr(await found.list_models()) + repr(secret)
    assert wire.requests[0][1]["authorization"] == "Bearer sk-secret"


# --- token-exact or said why not


async def talk(model: Any, text: str = "hi") -> ModelDone:
    message = Message(id="message-1", role="user", created_us=1, content=(TextPart(text),))
    prompt = Prompt(model="tiny", system="be", messages=[message], settings=ModelSettings(max_output_tokens=50))
    items = [item async for batch in model.stream(prompt) for item in batch]
    assert isinstance(items[-1], ModelDone)
    return items[-1]


async def test_an_engine_with_a_tokenizer_is_exact(http: Http, double: SGLangDouble, tokenizers: Path) -> None:
    double.script("hello there")
    found = registry(http, config("sglang", "sglang", f"{double.base_url}/v1/"), tokenizers=tokenizers)
    resolved = await found.resolve("sglang/tiny", require_exact=True)
    assert isinstance(resolved.model, TokenExactModel) and resolved.not_exact is None
    done = await talk(resolved.model)
    assert done.content == (TextPart("hello there"),) and done.not_exact is None
    assert done.capture is not None and done.capture.call.engine_version == "0.5.23"
    assert double.requests[0]["input_ids"] and "text" not in double.requests[0]
    assert resolved.info is not None and resolved.info.context_window == 8192


@pytest.mark.parametrize(
    ("backend", "alone", "with_tools"), [("xgrammar", True, True), ("llguidance", True, False), ("none", False, False)]
)
async def test_a_form_is_left_to_the_engine_as_far_as_it_keeps_one(
    http: Http, double: SGLangDouble, tokenizers: Path, backend: str, alone: bool, with_tools: bool
) -> None:
    double.grammar_backend = backend
    double.script("{}", "{}")
    found = registry(http, config("sglang", "sglang", f"{double.base_url}/v1/"), tokenizers=tokenizers)
    model = (await found.resolve("sglang/tiny", require_exact=True)).model
    tool = ToolSpec("ping", "Answers.", {"type": "object", "properties": {}})
    for tools in ((), (tool,)):
        asked = Prompt(
            model="tiny",
            system="be",
            messages=[Message(id="message-1", role="user", created_us=1, content=(TextPart("hi"),))],
            tools=tools,
            settings=ModelSettings(
                max_output_tokens=50, enable_thinking=False, response_format={"type": "json_object"}
            ),
        )
        assert [item async for batch in model.stream(asked) for item in batch]
    sent = [request["sampling_params"] for request in double.requests]
    assert (sent[0].get("json_schema") == '{"type":"object"}', "ebnf" in sent[1]) == (alone, with_tools)
    if with_tools:
        assert sent[1]["ebnf"].startswith("root ::= ( object | call") and "<tool_call>" in sent[1]["ebnf"]


async def test_below_a_path_and_with_a_key(http: Http, tokenizers: Path) -> None:
    double = SGLangDouble(small_tokenizer(), ["ok"], prefix="/serve/a", api_key="k")
    try:
        url = ProviderConfig(name="lab", kind="sglang", base_url=double.base_url, api_key="k")
        found = Registry([url], tokenizers_dir=tokenizers, env=ENV, http=http)
        resolved = await found.resolve("lab/tiny", require_exact=True)
        assert (await talk(resolved.model)).content == (TextPart("ok"),)
        await found.close()
    finally:
        double.close()


async def test_without_a_tokenizer_it_says_why(http: Http, double: SGLangDouble) -> None:
    found = registry(http, config("sglang", "sglang", double.base_url))
    resolved = await found.resolve("sglang/tiny")
    assert isinstance(resolved.model, OpenAIChat)
    assert resolved.not_exact is not None and "PERDURE_TOKENIZERS" in resolved.not_exact
    with pytest.raises(Invalid, match="PERDURE_TOKENIZERS") as refused:
        await found.resolve("sglang/tiny", require_exact=True)
    assert refused.value.status == 400


async def test_an_agent_may_say_where_its_tokenizer_is(http: Http, double: SGLangDouble, tokenizers: Path) -> None:
    found = registry(http, config("sglang", "sglang", double.base_url))
    settings = ModelSettings(tokenizer=str(tokenizers / "tiny"))
    assert (await found.resolve("sglang/tiny", settings=settings, require_exact=True)).not_exact is None
    assert (await found.resolve("sglang/tiny")).not_exact is not None
    by_config = registry(http, config("sglang", "sglang", double.base_url, tokenizer=str(tokenizers / "tiny")))
    assert (await by_config.resolve("sglang/tiny", require_exact=True)).not_exact is None


async def test_many_who_ask_at_once_look_once(http: Http, double: SGLangDouble, tokenizers: Path) -> None:
    found = registry(http, config("sglang", "sglang", double.base_url), tokenizers=tokenizers)
    models = await asyncio.gather(*(found.resolve("sglang/tiny") for _ in range(20)))
    assert len({id(resolved.model) for resolved in models}) == 1


async def test_a_providers_small_model_is_one_that_it_lists(http: Http) -> None:
    hosted = config(
        "openai", "openai", "http://models.test/v1", models=("gpt-5", "gpt-4o-mini-2024-07-18", "gpt-4.1-mini")
    )
    own = config("mine", "openai", "http://mine.test/v1", models=("gpt-5",))
    other = config("engine", "lmstudio", "http://lm.test/v1", models=("gpt-4o-mini",))
    found = registry(http, hosted, own, other)
    assert await found.small_model("openai/gpt-5") == "openai/gpt-4.1-mini"
    assert await found.small_model("mine/gpt-5") is None
    assert await found.small_model("engine/gpt-4o-mini") is None
    assert await found.small_model("nobody/model") is None


async def test_no_small_model_where_the_provider_cannot_be_asked(http: Http) -> None:
    gone = config("openai", "openai", "http://127.0.0.1:9/v1")
    assert await registry(http, gone).small_model("openai/gpt-5") is None
