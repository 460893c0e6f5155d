"""Engines that take and give token ids: recorded answers, the double with the real one's habits, and what is refused."""

import asyncio
import uuid
from array import array
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from perdure.core.errors import ProviderError
from perdure.core.tokens import Finish, VersionSpan
from perdure.providers.base import TokenBatch, TokenDone, TokenEngine, TokenRequest
from perdure.providers.http import Endpoint, Http
from perdure.providers.llamacpp import LlamaCpp
from perdure.providers.resume import resumed
from perdure.providers.scripted import Completion
from perdure.providers.sglang import SGLang
from perdure.providers.vllm import VLLM
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer
from tests.doubles.wire import END, HEAD, Wire, answer, as_stream, chunk, sample, streamed

HELLO = array("i", [151644, 872, 198, 6023, 151645, 198, 151644, 77091, 198])
ENGINES = {"sglang": SGLang, "vllm": VLLM, "llamacpp": LlamaCpp}


def request(**changes: Any) -> TokenRequest:
    asked: dict[str, Any] = {
        "model": "tiny",
        "ids": HELLO,
        "request_id": uuid.uuid4().hex,
        "max_tokens": 16,
        "stop_token_ids": (151645,),
        "vocab_size": 151_936,
    }
    return TokenRequest(**asked | changes)


class Got:
    def __init__(self) -> None:
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.tops: list[Any] = []
        self.batches = 0
        self.done: TokenDone | None = None


async def collect(engine: TokenEngine, asked: TokenRequest) -> Got:
    got = Got()
    async for item in engine.generate(asked):
        assert got.done is None
        if isinstance(item, TokenDone):
            got.done = item
        else:
            assert len(item.ids) == len(item.logprobs) > 0
            got.batches += 1
            got.ids += item.ids
            got.logprobs += item.logprobs
            got.tops += item.top_logprobs or []
    assert got.done is not None
    return got


def one_by_one(frames: list[Any]) -> list[bytes | float | None]:
    """Each frame a read of its own."""
    pieces: list[bytes | float | None] = [HEAD]
    for frame in frames:
        pieces += [chunk(as_stream([frame])), 0.01]
    return [*pieces, END]


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("bad", [[], [-1], [5, 151_936], [2**31 - 1]])
async def test_ids_outside_the_vocabulary_are_never_sent(http: Http, wire: Wire, kind: str, bad: list[int]) -> None:
    engine = ENGINES[kind](http, Endpoint("e", wire.url))
    with pytest.raises(ProviderError) as refused:
        await collect(engine, request(ids=array("i", bad)))
    with pytest.raises(ProviderError):
        await engine.score("tiny", array("i", bad), 1, 151_936)
    assert refused.value.kind == "llm_bad_request" and wire.connections == 0


# --- SGLang


async def test_sglang_request_as_sent(http: Http, wire: Wire) -> None:
    wire.answers = [streamed(sample("sglang-stream-cumulative")["frames"])]
    asked = request(temperature=0.7, seed=3, top_p=0.9, top_logprobs=2, grammar={"kind": "regex", "pattern": "a+"})
    with pytest.raises(ProviderError):  # the recorded answer has no top logprobs
        await collect(SGLang(http, Endpoint("sglang", wire.url)), asked)
    line, _, body = wire.requests[0]
    assert line == "POST /generate"
    assert msgspec.json.decode(body) == {
        "rid": asked.request_id,
        "input_ids": list(HELLO),
        "stream": True,
        "return_logprob": True,
        "top_logprobs_num": 2,
        "sampling_params": {
            "max_new_tokens": 16,
            "stop_token_ids": [151645],
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "no_stop_trim": True,
            "temperature": 0.7,
            "top_p": 0.9,
            "sampling_seed": 3,
            "regex": "a+",
        },
    }


@pytest.mark.parametrize("name", ["sglang-stream-cumulative", "sglang-stream-incremental"])
@pytest.mark.parametrize("split", [True, False])
async def test_sglang_streams_that_repeat_and_that_do_not(http: Http, wire: Wire, name: str, split: bool) -> None:
    frames = sample(name)["frames"]
    last = frames[-2]["meta_info"]
    wire.answers = [one_by_one(frames) if split else streamed(frames)]
    top = 2 if "output_top_logprobs" in last else 0
    got = await collect(SGLang(http, Endpoint("sglang", wire.url)), request(top_logprobs=top))
    rows = [row for frame in frames[:-1] for row in frame["meta_info"]["output_token_logprobs"]]
    if name.endswith("cumulative"):
        rows = last["output_token_logprobs"]
    assert list(zip(got.logprobs, got.ids, strict=True)) == [(row[0], row[1]) for row in rows]
    assert len(got.ids) == last["completion_tokens"] and len(got.tops) == (len(got.ids) if top else 0)
    assert got.batches > 1 if split else got.batches == 1
    assert got.done is not None and got.done.finish == Finish("length", None, last["finish_reason"])
    assert got.done.versions == (VersionSpan("default", 0, len(got.ids)),)
    assert (got.done.prompt_tokens, got.done.cached_tokens, got.done.retractions) == (9, last["cached_tokens"], 0)


