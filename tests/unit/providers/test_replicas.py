"""Several servers of one model: who is asked, who is asked next, and what the record says of it."""

import uuid
from array import array
from collections import Counter
from typing import Any

import pytest

from perdure.core.errors import ProviderError
from perdure.core.model import ModelDone
from perdure.core.tokens import VersionSpan
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.replicas import Replicas
from perdure.providers.scripted import Completion, ScriptedEngine
from perdure.tokens.qwen3 import Qwen3Renderer
from tests.doubles.conversations import call, message, model_of, prompt
from tests.doubles.tokenizers import small_tokenizer

QWEN3 = Qwen3Renderer(small_tokenizer())
DOWN = ProviderError("Cannot connect.", kind="llm_connection", retryable=True)
BUSY = ProviderError("Too many.", kind="llm_overloaded", retryable=True, status=503)
WRONG = ProviderError("No such setting.", kind="llm_bad_request", status=400)


class Server(ScriptedEngine):
    """`error`: raised for every request, before an answer; `serving` holds answers open until they are closed."""

    def __init__(self, name: str, version: str = "1") -> None:
        default = Completion(text="ok", versions=((version, 99),))
        super().__init__(QWEN3.tokenizer, stop_token_id=QWEN3.stop_token_ids[0], default=default)
        self.base_url = f"http://{name}"
        self.error: ProviderError | None = None
        self.asked: list[str] = []
        self.closed = False

    async def generate(self, request: TokenRequest) -> Any:
        self.asked.append(request.request_id)
        if self.error is not None:
            raise self.error
        async for item in super().generate(request):
            yield item

    async def score(self, model: str, ids: "array[int]", start: int, vocab_size: int) -> list[float]:
        if self.error is not None:
            raise self.error
        return await super().score(model, ids, start, vocab_size)

    async def close(self) -> None:
        self.closed = True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def no_more(error: ProviderError, attempt: int, retries: Any) -> bool:
    return False


def servers(count: int = 3) -> list[Server]:
    return [Server(f"replica-{at}", str(at)) for at in range(count)]


def replicas(made: list[Server], clock: Any = None, pause: Any = no_more) -> Replicas:
    return Replicas(made, pause=pause, clock=clock or Clock())  # type: ignore[arg-type]


def asked(own: str = "", like: str = "", text: str = "hello") -> TokenRequest:
    ids = array("i", QWEN3.tokenizer.encode(text))
    return TokenRequest(
        model="m", ids=ids, request_id=uuid.uuid4().hex, max_tokens=9, stop_token_ids=(), vocab_size=400_000,
        affinity=(own, like),
    )  # fmt: skip


async def one(engine: Replicas, request: TokenRequest) -> TokenDone:
    items = [item async for item in engine.generate(request)]
    assert isinstance(items[-1], TokenDone)
    return items[-1]


async def test_a_conversation_stays_where_it_is_and_many_are_spread() -> None:
    made = servers()
    engine = replicas(made)
    places: dict[str, str | None] = {}
    for turn in range(4):
        for number in range(60):
            own = f"conv-{number}"
            done = await one(engine, asked(own))
            assert turn == 0 or places[own] == done.base_url
            places[own] = done.base_url
    counts = Counter(places.values())
    assert len(counts) == 3 and min(counts.values()) >= 8
    again = replicas(servers())  # another process, or this one started again
    for own, place in places.items():
        assert (await one(again, asked(own))).base_url == place


async def test_attempts_of_one_group_prefer_the_same_server() -> None:
    engine = replicas(servers())
    for group in ("group-1", "group-2", "group-3", "group-4"):
        places = {(await one(engine, asked(f"{group}-{number}", group))).base_url for number in range(8)}
        assert len(places) == 1


async def test_what_has_no_conversation_goes_by_its_beginning() -> None:
    engine = replicas(servers())
    for text in ("a", "b", "c", "the quick brown fox"):
        assert len({(await one(engine, asked(text=text))).base_url for _ in range(3)}) == 1


async def test_a_server_with_far_more_to_do_gets_no_new_conversation_and_keeps_its_own() -> None:
    engine = replicas(servers(2))
    kept = await one(engine, asked("conv-kept", "group"))
    open_answers = [engine.generate(asked(f"conv-{number}", "group")) for number in range(20)]
    for answer in open_answers:
        await anext(answer)
    running = sorted(state.running for state in engine.states())
    assert sum(running) == 20 and running[0] > 0
    assert (await one(engine, asked("conv-kept", "group"))).base_url == kept.base_url
    for answer in open_answers:
        await answer.aclose()
    assert [state.running for state in engine.states()] == [0, 0]


