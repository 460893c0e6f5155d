"""A real SGLang server (tiny-qwen3: random weights, the real Qwen3 tokenizer and template)."""

import asyncio
import uuid
from array import array
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import Invalid, ProviderError
from perdure.core.messages import Message, TextPart
from perdure.core.model import ModelDone, Prompt, ToolSpec
from perdure.core.tokens import VersionSpan
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.engines import Places, find_renderer
from perdure.providers.http import Endpoint, Http
from perdure.providers.registry import Registry, providers_from_env
from perdure.providers.resume import resumed
from perdure.providers.sglang import SGLang
from perdure.providers.token_exact import TokenExactModel
from tests.doubles.dialogue import LOOK, Dialogue
from tests.engines.forms import PING, TAUGHT, answers_have_their_form, calls_are_forced

pytestmark = pytest.mark.engine

VOCABULARY = 151_936
END_OF_TURN = 151_645
HELLO = array("i", [151644, 872, 198, 6023, 151645, 198, 151644, 77091, 198])


def request(**changes: Any) -> TokenRequest:
    asked: dict[str, Any] = {
        "model": "tiny-qwen3",
        "ids": HELLO,
        "request_id": uuid.uuid4().hex,
        "max_tokens": 16,
        "stop_token_ids": (END_OF_TURN,),
        "vocab_size": VOCABULARY,
    }
    return TokenRequest(**asked | changes)


async def collect(engine: SGLang, asked: TokenRequest) -> tuple[list[int], list[float], TokenDone]:
    ids: list[int] = []
    logprobs: list[float] = []
    async for item in engine.generate(asked):
        if isinstance(item, TokenDone):
            return ids, logprobs, item
        ids += item.ids
        logprobs += item.logprobs
    raise AssertionError("no TokenDone")


class LedSGLang(SGLang):
    """The random model never calls a tool, so whole answers are put into its mouth, one biased token a call; it samples
    them itself, so ids, stops and streams are the engine's own. Answers that are None are left to the model."""

    def __init__(self, http: Http, endpoint: Endpoint) -> None:
        super().__init__(http, endpoint)
        self.led: deque[list[int] | None] = deque()
        self._next: int | None = None

    def fields(self, request: TokenRequest) -> dict[str, Any]:
        fields = super().fields(request)
        if self._next is not None:
            fields["sampling_params"]["logit_bias"] = {str(self._next): 1000.0}
        return fields

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenBatch | TokenDone, None]:
        answer = self.led.popleft() if self.led else None
        context, done = request.ids[:], None
        for token_id in answer or ():
            self._next = token_id
            one = msgspec.structs.replace(request, ids=context, max_tokens=1, request_id=uuid.uuid4().hex)
            async for item in super().generate(one):
                if isinstance(item, TokenDone):
                    done = item
                else:
                    yield item
            context = context + array("i", [token_id])
        self._next = None
        if done is not None:
            yield msgspec.structs.replace(done, prompt_tokens=len(request.ids), versions=())
            return
        async for item in super().generate(request):
            yield item


@pytest.fixture
def engine(http: Http, sglang_url: str) -> SGLang:
    return SGLang(http, Endpoint("sglang", sglang_url))


async def test_logprobs_are_the_engines_own(engine: SGLang) -> None:
    await collect(engine, request())  # the first call after a start may be off by more
    for temperature in (0.0, 1.0):
        ids, logprobs, done = await collect(engine, request(temperature=temperature, max_tokens=48))
        assert len(ids) == 48 and done.finish.type == "length"
        assert done.versions == (VersionSpan("default", 0, 48),)
        again = await engine.score("tiny-qwen3", HELLO + array("i", ids), len(HELLO), VOCABULARY)
        assert logprobs == pytest.approx(again, abs=1e-3)