async def test_sglang_weights_that_change_show_as_spans(http: Http, wire: Wire) -> None:
    frames = sample("sglang-stream-cumulative")["frames"]
    meta = frames[-2]["meta_info"]
    meta["weight_versions"] = [{"version": "a", "start": 0, "end": 1}, {"version": "b", "start": 1, "end": 4}]
    meta["num_retractions"] = 1
    wire.answers = [streamed(frames)]
    got = await collect(SGLang(http, Endpoint("sglang", wire.url)), request())
    assert got.done is not None and got.done.retractions == 1
    assert got.done.versions == (VersionSpan("a", 0, 1), VersionSpan("b", 1, 4))


async def test_sglang_aborts(http: Http, wire: Wire) -> None:
    engine = SGLang(http, Endpoint("sglang", wire.url))
    wire.answers = [streamed(sample("sglang-abort-stream-last-frames")["frames"])]
    got = await collect(engine, request())
    assert got.done is not None and got.done.finish.type == "abort" and len(got.ids) == 5
    wire.answers = [streamed(sample("sglang-abort-queued-stream")["frames"])]
    got = await collect(engine, request())
    assert got.done is not None and got.done.finish.type == "abort" and got.ids == []
    meta = {"finish_reason": {"type": "abort", "message": "busy", "status_code": 503}, "completion_tokens": 0}
    wire.answers = [streamed([{"text": "", "output_ids": [], "meta_info": meta}, "[DONE]"])]
    with pytest.raises(ProviderError) as failed:
        await collect(engine, request())
    assert failed.value.kind == "llm_overloaded" and failed.value.retryable


@pytest.mark.parametrize(
    "name",
    ["sglang-error-too-long", "sglang-error-rid-in-use", "sglang-error-sampling-unknown", "sglang-error-ids-type"],
)
async def test_sglang_errors_in_each_shape(http: Http, wire: Wire, name: str) -> None:
    told = sample(name)["response"]
    wire.answers = [answer(400, told)]
    with pytest.raises(ProviderError) as failed:
        await collect(SGLang(http, Endpoint("sglang", wire.url)), request())
    assert failed.value.status == 400 and len(wire.requests) == 1
    assert failed.value.kind == ("context_window_exceeded" if "too-long" in name else "llm_bad_request")
    words = told["error"] if "error" in told else told["message"]
    words = words["message"] if isinstance(words, dict) else words
    assert " ".join(words.split())[:60] in failed.value.message


async def test_sglang_error_in_the_stream(http: Http, wire: Wire) -> None:
    wire.answers = [[HEAD + chunk(sample("sglang-error-too-long-stream")["response"].encode()) + END]]
    with pytest.raises(ProviderError) as failed:
        await collect(SGLang(http, Endpoint("sglang", wire.url)), request())
    assert failed.value.kind == "context_window_exceeded"


def damage(frames: list[Any], how: str) -> list[Any]:
    frames = [msgspec.json.decode(msgspec.json.encode(frame)) for frame in frames]
    last = frames[-2]
    match how:
        case "a logprob is missing":
            del last["meta_info"]["output_token_logprobs"][-1]
        case "an id differs from its logprob":
            last["output_ids"][-1] += 1
        case "an earlier logprob changed":
            last["meta_info"]["output_token_logprobs"][0][0] -= 0.5
        case "a logprob is null":
            last["meta_info"]["output_token_logprobs"][-1][0] = None
        case "it shrank":
            last["output_ids"] = last["output_ids"][:1]
            last["meta_info"]["completion_tokens"] = 1
        case "the last frame is lost":
            frames = frames[:-2]
    return frames


@pytest.mark.parametrize(
    "how",
    [
        "a logprob is missing",
        "an id differs from its logprob",
        "an earlier logprob changed",
        "a logprob is null",
        "it shrank",
        "the last frame is lost",
    ],
)
async def test_sglang_records_that_do_not_add_up_are_errors(http: Http, wire: Wire, how: str) -> None:
    wire.answers = [one_by_one(damage(sample("sglang-stream-cumulative")["frames"], how))]
    with pytest.raises(ProviderError):
        await collect(SGLang(http, Endpoint("sglang", wire.url)), request())


