"""Routed experts as engines tell them: recorded answers of a real SGLang, the double of it, and what is refused."""

import base64
import struct
from array import array
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from perdure.core.errors import ProviderError
from perdure.core.experts import numbers
from perdure.providers.base import TokenDone, TokenRequest
from perdure.providers.experts import ExpertsAsked
from perdure.providers.http import Endpoint, Http
from perdure.providers.llamacpp import LlamaCpp
from perdure.providers.resume import resumed
from perdure.providers.scripted import Completion, scripted_experts
from perdure.providers.sglang import SGLang
from perdure.providers.vllm import VLLM
from tests.contract.providers.test_token_engines import HELLO, collect, request, to_double
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer
from tests.doubles.wire import Wire, answer, sample, streamed

TINY = ExpertsAsked(layers=2, top_k=2, num_experts=8)  # of the model the samples are recorded with


def asked_again(start: int) -> ExpertsAsked:
    return msgspec.structs.replace(TINY, start=start)


# --- SGLang


async def test_sglang_tells_all_ids_but_the_last_and_then_only_the_new_ones(http: Http, wire: Wire) -> None:
    told = sample("sglang-routed-experts")
    wire.answers = [streamed(told["frames"]), streamed(told["next"]["frames"])]
    engine = SGLang(http, Endpoint("sglang", wire.url))
    first = await collect(engine, request(experts=TINY))
    assert first.done is not None and first.done.experts is not None
    rows = first.done.experts
    assert (rows.start, rows.count, rows.dtype) == (0, len(HELLO) + len(first.ids) - 1, "uint8")
    raw = base64.b64decode(told["frames"][-2]["meta_info"]["routed_experts"])
    assert numbers(rows)[0] == [list(struct.unpack("<2i", raw[at : at + 8])) for at in (0, 8)]
    following = array("i", told["next"]["request"]["input_ids"])
    then = await collect(engine, request(ids=following, experts=asked_again(rows.start + rows.count)))
    assert then.done is not None and then.done.experts is not None
    assert then.done.experts.start == rows.count
    assert then.done.experts.start + then.done.experts.count == len(following) + len(then.ids) - 1
    sent = [msgspec.json.decode(body) for _, _, body in wire.requests]
    assert all(body["return_routed_experts"] is True for body in sent)
    assert [body["routed_experts_start_len"] for body in sent] == [0, rows.count]


async def test_sglang_is_not_asked_for_what_nobody_wants(http: Http, wire: Wire) -> None:
    wire.answers = [streamed(sample("sglang-routed-experts")["frames"])]
    got = await collect(SGLang(http, Endpoint("sglang", wire.url)), request())
    assert got.done is not None and got.done.experts is None
    assert not {"return_routed_experts", "routed_experts_start_len"} & msgspec.json.decode(wire.requests[0][2]).keys()


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (ExpertsAsked(), "model_settings.routed_experts_shape"),
        (ExpertsAsked(layers=3, top_k=2), "Does the model have another shape"),
        (ExpertsAsked(start=1, layers=2, top_k=2), "Does the model have another shape"),
    ],
)
async def test_sglang_rows_of_another_shape_are_refused(http: Http, wire: Wire, wanted: ExpertsAsked, why: str) -> None:
    wire.answers = [streamed(sample("sglang-routed-experts")["frames"])]
    with pytest.raises(ProviderError, match=why):
        await collect(SGLang(http, Endpoint("sglang", wire.url)), request(experts=wanted))


def no_base64(told: str) -> str:
    return told[:-4] + "!!!!"


def below_zero(told: str) -> str:
    return base64.b64encode(struct.pack("<i", -1) + base64.b64decode(told)[4:]).decode()


@pytest.mark.parametrize("damage", [no_base64, below_zero])
async def test_sglang_rows_that_cannot_be_are_refused(http: Http, wire: Wire, damage: Callable[[str], str]) -> None:
    frames = sample("sglang-routed-experts")["frames"]
    frames[-2]["meta_info"]["routed_experts"] = damage(frames[-2]["meta_info"]["routed_experts"])
    wire.answers = [streamed(frames)]
    with pytest.raises(ProviderError, match="routed experts"):
        await collect(SGLang(http, Endpoint("sglang", wire.url)), request(experts=TINY))


# --- the SGLang double


@pytest.fixture
async def double() -> AsyncIterator[SGLangDouble]:
    made = SGLangDouble(small_tokenizer(), experts=(2, 2))
    yield made
    made.close()


