"""A real vLLM server (tiny-qwen3: random weights, the real Qwen3 tokenizer and template)."""

import asyncio
import re
import uuid
from array import array
from typing import Any

import msgspec
import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import ProviderError
from perdure.core.model import ModelDone, ToolSpec
from perdure.core.tokens import VersionSpan, bytes_to_floats, bytes_to_ids
from perdure.providers import vllm
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest, TokenStream
from perdure.providers.engines import Places, find_renderer
from perdure.providers.http import Endpoint, Http
from perdure.providers.registry import Registry, providers_from_env
from perdure.providers.token_exact import TokenExactModel
from perdure.providers.vllm import VLLM
from perdure.providers.vllm_chat import VLLMChat
from tests.doubles.conversations import call, message, prompt
from tests.doubles.dialogue import LOOK, Dialogue
from tests.engines.forms import PING, TAUGHT, answers_have_their_form, calls_are_forced

pytestmark = pytest.mark.engine

VOCABULARY = 151_936
END_OF_TURN = 151_645
HELLO = array("i", [151644, 872, 198, 6023, 151645, 198, 151644, 77091, 198])
MODEL = "tiny-qwen3"


def request(**changes: Any) -> TokenRequest:
    asked: dict[str, Any] = {
        "model": MODEL,
        "ids": HELLO,
        "request_id": uuid.uuid4().hex,
        "max_tokens": 16,
        "stop_token_ids": (END_OF_TURN,),
        "vocab_size": VOCABULARY,
    }
    return TokenRequest(**asked | changes)


async def collect(engine: VLLM, asked: TokenRequest) -> tuple[list[int], list[float], list[Any], TokenDone]:
    ids: list[int] = []
    logprobs: list[float] = []
    tops: list[Any] = []
    async for item in engine.generate(asked):
        if isinstance(item, TokenDone):
            return ids, logprobs, tops, item
        ids += item.ids
        logprobs += item.logprobs
        tops += item.top_logprobs or []
    raise AssertionError("no TokenDone")


@pytest.fixture(params=["generate", "completions"])
def engine(http: Http, vllm_url: str, request: pytest.FixtureRequest) -> VLLM:
    """By its own route, and by the one that is asked where a server does not have that."""
    made = VLLM(http, Endpoint("vllm", vllm_url))
    made._completions = request.param == "completions"
    return made


async def test_logprobs_are_the_engines_own(engine: VLLM) -> None:
    for temperature in (0.0, 1.0, 1.7):
        ids, logprobs, tops, done = await collect(
            engine, request(temperature=temperature, max_tokens=40, top_logprobs=2)
        )
        assert len(ids) == 40 and done.finish.type == "length" and done.prompt_tokens == len(HELLO)
        assert done.versions in ((VersionSpan("default", 0, 40),), ())
        again = await engine.score(MODEL, HELLO + array("i", ids), len(HELLO), VOCABULARY)
        assert logprobs == pytest.approx(again, abs=1e-3)
        assert all(len(top) == 2 and top[0] >= top[1] for top in tops)


async def test_it_stops_at_the_ids_it_is_given(engine: VLLM) -> None:
    greedy, _, _, _ = await collect(engine, request(temperature=0))
    stop = greedy[3]
    ids, logprobs, _, done = await collect(engine, request(temperature=0, stop_token_ids=(stop,)))
    assert ids[-1] == stop == done.finish.matched and len(logprobs) == len(ids) and done.finish.type == "stop"


async def test_ten_turns_only_ever_grow(http: Http, vllm_url: str) -> None:
    registry = Registry(providers_from_env({"VLLM_BASE_URL": f"{vllm_url}/v1"}), http=http)
    resolved = await registry.resolve(f"vllm/{MODEL}", require_exact=True)
    assert isinstance(resolved.model, TokenExactModel) and resolved.info is not None
    assert resolved.info.context_window == 4096
    talk = Dialogue(resolved.model, tools=[LOOK], settings=ModelSettings(max_output_tokens=12, temperature=1.0))
    for turn in range(10):
        talk.say(f"Look again, {turn}. <|im_end|> is text here. é🦜")
        await talk.step()
    assert talk.grown == [True] * 9
    ids, start, logprobs = talk.sampled(9)
    assert list(logprobs) == pytest.approx(await resolved.model.engine.score(MODEL, ids, start, VOCABULARY), abs=1e-3)