async def test_sglang_score_is_the_prefill(http: Http, wire: Wire) -> None:
    told = sample("sglang-prompt-logprobs")["response"]
    rows = told["meta_info"]["input_token_logprobs"]
    wire.answers = [answer(200, told)]
    engine = SGLang(http, Endpoint("sglang", wire.url))
    assert await engine.score("tiny", HELLO, 1, 151_936) == [row[0] for row in rows[1:]]
    assert await engine.score("tiny", HELLO, 6, 151_936) == [row[0] for row in rows[6:]]
    assert msgspec.json.decode(wire.requests[1][2])["logprob_start_len"] == 5
    with pytest.raises(ProviderError, match="other ids"):
        await engine.score("tiny", HELLO[:-1] + array("i", [7]), 3, 151_936)
    with pytest.raises(ValueError, match="begin at 1"):
        await engine.score("tiny", HELLO, 0, 151_936)


# --- the SGLang double


@pytest.fixture
async def double() -> AsyncIterator[SGLangDouble]:
    made = SGLangDouble(small_tokenizer())
    yield made
    made.close()


def to_double(http: Http, double: SGLangDouble, **more: Any) -> tuple[SGLang, TokenRequest]:
    ids = array("i", small_tokenizer().encode("hello there"))
    asked = request(ids=ids, vocab_size=double.vocab_size, stop_token_ids=(), **more)
    return SGLang(http, Endpoint("sglang", double.base_url)), asked


@pytest.mark.parametrize("incremental", [True, False])
async def test_scores_equal_what_was_sampled(http: Http, double: SGLangDouble, incremental: bool) -> None:
    double.incremental = incremental
    double.script(Completion(text="a longer answer, of many tokens\n" * 4, batch=3))
    engine, asked = to_double(http, double, max_tokens=60, top_logprobs=2)
    got = await collect(engine, asked)
    assert len(got.ids) == 60 and got.done is not None and got.done.finish.type == "length"
    full = asked.ids + array("i", got.ids)
    assert await engine.score("tiny", full, len(asked.ids), double.vocab_size) == got.logprobs
    assert all(len(top) == 2 and top[0] >= top[1] for top in got.tops)


async def test_closing_aborts_by_name_and_by_disconnecting(http: Http, double: SGLangDouble) -> None:
    double.script(Completion(text="slow and long " * 50, pause_s=0.02))
    engine, asked = to_double(http, double, max_tokens=400)
    stream = engine.generate(asked)
    assert isinstance(await anext(stream), TokenBatch)
    await stream.aclose()
    await engine.close()
    assert double.aborts == [asked.request_id] and len(asked.request_id) == 32
    await asyncio.sleep(0.1)
    assert not double._running


async def test_cancelling_before_an_answer_aborts_by_name(http: Http, wire: Wire) -> None:
    wire.answers = [[5.0]]
    wire.apart["POST /abort_request"] = answer(200, b"")
    engine, asked = SGLang(http, Endpoint("sglang", wire.url)), request()
    waiting = asyncio.create_task(collect(engine, asked))
    while not wire.requests:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await engine.close()
    line, _, body = wire.requests[-1]
    assert line == "POST /abort_request" and msgspec.json.decode(body)["rid"] == asked.request_id


@pytest.mark.parametrize("incremental", [True, False])
async def test_an_answer_paused_for_new_weights_goes_on(http: Http, double: SGLangDouble, incremental: bool) -> None:
    double.incremental = incremental
    first, rest = "the weights change ", "and it goes on"
    held = len(small_tokenizer().encode(first))
    double.script(
        Completion(text=first, finish="abort", batch=1, versions=(("7", held),)),
        Completion(text=rest, batch=2, versions=(("8", 100),)),
    )
    engine, asked = to_double(http, double, max_tokens=60, top_logprobs=2)
    got = Got()
    async for item in resumed(engine, asked):
        if isinstance(item, TokenDone):
            got.done = item
        else:
            got.ids, got.logprobs = got.ids + item.ids, got.logprobs + item.logprobs
            got.tops += item.top_logprobs or []
    assert got.done is not None and got.done.finish.type == "stop"
    assert small_tokenizer().decode(got.ids[:-1]) == first + rest and len(got.tops) == len(got.ids)
    full = asked.ids + array("i", got.ids)
    assert await engine.score("tiny", full, len(asked.ids), double.vocab_size) == got.logprobs
    assert got.done.versions == (VersionSpan("7", 0, held), VersionSpan("8", held, len(got.ids)))
    again = double.requests[1]
    assert again["input_ids"] == full[: len(asked.ids) + held].tolist()
    assert again["sampling_params"]["max_new_tokens"] == 60 - held
    assert [each.engine_request_id for each in got.done.attempts] == [body["rid"] for body in double.requests[:2]]
    await engine.close()
    assert double.aborts == []


