"""Routed experts of a real SGLang server (tiny-qwen3-moe: 2 layers of 8 experts, of which an id goes to 2)."""

import asyncio
import uuid
from array import array
from typing import Any

import msgspec
import pytest

from perdure.core.agents import ModelSettings
from perdure.core.experts import ExpertRows, joined, numbers, unpack
from perdure.core.model import ModelDone
from perdure.core.tokens import TokenCall
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest, TokenStream
from perdure.providers.engines import Places, find_model
from perdure.providers.experts import ExpertsAsked
from perdure.providers.http import Endpoint, Http
from perdure.providers.resume import resumed
from perdure.providers.sglang import SGLang
from perdure.providers.token_exact import TokenExactModel, extend
from perdure.tokens.trajectory import rollouts_of
from perdure.tokens.verify import verify
from tests.doubles.conversations import answer, message, prompt

pytestmark = pytest.mark.engine

SIZE = ExpertsAsked(layers=2, top_k=2, num_experts=8)
HELLO = array("i", [151644, 872, 198, 6023, 151645, 198, 151644, 77091, 198])


def engine_at(http: Http, url: str) -> SGLang:
    return SGLang(http, Endpoint("sglang", url))


async def sampled(engine: SGLang, ids: "array[int]", start: int, **more: Any) -> tuple[list[int], TokenDone]:
    asked = TokenRequest(
        model="tiny-qwen3-moe",
        ids=ids,
        request_id=uuid.uuid4().hex,
        max_tokens=more.pop("max_tokens", 6),
        stop_token_ids=(151_645,),
        vocab_size=151_936,
        experts=msgspec.structs.replace(SIZE, start=start),
        **more,
    )
    got: list[int] = []
    async for item in resumed(engine, asked):
        if isinstance(item, TokenDone):
            return got, item
        got += item.ids
    raise AssertionError("no TokenDone")


def rows(done: TokenDone) -> ExpertRows:
    assert done.experts is not None
    return done.experts


async def test_only_the_new_rows_are_those_of_the_whole(http: Http, sglang_moe_url: str) -> None:
    engine = engine_at(http, sglang_moe_url)
    ids, first = await sampled(engine, HELLO, 0, temperature=0.0)
    assert rows(first).count == len(HELLO) + len(ids) - 1
    assert all(0 <= expert < 8 for row in numbers(rows(first)) for layer in row for expert in layer)
    assert all(len(set(layer)) == 2 for row in numbers(rows(first)) for layer in row)
    longer = HELLO + array("i", ids) + array("i", [151645, 198])
    more, second = await sampled(engine, longer, rows(first).count, temperature=0.0)
    again, whole = await sampled(engine, longer, 0, temperature=0.0)
    assert again == more
    assert joined(rows(first), rows(second)) == rows(whole)


async def test_an_answer_broken_off_by_a_pause_has_all_its_rows(http: Http, sglang_moe_url: str) -> None:
    engine, endpoint = engine_at(http, sglang_moe_url), Endpoint("sglang", sglang_moe_url)
    asked = TokenRequest(
        model="tiny-qwen3-moe",
        ids=HELLO,
        request_id=uuid.uuid4().hex,
        max_tokens=60,
        stop_token_ids=(),
        vocab_size=151_936,
        temperature=0.0,
        experts=SIZE,
    )
    ids: list[int] = []
    done: TokenDone | None = None
    paused = False
    async for item in resumed(engine, asked):
        if isinstance(item, TokenBatch):
            ids += item.ids
            if not paused and len(ids) > 3:
                paused = True
                await http.call(endpoint, "/pause_generation", b'{"mode": "abort"}', retry=False)
                await http.call(endpoint, "/continue_generation", b"{}", retry=False)
        else:
            done = item
    assert done is not None and len(done.attempts) >= 2
    whole = HELLO + array("i", ids)
    assert rows(done).count == len(whole) - 1
    _, again = await sampled(engine, whole, 0, max_tokens=1, temperature=0.0)
    assert rows(again).cut(0, len(whole) - 1) == rows(done)


async def test_a_conversation_puts_each_row_on_record_once(http: Http, sglang_moe_url: str) -> None:
    engine = engine_at(http, sglang_moe_url)
    told = msgspec.json.decode(await http.call(engine._endpoint, "/model_info", method="GET", retry=False))
    renderer, size = await find_model("tiny-qwen3-moe", None, told["tokenizer_path"], Places())
    assert size == SIZE  # of the config.json beside the tokenizer
    model = TokenExactModel(
        engine, renderer, provider_name="sglang", model_name="tiny-qwen3-moe", handle="sglang/tiny", experts=size
    )
    tokens, calls, said = TokenStream(), list[TokenCall](), list[Any]()
    settings = ModelSettings(return_routed_experts=True, max_output_tokens=12, seed=5)
    for turn in range(4):
        said.append(message("user", f"Question {turn}."))
        asked = prompt(said, settings=settings, conversation_id="c", agent_id="a", run_id="r")
        if turn == 2:  # left in the middle
            await _left(model, asked, tokens)
        done = await _answered(model, asked, tokens)
        assert done.capture is not None
        if turn == 0:
            segment = done.capture.segment
        calls.append(done.capture.call)
        extend(tokens, done.capture)
        said.append(answer(asked, done))
    assert segment is not None
    parts = [unpack(call.experts) for call in calls if call.experts is not None]
    assert len(parts) == 4 and sum(part.count for part in parts) == len(tokens.ids) - 1
    _, whole = await sampled(engine, tokens.ids, 0, max_tokens=1, temperature=0.0)
    assert rows(whole).cut(0, len(tokens.ids) - 1) == joined(*parts)
    report = verify(rollouts_of([segment], calls))
    assert report.ok and report.checked["R2"] == len(tokens.ids) - 1, report.violations


async def _answered(model: TokenExactModel, asked: Any, tokens: TokenStream) -> ModelDone:
    async for batch in model.stream(asked, tokens):
        if isinstance(batch[-1], ModelDone):
            return batch[-1]
    raise AssertionError("no ModelDone")


async def _left(model: TokenExactModel, asked: Any, tokens: TokenStream) -> None:
    stream = model.stream(asked, tokens)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)