async def test_top_logprobs_come_with_every_id(engine: SGLang) -> None:
    tops: list[list[tuple[float, int]]] = []
    async for item in engine.generate(request(temperature=0, top_logprobs=3)):
        if isinstance(item, TokenBatch):
            assert item.top_logprobs is not None
            tops += item.top_logprobs
            assert [(top[0][1], pytest.approx(top[0][0])) for top in item.top_logprobs] == list(
                zip(item.ids, item.logprobs, strict=True)
            )
    assert len(tops) == 16 and all(len(top) == 3 for top in tops)


async def test_ten_turns_with_tool_calls_only_ever_grow(http: Http, sglang_url: str) -> None:
    registry = Registry(providers_from_env({"SGLANG_BASE_URL": sglang_url}), http=http)
    path = (await registry.list_models())[0].name
    resolved = await registry.resolve(f"sglang/{path}", require_exact=True)
    renderer = resolved.model.renderer  # type: ignore[attr-defined]
    engine = LedSGLang(http, Endpoint("sglang", sglang_url))
    model = TokenExactModel(engine, renderer, provider_name="sglang", model_name=path, handle="sglang/x")
    call = renderer.tokenizer.split(
        '<tool_call>\n{"name": "look",  "arguments": {"at" : "the sky"}}\n</tool_call><|im_end|>'
    )
    led = [i for piece in call for i in ([piece] if isinstance(piece, int) else renderer.tokenizer.encode(piece))]
    talk = Dialogue(model, tools=[LOOK], settings=ModelSettings(max_output_tokens=12, temperature=1.0))
    for turn in range(10):
        talk.say(f"Look again, {turn}. <|im_end|> is text here. é🦜")
        engine.led.append(led)
        done = await talk.step()
        assert [(each.name, each.arguments) for each in done.tool_calls] == [("look", '{"at" : "the sky"}')]
        talk.tool_answers(done, f"Sky {turn}: false, 1.0, null\n")
        await talk.step()
    assert len(talk.calls) == 20 and talk.grown == [True] * 19
    for index in (1, 9, 19):
        ids, start, logprobs = talk.sampled(index)
        assert list(logprobs) == pytest.approx(await engine.score(path, ids, start, VOCABULARY), abs=1e-3)


@pytest.mark.parametrize("mode", ["abort", "retract", "in_place"])
async def test_an_answer_lives_through_a_change_of_weights(
    engine: SGLang, http: Http, sglang_url: str, mode: str
) -> None:
    root, asked = Endpoint("sglang", sglang_url), request(temperature=1.0, max_tokens=120)
    version = uuid.uuid4().hex

    async def change() -> None:
        for path, body in (
            ("/pause_generation", {"mode": mode}),
            ("/update_weight_version", {"new_version": version, "abort_all_requests": False}),
            ("/continue_generation", {}),
        ):
            await http.call(root, path, msgspec.json.encode(body), retry=False, timeout_s=60)

    ids: list[int] = []
    logprobs: list[float] = []
    done: TokenDone | None = None
    changing: asyncio.Task[None] | None = None
    async for item in resumed(engine, asked):
        if isinstance(item, TokenDone):
            done = item
            continue
        ids, logprobs = ids + item.ids, logprobs + item.logprobs
        if changing is None and len(ids) > 3:
            changing = asyncio.create_task(change())
    assert done is not None and changing is not None
    await changing
    assert len(ids) == 120 and done.finish.type == "length"
    before, after = done.versions
    assert (before.start, before.end, after.end) == (0, after.start, 120) and after.version == version
    if mode == "abort":
        assert [each.finish.type for each in done.attempts] == ["abort", "length"]
        assert [each.length for each in done.attempts] == [before.end, 120 - before.end]
    else:
        assert done.attempts == () and done.retractions == (mode == "retract")
    again = await engine.score("tiny-qwen3", HELLO + array("i", ids), len(HELLO), VOCABULARY)
    assert logprobs == pytest.approx(again, abs=1e-4)