async def test_sglang_retractions_do_not_double_ids(http: Http, wire: Wire) -> None:
    """A retracted request is prefilled again; frames may then tell again what they told before."""
    frames = sample("sglang-stream-cumulative")["frames"]
    for at, frame in enumerate(frames[:-1]):
        frame["meta_info"]["num_retractions"] = int(at > 0)
    told = frames[-2]["meta_info"]["output_token_logprobs"]
    wire.answers = [one_by_one([*frames[:2], frames[1], *frames[2:]])]
    got = await collect(SGLang(http, Endpoint("sglang", wire.url)), request())
    assert list(zip(got.logprobs, got.ids, strict=True)) == [(row[0], row[1]) for row in told]
    assert got.done is not None and got.done.retractions == 1


async def test_a_finished_stream_is_not_aborted(http: Http, double: SGLangDouble) -> None:
    engine, asked = to_double(http, double)
    await collect(engine, asked)
    await engine.close()
    assert double.aborts == []


async def test_a_stream_that_dies_is_an_error(http: Http, double: SGLangDouble) -> None:
    double.script(Completion(text="this will not end well", batch=2, fail_after=4))
    engine, asked = to_double(http, double)
    with pytest.raises(ProviderError) as failed:
        await collect(engine, asked)
    assert failed.value.kind == "llm_connection" and len(double.requests) == 1


async def test_another_attempt_has_another_rid(http: Http, wire: Wire) -> None:
    wire.answers = [answer(503, {}), streamed(sample("sglang-stream-cumulative")["frames"])]
    asked = request()
    got = await collect(SGLang(http, Endpoint("sglang", wire.url)), asked)
    rids = [msgspec.json.decode(body)["rid"] for _, _, body in wire.requests]
    assert rids[0] == asked.request_id != rids[1] and len(rids[1]) == 32
    assert got.done is not None and got.done.engine_request_id == rids[1]


async def test_sglang_asks_again_while_no_id_came_and_aborts_what_it_abandons(http: Http, double: SGLangDouble) -> None:
    double.script(Completion(text="lost", fail_after=0), Completion(text="lost too", fail_after=0), "here it is")
    engine, asked = to_double(http, double)
    got = await collect(engine, asked)
    assert small_tokenizer().decode(got.ids[:-1]) == "here it is"
    rids = [body["rid"] for body in double.requests]
    assert rids[0] == asked.request_id and len(set(rids)) == 3
    assert got.done is not None and got.done.engine_request_id == rids[2]
    assert msgspec.json.decode(got.done.request)["rid"] == rids[2]  # what is on record is what was answered
    await engine.close()
    assert sorted(double.aborts) == sorted(rids[:2])


async def test_sglang_goes_on_after_a_pause_over_a_broken_connection(http: Http, double: SGLangDouble) -> None:
    """What was sampled before the pause is the prompt of the next request, of which no id came yet."""
    first, rest = "the weights change ", "and it goes on"
    double.script(
        Completion(text=first, finish="abort", batch=1), Completion(text=rest, fail_after=0), Completion(text=rest)
    )
    engine, asked = to_double(http, double, max_tokens=60)
    ids: list[int] = []
    async for item in resumed(engine, asked):
        ids += item.ids if isinstance(item, TokenBatch) else []
    assert small_tokenizer().decode(ids[:-1]) == first + rest
    again, at_last = double.requests[1:]
    assert again["input_ids"] == at_last["input_ids"] and again["rid"] != at_last["rid"]
    await engine.close()
    assert double.aborts == [again["rid"]]


@pytest.mark.parametrize(("status", "asked_times"), [(503, 3), (400, 1)])
async def test_sglang_a_refusal_as_the_end_of_a_stream(http: Http, wire: Wire, status: int, asked_times: int) -> None:
    meta = {"finish_reason": {"type": "abort", "message": "no", "status_code": status}, "completion_tokens": 0}
    wire.answers = [streamed([{"text": "", "output_ids": [], "meta_info": meta}, "[DONE]"])]
    engine = SGLang(http, Endpoint("sglang", wire.url))
    with pytest.raises(ProviderError) as failed:
        await collect(engine, request())
    await engine.close()
    assert failed.value.retryable is (status == 503)
    assert [line for line, _, _ in wire.requests] == ["POST /generate"] * asked_times  # it has ended: nothing to abort