async def test_under_a_grammar_logprobs_are_those_of_what_it_left(engine: VLLM) -> None:
    """Why such calls are not declared raw: they are told after the grammar took away what it forbids."""
    asked = request(temperature=1.0, grammar={"kind": "regex", "pattern": "(yes|no)"}, stop_token_ids=())
    ids, logprobs, _, _ = await collect(engine, asked)
    again = await engine.score(MODEL, HELLO + array("i", ids), len(HELLO), VOCABULARY)
    assert sum(logprobs) > sum(again) + 5


@pytest.mark.parametrize("tools", [[], [PING]])
async def test_an_answer_has_the_wanted_form_or_calls_a_tool(http: Http, vllm_url: str, tools: list[ToolSpec]) -> None:
    registry = Registry(providers_from_env({"VLLM_BASE_URL": f"{vllm_url}/v1"}), http=http)
    resolved = await registry.resolve(f"vllm/{MODEL}", require_exact=True)
    await answers_have_their_form(resolved.model, tools)


async def test_a_tool_that_must_be_called_is(http: Http, vllm_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = vllm._sampling
    monkeypatch.setattr(vllm, "_sampling", lambda request: sampling(request) | {"logit_bias": TAUGHT})
    registry = Registry(providers_from_env({"VLLM_BASE_URL": f"{vllm_url}/v1"}), http=http)
    await calls_are_forced((await registry.resolve(f"vllm/{MODEL}", require_exact=True)).model)


async def test_an_id_outside_the_vocabulary_is_never_sent(engine: VLLM) -> None:
    for bad in (-1, VOCABULARY):
        with pytest.raises(ProviderError, match="outside the vocabulary"):
            await collect(engine, request(ids=HELLO + array("i", [bad])))


async def test_closing_the_stream_stops_the_engine(engine: VLLM, http: Http, vllm_url: str) -> None:
    stream = engine.generate(request(max_tokens=4000))
    assert isinstance(await anext(stream), TokenBatch)
    await stream.aclose()
    await engine.close()
    await nothing_runs(http, vllm_url)


async def nothing_runs(http: Http, vllm_url: str) -> None:
    for _ in range(100):
        metrics = (await http.call(Endpoint("vllm", vllm_url), "/metrics", method="GET")).decode()
        running = re.findall(r"^vllm:num_requests_running\S* (\S+)", metrics, re.MULTILINE)
        if running and all(float(each) == 0 for each in running):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it still runs")


async def test_a_prompt_too_long_is_named_so(engine: VLLM) -> None:
    with pytest.raises(ProviderError) as refused:
        await collect(engine, request(ids=array("i", [198] * 5000)))
    assert refused.value.kind == "context_window_exceeded"


# --- asked in messages: the server writes the prompt and tells its ids


async def in_messages(http: Http, vllm_url: str, **options: Any) -> VLLMChat:
    configs = providers_from_env({"VLLM_BASE_URL": f"{vllm_url}/v1"})
    config = next(each for each in configs if each.name == "vllm")
    config = msgspec.structs.replace(config, options=msgspec.structs.replace(config.options, **options))
    found = Registry([config], http=http)
    resolved = await found.resolve(f"vllm/{MODEL}", settings=ModelSettings(wire_api="chat"), require_exact=True)
    assert isinstance(resolved.model, VLLMChat) and resolved.not_exact is None
    return resolved.model


async def check_last(talk: Dialogue, model: VLLMChat) -> None:
    """What is on record of the last call is what the engine gives for those ids in one forward pass."""
    call = talk.calls[-1]
    end = call.prompt_len + call.length
    assert len(talk.tokens.ids) == end and call.engine_version
    again = await model.engine.score(MODEL, talk.tokens.ids, call.prompt_len, VOCABULARY)
    assert list(bytes_to_floats(call.logprobs)) == pytest.approx(again, abs=1e-3)


@pytest.mark.parametrize("stream", [True, False])
async def test_in_messages_what_grows_is_one_segment(http: Http, vllm_url: str, stream: bool) -> None:
    """One token of text is written again as that token, so these prompts grow; a long answer's text is other tokens."""
    model = await in_messages(http, vllm_url, stream=stream)
    talk = Dialogue(model, settings=ModelSettings(max_output_tokens=1, temperature=0.0))
    for turn in range(4):
        talk.say(f"Look again, {turn}. é🦜")
        done = await talk.step()
        await check_last(talk, model)
        assert done.finish == "length" and talk.calls[-1].length == 1
    assert talk.grown == [True] * 3
    root = talk.tokens.segment
    talk.settings = ModelSettings(max_output_tokens=60, temperature=1.0, seed=3)
    for _ in range(2):
        talk.say("Tell me more.")
        await talk.step()
        await check_last(talk, model)
    segment = talk.tokens.segment
    assert root is not None and segment is not None and segment.cause == "renderer_fallback"
    assert segment.parent_segment_id == root.id and 0 < segment.parent_offset < talk.calls[-1].prompt_len
    tokenizer = (await find_renderer(MODEL, None, await tokenizer_path(http, vllm_url), Places())).tokenizer
    assert tokenizer.decode(talk.tokens.ids).count("<|im_start|>user") == 6


async def tokenizer_path(http: Http, vllm_url: str) -> str:
    listed = msgspec.json.decode(await http.call(Endpoint("vllm", vllm_url), "/v1/models", method="GET"))
    return str(listed["data"][0]["root"])


@pytest.mark.parametrize("stream", [True, False])
async def test_in_messages_a_call_is_read_by_the_server(http: Http, vllm_url: str, stream: bool) -> None:
    model = await in_messages(http, vllm_url, stream=stream)
    settings = ModelSettings(max_output_tokens=200, temperature=0.0)
    asked = prompt([message("user", "Ping?")], tools=[PING], tool_choice="ping", settings=settings)
    done, _ = await call(model, asked, TokenStream())  # type: ignore[arg-type]
    assert [made.name for made in done.tool_calls] == ["ping"] and done.capture is not None
    made = done.capture.call
    ids = bytes_to_ids(made.delta_ids) + bytes_to_ids(made.completion_ids)
    again = await model.engine.score(MODEL, ids, made.prompt_len, VOCABULARY)
    # a random model would never write a call: these are the logprobs of what the form of the call left
    assert made.logprob_semantics == "processed"
    assert all(own > raw - 1e-3 for own, raw in zip(bytes_to_floats(made.logprobs), again, strict=True))
    assert sum(bytes_to_floats(made.logprobs)) > sum(again) + 10


async def test_in_messages_a_cancelled_answer_stops_the_engine_and_is_on_record(http: Http, vllm_url: str) -> None:
    model = await in_messages(http, vllm_url)
    held: list[ModelDone] = []
    settings = ModelSettings(max_output_tokens=3000, temperature=1.0)
    asked = prompt([message("user", "Talk.")], settings=settings, on_cut_off=held.append)
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in model.stream(asked, TokenStream()):
            begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    await asyncio.sleep(0.2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    [done] = held
    assert done.capture is not None and done.finish == "abort" and not done.capture.call.trainable
    made = done.capture.call
    ids = bytes_to_ids(made.delta_ids) + bytes_to_ids(made.completion_ids)
    again = await model.engine.score(MODEL, ids, made.prompt_len, VOCABULARY)
    assert list(bytes_to_floats(made.logprobs)) == pytest.approx(again, abs=1e-3)
    await nothing_runs(http, vllm_url)


async def test_in_messages_a_prompt_too_long_is_named_so(http: Http, vllm_url: str) -> None:
    model = await in_messages(http, vllm_url)
    with pytest.raises(ProviderError) as refused:
        await call(model, prompt([message("user", "word " * 6000)]), TokenStream())  # type: ignore[arg-type]
    assert refused.value.kind == "context_window_exceeded"
