"""A real vLLM server (tiny-qwen3: random weights, the real Qwen3 tokenizer and template)."""

import asyncio
import re
import uuid
from array import array
from typing import Any

import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import ProviderError
from perdure.core.model import ToolSpec
from perdure.core.tokens import VersionSpan
from perdure.providers import vllm
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.http import Endpoint, Http
from perdure.providers.registry import Registry, providers_from_env
from perdure.providers.token_exact import TokenExactModel
from perdure.providers.vllm import VLLM
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