# --- vLLM


async def test_vllm_request_as_sent_and_its_stream(http: Http, wire: Wire) -> None:
    frames = sample("vllm-generate-stream")["frames"]
    wire.answers = [one_by_one(frames)]
    asked = request(temperature=0.0, stop_token_ids=(1, 2), max_tokens=3)
    got = await collect(VLLM(http, Endpoint("vllm", wire.url)), asked)
    line, _, body = wire.requests[0]
    assert line == "POST /inference/v1/generate"
    assert msgspec.json.decode(body) == {
        "model": "tiny",
        "request_id": asked.request_id,
        "token_ids": list(HELLO),
        "stream": True,
        "stream_options": {"include_usage": True},
        "sampling_params": {
            "temperature": 0.0,
            "max_tokens": 3,
            "stop_token_ids": [1, 2],
            "logprobs": 1,
            "skip_special_tokens": False,
        },
    }
    assert got.ids == [55098, 148637, 11987]
    assert got.logprobs == pytest.approx([-1.73363519, -2.27366996, -2.29449916])
    assert got.done is not None and got.done.finish.type == "length"
    assert got.done.versions == (VersionSpan("default", 0, 3),)
    assert got.done.engine_request_id == frames[0]["request_id"]


async def test_vllm_falls_back_to_completions_once_and_for_all(http: Http, wire: Wire) -> None:
    frames = sample("vllm-completions-stream")["frames"]
    for frame in frames[:-1]:
        for choice in frame["choices"]:  # as asked for with return_tokens_as_token_ids
            token = f"token_id:{choice['token_ids'][0]}"
            choice["logprobs"]["tokens"] = [token]
            choice["logprobs"]["top_logprobs"] = [{token: choice["logprobs"]["token_logprobs"][0]}]
    wire.answers = [answer(403, sample("vllm-generate-not-enabled")["response"]), streamed(frames)]
    engine = VLLM(http, Endpoint("vllm", wire.url))
    for _ in range(2):
        got = await collect(engine, request(top_logprobs=1))
        assert got.ids == [55098, 148637, 11987] and got.tops[0] == [(got.logprobs[0], 55098)]
        assert got.done is not None and got.done.prompt_tokens == 9
    assert [line for line, _, _ in wire.requests] == [
        "POST /inference/v1/generate",
        "POST /v1/completions",
        "POST /v1/completions",
    ]
    sent = msgspec.json.decode(wire.requests[1][2])
    assert sent["prompt"] == list(HELLO) and sent["return_token_ids"] is sent["return_tokens_as_token_ids"] is True
    assert sent["max_tokens"] == 16 and sent["stop_token_ids"] == [151645] and sent["skip_special_tokens"] is False


async def test_vllm_stops_and_aborts(http: Http, wire: Wire) -> None:
    told = sample("vllm-generate-stop-token")["response"]
    engine = VLLM(http, Endpoint("vllm", wire.url))
    wire.answers = [streamed([told, "[DONE]"])]
    got = await collect(engine, request())
    assert got.done is not None and got.done.finish == Finish("stop", 124573, "stop")
    assert got.ids[-1] == 124573 and len(got.ids) == 4
    wire.answers = [streamed(sample("vllm-generate-abort-last-frames")["frames"])]
    got = await collect(engine, request())
    assert got.done is not None and got.done.finish.type == "abort"


async def test_vllm_older_logprobs_name_ids_in_text(http: Http, wire: Wire) -> None:
    token = {"token": "token_id:7", "logprob": -0.5, "top_logprobs": [{"token": "token_id:7", "logprob": -0.5}]}
    choice = {
        "index": 0,
        "token_ids": [7],
        "logprobs": {"content": [token]},
        "finish_reason": "stop",
        "stop_reason": None,
    }
    wire.answers = [streamed([{"request_id": "r", "choices": [choice]}, "[DONE]"])]
    got = await collect(VLLM(http, Endpoint("vllm", wire.url)), request(top_logprobs=1))
    assert (got.ids, got.logprobs, got.tops) == ([7], [-0.5], [[(-0.5, 7)]])
    assert got.done is not None and got.done.finish == Finish("stop", 7, "stop")


