"""What every provider's batch API must be to those who hand calls in: taken once, found again, answered call by call."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from perdure.core.errors import ProviderError
from perdure.core.ids import new_id, now_us
from perdure.providers import azure_batches
from perdure.providers.anthropic_batches import AnthropicBatches
from perdure.providers.azure_batches import AzureBatches
from perdure.providers.batch_apis import batch_api
from perdure.providers.batches import Ask, BatchApi, Handed, Look, Result
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_batches import PAGE
from perdure.providers.profiles import profile_of
from tests.doubles import anthropic
from tests.doubles.anthropic import AnthropicDouble
from tests.doubles.azure_batches import AzureDouble
from tests.doubles.gemini import GeminiDouble
from tests.doubles.mistral_batches import MistralDouble
from tests.doubles.openai_chat import OpenAIDouble, failure, text
from tests.doubles.together_batches import TogetherDouble
from tests.doubles.xai_batches import XaiDouble

Double = OpenAIDouble | AnthropicDouble
OLDER = "2024-10-21"


class Place:
    """`kind`: of the provider; "azure older" is Azure's older API."""

    def __init__(self, kind: str, double: Double, http: Http) -> None:
        self.kind = kind
        self.double = double
        self.routes: Any = double.batches
        self.path = PATHS.get(kind, "/chat/completions")
        profile = profile_of(kind.split()[0]).batches
        assert profile is not None
        headers = {"x-api-key": "k", "Authorization": "Bearer k"}
        endpoint = Endpoint(kind, double.base_url.removesuffix("/v1") + ROOTS.get(kind, "/v1"), headers=headers)
        self.api: BatchApi = batch_api(http, endpoint, profile, api_version=OLDER if "older" in kind else None)
        if isinstance(self.api, AzureBatches):
            self.api.look_s = 0.0

    def asks(self, *words: str) -> list[Ask]:
        return [Ask(new_id("call"), msgspec.json.encode(self.body(word))) for word in words]

    def body(self, word: str) -> dict[str, Any]:
        if self.kind == "google_ai":
            return {"contents": [{"role": "user", "parts": [{"text": word}]}]}
        return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": word}]}

    async def hand_in(self, asks: list[Ask]) -> tuple[Handed, str]:
        handed = Handed(id=new_id("batch"), path=self.path, model="m", headers={}, created_us=now_us(), count=len(asks))
        handed = msgspec.structs.replace(handed, file=await self.api.upload(handed, asks))
        return handed, await self.api.create(handed, asks)

    async def ended(self, remote_id: str) -> Look:
        while (look := await self.api.look(remote_id)).state == "going":
            await asyncio.sleep(0)
        return look

    async def results(self, remote_id: str) -> dict[str, Result]:
        look = await self.ended(remote_id)
        return {result.id: result async for result in self.api.results(look)}


def answers(body: dict[str, Any]) -> dict[str, Any]:
    word = body["messages"][0]["content"] if "messages" in body else body["contents"][0]["parts"][0]["text"]
    return failure(429, {"error": {"message": "Too fast."}}) if word == "fast" else text(f"You said {word}.")


def claude_answers(body: dict[str, Any]) -> dict[str, Any]:
    word = body["messages"][0]["content"]
    if word == "fast":
        return anthropic.failure(429, "rate_limit_error", "Too fast.")
    return anthropic.text(f"You said {word}.")


PATHS = {
    "anthropic": "/messages",
    "azure older": f"/deployments/m/chat/completions?api-version={OLDER}",
    "google_ai": "/models/m:generateContent",
}
ROOTS = {"azure": "/openai/v1", "azure older": "/openai", "google_ai": "/v1beta"}
DOUBLES: dict[str, Callable[[], Double]] = {
    "openai": OpenAIDouble,
    "moonshot": OpenAIDouble,
    "azure": AzureDouble,
    "azure older": partial(AzureDouble, older=True),
    "mistral": MistralDouble,
    "together": TogetherDouble,
    "xai": XaiDouble,
    "google_ai": GeminiDouble,
    "anthropic": AnthropicDouble,
}
SAYS_BUSY = ("openai", "moonshot", "azure", "azure older")


@pytest.fixture(params=list(DOUBLES))
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    double = await asyncio.to_thread(DOUBLES[request.param])
    double.default = claude_answers if request.param == "anthropic" else answers
    http = Http()
    yield Place(request.param, double, http)
    await http.close()
    await asyncio.to_thread(double.close)