async def test_a_server_that_is_down_is_passed_over_and_asked_again_later() -> None:
    made, clock = servers(), Clock()
    engine = replicas(made, clock)
    first = await one(engine, asked("conv"))
    gone = next(each for each in made if each.base_url == first.base_url)
    gone.error = DOWN
    second = await one(engine, asked("conv"))
    assert second.base_url != first.base_url
    [state] = [state for state in engine.states() if not state.up]
    assert state.base_url == gone.base_url and state.error == "Cannot connect."
    count = len(gone.asked)
    assert (await one(engine, asked("conv"))).base_url == second.base_url  # its prefix is there now
    for number in range(30):
        await one(engine, asked(f"other-{number}"))
    assert len(gone.asked) == count  # it rests
    gone.error = None
    clock.now += 2
    for number in range(30):
        await one(engine, asked(f"later-{number}"))
    assert len(gone.asked) > count and all(state.up and state.error is None for state in engine.states())


async def test_a_rest_grows_with_each_failure_and_is_bounded() -> None:
    made, clock = servers(2), Clock()
    engine = replicas(made, clock)
    made[0].error = DOWN
    rests: list[float] = []
    for at in range(9):
        while all(state.up for state in engine.states()):
            await one(engine, asked(f"conv-{at}-{len(made[0].asked)}-{len(made[1].asked)}"))
        begun = clock.now
        while not all(state.up for state in engine.states()):
            clock.now += 0.5
        rests.append(clock.now - begun)
    assert rests[:3] == [1.0, 2.0, 4.0] and rests[-1] == 30.0


async def test_one_that_is_busy_is_passed_over_this_time_and_does_not_rest() -> None:
    made = servers(2)
    engine = replicas(made)
    first = await one(engine, asked("conv"))
    busy = next(each for each in made if each.base_url == first.base_url)
    busy.error = BUSY
    assert (await one(engine, asked("conv"))).base_url != first.base_url
    assert all(state.up for state in engine.states())


async def test_what_no_other_server_would_take_either_is_not_asked_of_them() -> None:
    made = servers()
    for each in made:
        each.error = WRONG
    with pytest.raises(ProviderError, match="No such setting"):
        await one(replicas(made), asked("conv"))
    assert sum(len(each.asked) for each in made) == 1


async def test_nothing_is_asked_again_after_output() -> None:
    made = servers()
    for each in made:
        each.default = Completion(text="this will not end well", fail_after=4)
    engine = replicas(made)
    got: list[TokenBatch | TokenDone] = []
    with pytest.raises(ProviderError, match="died"):
        async for item in engine.generate(asked("conv")):
            got.append(item)
    assert len(got) == 1 and sum(len(each.asked) for each in made) == 1


async def test_when_all_are_down_all_are_asked_in_rounds_and_the_error_is_told() -> None:
    made = servers()
    for each in made:
        each.error = DOWN
    rounds: list[int] = []

    async def pause(error: ProviderError, attempt: int, retries: Any) -> bool:
        rounds.append(attempt)
        return attempt < retries.attempts

    with pytest.raises(ProviderError, match="Cannot connect"):
        await one(replicas(made, pause=pause), asked("conv"))
    assert rounds == [1, 2, 3] and [len(each.asked) for each in made] == [3, 3, 3]
    ids = [request_id for each in made for request_id in each.asked]
    assert len(set(ids)) == 9  # an id is used once
    with pytest.raises(ProviderError, match="Cannot connect"):
        await replicas(made).score("m", array("i", [1, 2, 3]), 1, 100)


async def test_scores_come_from_a_server_that_answers() -> None:
    made = servers()
    made[0].error = made[1].error = DOWN
    ids = array("i", [1, 2, 3])
    assert await replicas(made).score("m", ids, 1, 100) == await made[2].score("m", ids, 1, 100)


async def test_the_record_names_the_server_and_its_weights() -> None:
    made = servers()
    engine = replicas(made)
    model = model_of(engine, QWEN3)
    seen: set[tuple[str | None, str]] = set()
    for number in range(20):
        done, _ = await call(model, prompt([message("user", "Hi.")], conversation_id=f"conv-{number}"))
        assert isinstance(done, ModelDone) and done.capture is not None
        made_call = done.capture.call
        [span] = made_call.versions
        assert isinstance(span, VersionSpan)
        assert made_call.engine_base_url == f"http://replica-{span.version}"
        seen.add((made_call.engine_base_url, span.version))
    assert len(seen) == 3
    assert {(state.base_url, state.weight_version) for state in engine.states()} == seen


async def test_closing_closes_them_all() -> None:
    made = servers()
    await replicas(made).close()
    assert all(each.closed for each in made)