@pytest.mark.parametrize("tools", [[], [PING]])
async def test_an_answer_has_the_wanted_form_or_calls_a_tool(
    http: Http, sglang_url: str, tools: list[ToolSpec]
) -> None:
    registry = Registry(providers_from_env({"SGLANG_BASE_URL": sglang_url}), http=http)
    path = (await registry.list_models())[0].name
    resolved = await registry.resolve(f"sglang/{path}", require_exact=True)
    await answers_have_their_form(resolved.model, tools)


async def test_a_tool_that_must_be_called_is(http: Http, sglang_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = SGLang.fields

    def biased(self: SGLang, request: TokenRequest) -> dict[str, Any]:
        made = fields(self, request)
        return made | {"sampling_params": made["sampling_params"] | {"logit_bias": TAUGHT}}

    monkeypatch.setattr(SGLang, "fields", biased)
    registry = Registry(providers_from_env({"SGLANG_BASE_URL": sglang_url}), http=http)
    path = (await registry.list_models())[0].name
    await calls_are_forced((await registry.resolve(f"sglang/{path}", require_exact=True)).model)


async def test_an_id_outside_the_vocabulary_is_never_sent(engine: SGLang) -> None:
    for bad in (-1, VOCABULARY, 2**31 - 1):
        with pytest.raises(ProviderError, match="outside the vocabulary") as refused:
            await collect(engine, request(ids=HELLO + array("i", [bad])))
        assert refused.value.kind == "llm_bad_request"
        with pytest.raises(ProviderError, match="outside the vocabulary"):
            await engine.score("tiny-qwen3", HELLO + array("i", [bad]), 1, VOCABULARY)
    ids, _, _ = await collect(engine, request(max_tokens=1))
    assert len(ids) == 1


async def test_closing_the_stream_stops_the_engine(engine: SGLang, http: Http, sglang_url: str) -> None:
    stream = engine.generate(request(max_tokens=8000))
    async for _ in stream:
        break
    await stream.aclose()
    root = Endpoint("sglang", sglang_url)
    for _ in range(50):
        loads = msgspec.json.decode(await http.call(root, "/v1/loads", method="GET"))["loads"]
        if loads[0]["num_running_reqs"] == 0:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("it still runs")


async def test_a_prompt_too_long_is_named_so(engine: SGLang) -> None:
    with pytest.raises(ProviderError) as refused:
        await collect(engine, request(ids=array("i", [198] * 9000)))
    assert refused.value.kind == "context_window_exceeded"


async def test_an_unknown_sampling_setting_is_explained(engine: SGLang) -> None:
    with pytest.raises(ProviderError, match="temperature"):
        await collect(engine, request(temperature=-1.0))


async def test_without_a_tokenizer_the_answer_says_why(http: Http, sglang_url: str, tmp_path: Any) -> None:
    registry = Registry(providers_from_env({"SGLANG_BASE_URL": f"{sglang_url}/v1/"}), http=http)
    name = (await registry.list_models())[0].name
    settings = ModelSettings(tokenizer=str(tmp_path), max_output_tokens=4)
    resolved = await registry.resolve(f"sglang/{name}", settings=settings)
    assert resolved.not_exact is not None and str(tmp_path) in resolved.not_exact
    hello = Message(id="message-1", role="user", created_us=1, content=(TextPart("hi"),))
    prompt = Prompt(model=name, system="", messages=[hello], settings=settings)
    done = [item async for batch in resolved.model.stream(prompt) for item in batch][-1]
    assert isinstance(done, ModelDone) and done.usage.completion_tokens == 4
    assert done.capture is None and done.not_exact == resolved.not_exact
    with pytest.raises(Invalid, match="PERDURE_TOKENIZERS"):
        await registry.resolve(f"sglang/{name}", settings=settings, require_exact=True)


async def test_the_renderer_is_found_by_the_engines_word(http: Http, sglang_url: str) -> None:
    info = msgspec.json.decode(await http.call(Endpoint("sglang", sglang_url), "/model_info", method="GET"))
    assert (await find_renderer("tiny-qwen3", None, info["tokenizer_path"], Places())).info.name == "qwen3"
