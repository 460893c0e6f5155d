"""Limits of what providers are asked: never exceeded, shared fairly between agents, paused when a provider says so."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.errors import Invalid, ProviderError
from perdure.core.model import ModelDone, Prompt
from perdure.core.runs import Usage
from perdure.providers.limited import ATTEMPTS, LimitedModel, limited, unlimited
from perdure.providers.limits import LONGEST_PAUSE_S, WINDOW_S, Configured, Gate, Limits, limits_from
from perdure.providers.registry import ProviderConfig, Registry
from perdure.providers.scripted import Pause, ScriptedModel, text


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def enter(gate: Gate, who: str, order: list[str]) -> None:
    await gate.enter(who)
    order.append(who)


async def test_no_more_calls_at_once_than_allowed() -> None:
    gate = Gate(Limits(concurrent=2))
    order: list[str] = []
    calls = [asyncio.create_task(enter(gate, "a", order)) for _ in range(5)]
    await turns()
    assert (gate.in_flight, gate.waiting, len(order)) == (2, 3, 2)
    gate.leave(0, 10)
    await turns()
    assert (gate.in_flight, gate.waiting, len(order)) == (2, 2, 3)
    for _ in range(4):
        gate.leave(0, 10)
        await turns()
    assert (gate.in_flight, gate.waiting) == (0, 0)
    await asyncio.gather(*calls)


async def test_an_agent_with_a_thousand_calls_delays_anothers_by_one() -> None:
    gate = Gate(Limits(concurrent=1))
    order: list[str] = []
    calls = [asyncio.create_task(enter(gate, "greedy", order)) for _ in range(1000)]
    await turns()
    calls.append(asyncio.create_task(enter(gate, "modest", order)))
    await turns()
    for _ in range(2):
        gate.leave(0, 1)
        await turns()
    assert order == ["greedy", "greedy", "modest"]
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert gate.waiting == 0


async def test_a_call_that_is_called_off_gives_its_place_back() -> None:
    gate = Gate(Limits(concurrent=1))
    await gate.enter("a")
    order: list[str] = []
    first, second = (asyncio.create_task(enter(gate, "a", order)) for _ in range(2))
    await turns()
    gate.leave(0, 1)  # the first is let in, but has not run yet
    first.cancel()
    await turns()
    assert first.cancelled() and second.done() and order == ["a"]
    assert (gate.in_flight, gate.waiting) == (1, 0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=60), st.integers(1, 8))
def test_any_minute_has_at_most_the_allowed_requests(arrivals: list[tuple[int, int]], most: int) -> None:
    async def run() -> list[float]:
        clock, starts = Clock(), []
        gate = Gate(Limits(requests_per_minute=most), clock=clock)
        waiting: list[asyncio.Task[None]] = []

        async def call() -> None:
            await gate.enter("a")
            starts.append(clock.now)
            gate.leave(0, 1)

        for after_s, count in arrivals:
            clock.now += after_s
            waiting += [asyncio.create_task(call()) for _ in range(count)]
            await turns()
            gate._pump()
            await turns()
        while not all(task.done() for task in waiting):
            clock.now += max(gate._free_in(), 0.01)
            gate._pump()
            await turns()
        return starts

    starts = asyncio.run(run())
    assert len(starts) == sum(count for _, count in arrivals)
    for at, begin in enumerate(starts):
        assert sum(1 for later in starts[at:] if later < begin + WINDOW_S) <= most


async def test_tokens_of_a_minute_are_bounded_by_what_calls_usually_take() -> None:
    clock = Clock()
    gate = Gate(Limits(tokens_per_minute=100), clock=clock)
    reserved = await gate.enter("a")
    gate.leave(reserved, 40)
    one = await gate.enter("a")
    order: list[str] = []
    third = asyncio.create_task(enter(gate, "a", order))
    await turns()
    assert not third.done()  # 40 used, 40 on their way, and another 40 would be too many
    gate.leave(one, 40)
    await turns()
    assert not third.done() and 0 < gate._free_in() <= WINDOW_S
    clock.now += WINDOW_S
    gate._pump()
    await third


async def test_a_call_larger_than_the_limit_goes_alone() -> None:
    clock = Clock()
    gate = Gate(Limits(tokens_per_minute=10), clock=clock)
    gate.leave(await gate.enter("a"), 500)
    assert gate._free_in() == pytest.approx(WINDOW_S)
    clock.now += WINDOW_S
    gate.leave(await asyncio.wait_for(gate.enter("a"), 1), 500)


async def test_nobody_is_let_in_before_the_provider_wants_to_be_asked_again() -> None:
    clock = Clock()
    gate = Gate(Limits(concurrent=8), clock=clock)
    gate.refused(ProviderError("slow down", kind="llm_rate_limit", retry_after_s=7))
    order: list[str] = []
    call = asyncio.create_task(enter(gate, "a", order))
    await turns()
    assert gate._free_in() == pytest.approx(7)
    gate.refused(ProviderError("come back tomorrow", kind="llm_rate_limit", retry_after_s=86_400))
    assert gate._free_in() == pytest.approx(LONGEST_PAUSE_S)
    clock.now += LONGEST_PAUSE_S
    gate._pump()
    await call


async def test_refusals_without_a_time_pause_longer_each_time_and_other_failures_not_at_all() -> None:
    clock = Clock()
    gate = Gate(Limits(concurrent=8), clock=clock)
    gate.refused(ProviderError("broken", kind="llm_error"))
    assert gate._free_in() <= 0
    waits: list[float] = []
    for _ in range(3):
        gate.refused(ProviderError("slow down", kind="llm_rate_limit"))
        gate.refused(ProviderError("slow down", kind="llm_rate_limit"))  # one that was under way with the first
        waits.append(gate._free_in())
        clock.now += waits[-1]
    assert waits == [1.0, 2.0, 4.0]
    gate.leave(await gate.enter("a"), 10)
    gate.refused(ProviderError("slow down", kind="llm_rate_limit"))
    assert gate._free_in() == pytest.approx(1.0)


def prompt(agent_id: str = "agent-a") -> Prompt:
    return Prompt(model="m", system="", messages=(), agent_id=agent_id)


async def drained(model: object) -> list[object]:
    batches: list[Sequence[object]] = [batch async for batch in model.stream(prompt())]  # type: ignore[attr-defined]
    return [item for batch in batches for item in batch]


async def test_a_refused_call_is_made_again_and_its_tokens_are_counted() -> None:
    gate, together = Gate(Limits(concurrent=1)), Gate(Limits(tokens_per_minute=1000))
    refusal = ProviderError("slow down", kind="llm_rate_limit", status=429, retry_after_s=0.01)
    model = ScriptedModel([[refusal], [text("Hello.")]])
    done = (await drained(limited(model, gate, together)))[-1]
    assert isinstance(done, ModelDone) and done.usage == Usage(10, 5, 15)
    assert len(model.prompts) == 2
    assert (gate.in_flight, together.in_flight, together._tokens) == (0, 0, 15)


async def test_a_call_of_which_something_was_seen_is_not_made_again() -> None:
    refusal = ProviderError("slow down", kind="llm_rate_limit", retry_after_s=0.0)
    model = ScriptedModel([[text("Hel"), refusal]])
    with pytest.raises(ProviderError):
        await drained(limited(model, Gate(Limits()), None))
    assert len(model.prompts) == 1


async def test_a_provider_that_goes_on_refusing_is_believed() -> None:
    refusal = ProviderError("slow down", kind="llm_rate_limit", retry_after_s=0.0)
    model = ScriptedModel(default=[refusal])
    gate = Gate(Limits())
    with pytest.raises(ProviderError):
        await drained(limited(model, gate, None))
    assert (len(model.prompts), gate.in_flight) == (ATTEMPTS, 0)


async def test_an_answer_left_before_its_end_frees_the_place() -> None:
    model = ScriptedModel([[text("a"), Pause(60)]])
    gate = Gate(Limits(concurrent=1))
    stream = limited(model, gate, None).stream(prompt())
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]
    assert (gate.in_flight, model.abandoned) == (0, 1)


def test_limits_are_read_from_the_file_and_the_environment() -> None:
    found = limits_from(
        {"limits": {"concurrent": 64, "openai": {"requests_per_minute": 500}}},
        {"PERDURE_LIMITS": "openai.tokens_per_minute=1000, concurrent=8"},
    )
    assert found.together == Limits(concurrent=8)
    assert found.each == {"openai": Limits(requests_per_minute=500, tokens_per_minute=1000)}
    assert not limits_from({}, {})


@pytest.mark.parametrize(
    ("config", "env", "named"),
    [
        ({"limits": {"openai": {"speed": 1}}}, {}, "limits.openai"),
        ({"limits": {"concurrent": 0}}, {}, "limits.concurrent"),
        ({"limits": 5}, {}, "limits"),
        ({}, {"PERDURE_LIMITS": "concurrent"}, "PERDURE_LIMITS"),
        ({}, {"PERDURE_LIMITS": "openai.concurrent=many"}, "PERDURE_LIMITS"),
    ],
)
def test_what_is_wrong_in_the_limits_is_named(config: dict[str, object], env: dict[str, str], named: str) -> None:
    with pytest.raises(Invalid, match=named):
        limits_from(config, env)


async def test_a_registry_keeps_its_models_within_their_limits_and_others_as_they_are() -> None:
    config = ProviderConfig(name="one", kind="openai_compatible", base_url="http://127.0.0.1:9/v1")
    registry = Registry([config], limits=Configured(each={"one": Limits(concurrent=1)}))
    free = Registry([config])
    try:
        model, same = (await registry.resolve("one/m")).model, (await free.resolve("one/m")).model
        assert isinstance(model, LimitedModel) and not isinstance(same, LimitedModel)
        assert unlimited(same) is same and type(unlimited(model)) is type(same)
        registry._refused("one", ProviderError("slow down", kind="llm_rate_limit", retry_after_s=5))
        assert registry.gates["one"]._free_in() > 4
    finally:
        await registry.close()
        await free.close()