@pytest.mark.parametrize("incremental", [True, False])
async def test_an_answer_paused_for_new_weights_has_each_row_once(
    http: Http, double: SGLangDouble, incremental: bool
) -> None:
    double.incremental = incremental
    double.script(
        Completion(text="the weights change ", finish="abort", batch=1),
        Completion(text="", finish="abort"),
        Completion(text="and it goes on", batch=2),
    )
    engine, asked = to_double(http, double, max_tokens=60, experts=TINY)
    ids: list[int] = []
    done: TokenDone | None = None
    async for item in resumed(engine, asked):
        if isinstance(item, TokenDone):
            done = item
        else:
            ids += item.ids
    assert done is not None and done.experts is not None and len(done.attempts) == 3
    assert done.experts == scripted_experts(asked.ids + array("i", ids), TINY)
    starts = [body["routed_experts_start_len"] for body in double.requests]
    assert starts == [0, *(len(body["input_ids"]) - 1 for body in double.requests[1:])]


async def test_a_server_that_does_not_capture_tells_none(http: Http, double: SGLangDouble) -> None:
    double.experts = None
    double.script("hello")
    engine, asked = to_double(http, double, max_tokens=60, experts=TINY)
    got = await collect(engine, asked)
    assert got.done is not None and got.done.experts is None


# --- vLLM


def npy(values: list[int], shape: tuple[int, ...], descr: str = "|u1", fortran: bool = False) -> str:
    """NumPy's file format, version 1."""
    header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    kind = {"|u1": "B", "<u2": "H", "<i4": "i"}[descr]
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    return base64.b64encode(head + array(kind, values).tobytes()).decode()


def vllm_frames(told: str | None, finish: str = "length") -> list[Any]:
    frames = sample("vllm-generate-stream")["frames"]
    last = next(frame for frame in reversed(frames) if isinstance(frame, dict) and frame["choices"])
    last["choices"][0] |= {"routed_experts": told, "finish_reason": finish}
    return frames


def vllm(http: Http, wire: Wire) -> VLLM:
    return VLLM(http, Endpoint("vllm", wire.url))


async def test_vllm_tells_an_array_with_its_shape(http: Http, wire: Wire) -> None:
    count = len(HELLO) + 3 - 1 - 4
    wire.answers = [
        streamed(vllm_frames(npy(list(range(count * 4)), (count, 2, 2)))),
        streamed(vllm_frames(npy([300 + at for at in range(count * 4)], (count, 2, 2), "<u2"))),
    ]
    for dtype, first in (("uint8", 0), ("uint16", 300)):
        got = await collect(vllm(http, wire), request(experts=ExpertsAsked(start=4)))
        assert got.done is not None and got.done.experts is not None and len(got.ids) == 3
        rows = got.done.experts
        assert (rows.start, rows.count, rows.layers, rows.top_k, rows.dtype) == (4, count, 2, 2, dtype)
        assert numbers(rows)[1] == [[first + 4, first + 5], [first + 6, first + 7]]
    sent = msgspec.json.decode(wire.requests[0][2])
    assert sent["sampling_params"]["routed_experts_prompt_start"] == 4


async def test_vllm_rows_that_nobody_asked_for_are_not_read(http: Http, wire: Wire) -> None:
    wire.answers = [streamed(vllm_frames("no base64"))]
    got = await collect(vllm(http, wire), request())
    assert got.done is not None and got.done.experts is None
    sent = msgspec.json.decode(wire.requests[0][2])
    assert "routed_experts_prompt_start" not in sent["sampling_params"]


@pytest.mark.parametrize(
    "told",
    [
        npy([0] * 40, (10, 2, 2)),
        npy([0] * 48, (12, 2, 2)),
        npy([0] * 44, (11, 4, 1)),
        npy([0] * 44, (11, 4)),
        npy([0] * 44, (11, 2, 2), "<i4"),
        npy([0] * 44, (11, 2, 2), fortran=True),
        base64.b64encode(b"no array").decode(),
    ],
)
async def test_vllm_arrays_that_do_not_fit_are_refused(http: Http, wire: Wire, told: str) -> None:
    wire.answers = [streamed(vllm_frames(told))]
    with pytest.raises(ProviderError, match="routed experts"):
        await collect(vllm(http, wire), request(experts=TINY))


async def test_vllm_may_leave_rows_out_of_an_answer_that_was_broken_off(http: Http, wire: Wire) -> None:
    wire.answers = [streamed(vllm_frames(npy([0] * 40, (10, 2, 2)), "abort"))]
    got = await collect(vllm(http, wire), request(experts=TINY))
    assert got.done is not None and got.done.experts is not None and got.done.experts.count == 10


# --- llama.cpp


async def test_llamacpp_says_that_it_cannot(http: Http, wire: Wire) -> None:
    wire.answers = [answer(200, {})]
    asked: TokenRequest = request(experts=TINY)
    with pytest.raises(ProviderError, match="return_routed_experts") as refused:
        await collect(LlamaCpp(http, Endpoint("llamacpp", wire.url)), asked)
    assert refused.value.kind == "llm_bad_request" and wire.connections == 0