@pytest.mark.parametrize("change", [{"logprob": -9999.0}, {"token_id": 8}, {"token_id": None, "token": "seven"}])
async def test_vllm_records_that_do_not_add_up_are_errors(http: Http, wire: Wire, change: dict[str, Any]) -> None:
    token = {"token_id": 7, "logprob": -0.5} | change
    choice = {"index": 0, "token_ids": [7], "logprobs": {"content": [token]}, "finish_reason": "stop"}
    wire.answers = [streamed([{"request_id": "r", "choices": [choice]}, "[DONE]"])]
    with pytest.raises(ProviderError):
        await collect(VLLM(http, Endpoint("vllm", wire.url)), request())


async def test_vllm_abort_names_the_engines_own_id(http: Http, wire: Wire) -> None:
    frames = sample("vllm-generate-stream")["frames"]
    wire.answers = [[HEAD + chunk(as_stream(frames[:1])), 5.0], answer(200, b"")]
    engine = VLLM(http, Endpoint("vllm", wire.url))
    stream = engine.generate(request())
    await anext(stream)
    await stream.aclose()
    await engine.close()
    line, _, body = wire.requests[-1]
    assert line == "POST /inference/v1/abort_requests"
    assert msgspec.json.decode(body) == {"request_ids": [frames[0]["request_id"]]}


async def test_vllm_asks_again_while_no_id_came_and_aborts_what_it_abandons(http: Http, wire: Wire) -> None:
    frames = sample("vllm-generate-stream")["frames"]
    named = {"request_id": "generate-tokens-1", "choices": []}
    wire.answers = [
        [HEAD + chunk(as_stream([named])), None],
        streamed([{"error": {"message": "Oops"}}]),
        streamed(frames),
    ]
    wire.apart["POST /inference/v1/abort_requests"] = answer(200, b"")
    engine = VLLM(http, Endpoint("vllm", wire.url))
    asked = request()
    got = await collect(engine, asked)
    await engine.close()
    assert got.ids == [55098, 148637, 11987]
    sent = [msgspec.json.decode(body) for line, _, body in wire.requests if line == "POST /inference/v1/generate"]
    ids = [each["request_id"] for each in sent]
    assert ids[0] == asked.request_id and len(set(ids)) == 3
    aborted = [msgspec.json.decode(body) for line, _, body in wire.requests if "abort" in line]
    assert aborted == [{"request_ids": ["generate-tokens-1"]}]  # the other had no name, and its connection is gone


async def test_vllm_asks_again_by_completions_too(http: Http, wire: Wire) -> None:
    """The other route is no attempt; the choice of it is kept over attempts."""
    token = {"tokens": ["token_id:7"], "token_logprobs": [-0.5], "top_logprobs": [{"token_id:7": -0.5}]}
    frame = {"id": "cmpl-1", "choices": [{"token_ids": [7], "logprobs": token, "finish_reason": "stop"}]}
    wire.answers = [answer(404, {}), [HEAD, None], [HEAD, None], streamed([frame, "[DONE]"])]
    got = await collect(VLLM(http, Endpoint("vllm", wire.url)), request())
    assert got.ids == [7]
    assert [line for line, _, _ in wire.requests] == ["POST /inference/v1/generate", *["POST /v1/completions"] * 3]


async def test_vllm_scores_by_either_route(http: Http, wire: Wire) -> None:
    engine = VLLM(http, Endpoint("vllm", wire.url))
    wire.answers = [
        answer(200, sample("vllm-generate-prompt-logprobs")["response"]),
        answer(404, {}),
        answer(200, sample("vllm-completions-prompt-logprobs")["response"]),
    ]
    first = await engine.score("tiny", HELLO, 5, 151_936)
    assert first == pytest.approx([-22.538972, -17.498601, -18.183998, -16.502445], abs=1e-5)
    assert await engine.score("tiny", HELLO, 5, 151_936) == pytest.approx(first)


async def test_vllm_a_prompt_too_long(http: Http, wire: Wire) -> None:
    wire.answers = [answer(400, sample("vllm-error-too-long")["response"])]
    with pytest.raises(ProviderError) as failed:
        await collect(VLLM(http, Endpoint("vllm", wire.url)), request())
    assert failed.value.kind == "context_window_exceeded"


# --- llama.cpp (more in tests/engines, against the real one)


def piece(ids: list[int], *, told: list[int] | None = None, stop_type: str = "limit", **more: Any) -> dict[str, Any]:
    probs = [
        {"id": token_id, "logprob": -token_id / 10, "top_logprobs": []} for token_id in (ids if told is None else told)
    ]
    return {"tokens": ids, "completion_probabilities": probs, "stop_type": stop_type, "id_slot": 1, **more}