async def test_each_call_has_its_own_result(place: Place) -> None:
    place.routes.expire = "late"
    good, fast, late = asks = place.asks("good", "fast", "late")
    _, remote_id = await place.hand_in(asks)
    results = await place.results(remote_id)
    assert set(results) | {late.id} == {ask.id for ask in asks}
    assert results[good.id].status == 200
    assert b"You said good." in results[good.id].body
    assert (results[fast.id].status, results[fast.id].final) == (429, False)
    assert b"Too fast." in results[fast.id].body
    if late.id in results:  # others leave out what they did not come to
        assert (results[late.id].status, results[late.id].final) == (504, True)


async def test_a_batch_is_found_among_others_and_only_if_it_was_made(place: Place) -> None:
    asks = place.asks("a", "b")
    handed, remote_id = await place.hand_in(asks)
    for _ in range(PAGE + 1):  # more than one page of others
        await place.api.create(
            msgspec.structs.replace(handed, id=new_id("batch"), file="file-x" if handed.file else None), asks[:1]
        )
    assert await place.api.find(handed) == remote_id
    never = msgspec.structs.replace(handed, id=new_id("batch"), file="file-y" if handed.file else None, count=7)
    assert await place.api.find(never) is None


async def test_a_cancelled_batch_ends_and_cancelling_it_again_is_no_error(place: Place) -> None:
    place.routes.gate = threading.Event()
    _, remote_id = await place.hand_in(place.asks("a"))
    assert (await place.api.look(remote_id)).state == "going"
    await place.api.cancel(remote_id)
    assert (await place.ended(remote_id)).state == "ended"
    await place.api.cancel(remote_id)


async def test_a_batch_that_is_not_accepted_says_why(place: Place) -> None:
    same = place.asks("a")[0]
    if isinstance(place.api, AnthropicBatches):
        with pytest.raises(ProviderError) as refused:
            await place.hand_in([same, same])
        assert refused.value.status == 400
        return
    place.routes.fail = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached."}
    _, remote_id = await place.hand_in([same])
    look = await place.ended(remote_id)
    assert (look.state, look.error) == ("failed", "Enqueued token limit reached.")
    assert look.busy == (place.kind in SAYS_BUSY)


async def test_a_batch_that_only_looks_like_it_is_passed_by_once_that_is_known() -> None:
    double = await asyncio.to_thread(AnthropicDouble)
    http = Http()
    place = Place("anthropic", double, http)
    handed, remote_id = await place.hand_in(place.asks("a", "b"))
    other = double.batches.make([{}, {}])["id"]
    assert await place.api.find(handed) == other
    assert await place.api.find(msgspec.structs.replace(handed, others=(other,))) == remote_id
    await http.close()
    await asyncio.to_thread(double.close)


@pytest.fixture
async def azure() -> AsyncIterator[Place]:
    double = await asyncio.to_thread(AzureDouble)
    double.default = answers
    http = Http()
    yield Place("azure", double, http)
    await http.close()
    await asyncio.to_thread(double.close)


async def test_a_file_that_azure_cannot_read_is_refused_for_good(azure: Place) -> None:
    azure.routes.unreadable = True
    with pytest.raises(ProviderError, match="Not JSONL") as refused:
        await azure.hand_in(azure.asks("a"))
    assert refused.value.status == 400


async def test_a_file_that_azure_has_not_read_is_waited_for(azure: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.routes.reading = 5
    handed, _ = await azure.hand_in(azure.asks("a"))
    monkeypatch.setattr(azure_batches, "READ_S", 0.0)
    azure.routes.reading = 50
    with pytest.raises(ProviderError, match="still reading") as later:
        await azure.api.create(handed, [])
    assert later.value.status is None  # so it is tried again


async def test_xai_is_not_asked_for_what_it_would_answer_otherwise() -> None:
    double = await asyncio.to_thread(XaiDouble)
    http = Http()
    place = Place("xai", double, http)
    place.path = "/responses"
    with pytest.raises(ProviderError, match="chat completions only") as refused:
        await place.hand_in(place.asks("a"))
    assert (refused.value.status, double.batches.batches) == (400, {})
    await http.close()
    await asyncio.to_thread(double.close)