async def test_llamacpp_request_as_sent_and_pieces_that_go_on(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, piece([1, 2])), answer(200, piece([3], stop_type="eos", timings={"cache_n": 4}))]
    got = await collect(
        LlamaCpp(http, Endpoint("llamacpp", wire.url)), request(temperature=0.5, seed=9, stop_token_ids=())
    )
    assert (got.ids, got.logprobs) == ([1, 2, 3], [-0.1, -0.2, -0.3])
    assert got.done is not None and got.done.finish == Finish("stop", 3, "eos")
    first, second = (msgspec.json.decode(body) for _, _, body in wire.requests)
    assert wire.requests[0][0] == "POST /completion"
    assert first == {
        "prompt": list(HELLO),
        "n_predict": 2,
        "n_probs": 1,
        "return_tokens": True,
        "cache_prompt": True,
        "repeat_penalty": 1.0,
        "temperature": 0.5,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
        "seed": 9,
    }
    assert second["prompt"] == [*HELLO, 1, 2] and second["seed"] == 11 and second["id_slot"] == 1
    assert 4 <= second["n_predict"] <= 14


CUT = [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{", None]


async def test_llamacpp_asks_again_while_no_id_came(http: Http, wire: Wire) -> None:
    wire.answers = [CUT, [HEAD + END], answer(200, piece([3], stop_type="eos"))]
    got = await collect(LlamaCpp(http, Endpoint("llamacpp", wire.url)), request(stop_token_ids=()))
    assert got.ids == [3] and len({body for _, _, body in wire.requests}) == 1 and len(wire.requests) == 3


async def test_llamacpp_a_later_piece_that_breaks_off_is_final(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, piece([1, 2])), CUT]
    got: list[int] = []
    with pytest.raises(ProviderError) as failed:
        async for item in LlamaCpp(http, Endpoint("llamacpp", wire.url)).generate(request(stop_token_ids=())):
            got += item.ids if isinstance(item, TokenBatch) else []
    assert got == [1, 2] and not failed.value.retryable and len(wire.requests) == 2


async def test_llamacpp_defaults_are_the_servers_own(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, piece([3], stop_type="eos"))]
    await collect(LlamaCpp(http, Endpoint("llamacpp", wire.url)), request())
    assert not {"temperature", "samplers", "top_k", "stop"} & set(msgspec.json.decode(wire.requests[0][2]))


async def test_llamacpp_asks_for_logprobs_that_were_left_out(http: Http, wire: Wire) -> None:
    """Ids 5 and 6 end inside a character: nothing is told of them until they are looked for among the likeliest."""
    listed = [{"id": 6, "logprob": -4.5}, {"id": 5, "logprob": -3.5}]
    plain = {"tokens": [81], "completion_probabilities": [{"id": 81, "logprob": -1, "top_logprobs": listed}]}
    wire.answers = [
        answer(200, piece([5, 6, 7], told=[7], stop_type="eos")),
        answer(200, {"tokens": [5], "stop_type": "limit"}),
        answer(200, {"tokens": [81]}),
        answer(200, plain),
        answer(200, {"tokens": [6], "stop_type": "limit"}),
        answer(200, plain),
    ]
    got = await collect(LlamaCpp(http, Endpoint("llamacpp", wire.url)), request(stop_token_ids=()))
    assert (got.ids, got.logprobs) == ([5, 6, 7], [-3.5, -4.5, -0.7])
    forced = [msgspec.json.decode(body) for line, _, body in wire.requests[1:] if line == "POST /completion"]
    assert [(each["prompt"][len(HELLO) :], each["logit_bias"]) for each in forced] == [
        ([], [[5, 1000.0]]),
        ([], [[81, 1000.0]]),
        ([5], [[6, 1000.0]]),
        ([5], [[81, 1000.0]]),
    ]


async def test_llamacpp_a_logprob_goes_only_where_it_belongs_for_certain(http: Http, wire: Wire) -> None:
    """Of two equal ids one was told: which of them cannot be known, so both are asked for."""
    wire.answers = [
        answer(200, piece([4, 4, 7], told=[4, 7], stop_type="eos")),
        answer(200, piece([4], told=[4])),
    ]
    got = await collect(LlamaCpp(http, Endpoint("llamacpp", wire.url)), request(stop_token_ids=()))
    assert got.ids == [4, 4, 7] and len(wire.requests) == 3


LAZY = {"kind": "gbnf_lazy", "grammar": "root ::= all", "rest": "root ::= rest", "triggers": ["<tool_call>"]}


async def test_llamacpp_an_answer_under_a_grammar_is_one_request(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, piece([3], stop_type="eos"))]
    grammar = {"kind": "gbnf", "grammar": "root ::= x"}
    await collect(LlamaCpp(http, Endpoint("llamacpp", wire.url)), request(grammar=grammar, max_tokens=500))
    sent = msgspec.json.decode(wire.requests[0][2])
    assert sent["n_predict"] == 500 and sent["grammar"] == "root ::= x"


@pytest.mark.parametrize(
    ("text", "constrained"), [("so <tool_call>", True), ("<tool_call>\n", True), ("<tool_call>{", False)]
)
async def test_llamacpp_a_lazy_grammar_comes_in_pieces_up_to_its_trigger(
    http: Http, wire: Wire, text: str, constrained: bool
) -> None:
    wire.answers = [
        answer(200, piece([1, 2], content="hello ")),
        answer(200, piece([3, 4], content="so ", stop_type="word")),
        answer(200, {"content": text}),
        answer(200, piece([5], stop_type="eos")),
    ]
    got = await collect(LlamaCpp(http, Endpoint("llamacpp", wire.url)), request(grammar=LAZY, max_tokens=500))
    assert got.ids == [1, 2, 3, 4, 5]
    first, second, detokenize, last = (msgspec.json.decode(body) for _, _, body in wire.requests)
    for sent in (first, second):
        assert sent["stop"] == sent["preserved_tokens"] == ["<tool_call>"] and "grammar" not in sent
    assert detokenize == {"tokens": [3, 4]}
    assert last["prompt"] == [*HELLO, 1, 2, 3, 4] and "stop" not in last
    assert last.get("grammar") == ("root ::= rest" if constrained else None)
    assert (last["n_predict"] == 496) is constrained


async def test_llamacpp_a_trigger_in_two_requests(http: Http, wire: Wire) -> None:
    """While it may be half written, tokens come one by one."""
    wire.answers = [
        answer(200, piece([1, 2], content="a <tool")),
        answer(200, piece([3], content="_call")),
        answer(200, piece([4], content=">")),
        answer(200, {"content": ">"}),
        answer(200, piece([5], stop_type="eos")),
    ]
    await collect(LlamaCpp(http, Endpoint("llamacpp", wire.url)), request(grammar=LAZY, max_tokens=500))
    sent = [msgspec.json.decode(body) for line, _, body in wire.requests if line == "POST /completion"]
    assert [each["n_predict"] for each in sent] == [2, 1, 1, 496]
    assert sent[3]["grammar"] == "root ::= rest"


@pytest.mark.parametrize(
    ("last", "finish"),
    [
        (piece([1, 9, 2]), Finish("stop", 9, "limit")),
        (piece([1, 2], stop_type="eos"), Finish("stop", 2, "eos")),
        (piece([1] * 16), Finish("length", None, "limit")),
        (piece([1]), Finish("length", None, "limit")),
        (piece([], stop_type="none"), Finish("abort", None, "none")),
    ],
)
async def test_llamacpp_endings(http: Http, wire: Wire, last: dict[str, Any], finish: Finish) -> None:
    wire.answers = [answer(200, last)]
    got = await collect(LlamaCpp(http, Endpoint("llamacpp", wire.url)), request(stop_token_ids=(9,)))
    assert got.done is not None and got.done.finish == finish
    assert got.ids == ([1, 9] if finish.matched == 9 else last["tokens"])


async def test_llamacpp_a_prompt_too_long(http: Http, wire: Wire) -> None:
    wire.answers = [answer(400, sample("llamacpp-error-too-long")["response"])]
    with pytest.raises(ProviderError) as failed:
        await collect(LlamaCpp(http, Endpoint("llamacpp", wire.url)), request())
    assert failed.value.kind == "context_window_exceeded"


async def test_llamacpp_a_recorded_answer(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, sample("llamacpp-limit")["response"])]
    got = await collect(LlamaCpp(http, Endpoint("llamacpp", wire.url)), request(max_tokens=3, stop_token_ids=()))
    assert got.ids == [19556, 665, 30] and got.logprobs == pytest.approx([-1.86527, -0.84527, -1.05765], abs=1e-4)


@pytest.mark.parametrize(("kind", "grammar"), [("sglang", "gbnf_lazy"), ("vllm", "gbnf_lazy"), ("llamacpp", "regex")])
async def test_a_grammar_an_engine_cannot_keep_is_refused(http: Http, wire: Wire, kind: str, grammar: str) -> None:
    asked = request(grammar={"kind": grammar, "grammar": "", "triggers": [], "pattern": ""})
    with pytest.raises(ProviderError, match=grammar):
        await collect(ENGINES[kind](http, Endpoint("e", wire.url)), asked)
    assert wire.requests == []
