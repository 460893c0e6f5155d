"""How processes share a provider's limits: never more than the limits together, and what is free goes to who wants it."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perdure.providers.limits import Limits
from perdure.providers.shared_gate import SharedGate
from perdure.providers.shares import LEASE_US, allot, settle

MINUTE_US = 60_000_000


def test_a_share_is_what_is_wanted_and_the_rest_goes_to_all_alike() -> None:
    assert allot(10, [2, 0]) == [6, 4]
    assert allot(4, [10, 10]) == [2, 2]
    assert allot(5, [1, 10, 10]) == [1, 2, 2]
    assert allot(3, [10, 10]) == [2, 1]
    assert allot(1, [3, 3, 3]) == [1, 0, 0]
    assert allot(0, [3]) == [0]


class Process:
    """One process: its gate, whose calls are begun and ended by hand."""

    def __init__(self, name: str, world: "World") -> None:
        self.name = name
        self.world = world
        self.gate = SharedGate(world.limits, lambda _: None, clock=lambda: world.now_us / 1e6)
        self.reserved: list[float] = []

    def begin(self) -> bool:
        if self.gate._free_in() > 0:
            return False
        self.reserved.append(self.gate._take())
        return True

    def end(self, tokens: int) -> None:
        self.gate.leave(self.reserved.pop(), tokens)

    def sync(self) -> None:
        report = self.gate.report()
        self.world.body, shares = settle(
            self.world.body, self.name, {"p": (self.gate.terms, report)}, self.world.now_us
        )
        self.gate.granted(shares["p"])


class World:
    def __init__(self, limits: Limits, count: int) -> None:
        self.limits = limits
        self.now_us = 1_000_000_000
        self.body: bytes | None = None
        self.processes = [Process(f"p{at}", self) for at in range(count)]

    def beat(self) -> None:
        """A second passes; then everybody is heard of, and hears of the others."""
        self.now_us += 1_000_000
        for process in 3 * self.processes:
            process.sync()


class Sharing(RuleBasedStateMachine):
    """Processes begin and end calls, report when they like, die, and time passes."""

    @initialize(
        count=st.integers(2, 4),
        concurrent=st.one_of(st.none(), st.integers(1, 6)),
        requests=st.one_of(st.none(), st.integers(1, 12)),
    )
    def start(self, count: int, concurrent: int | None, requests: int | None) -> None:
        self.world = World(Limits(concurrent=concurrent, requests_per_minute=requests), count)
        self.begun: list[int] = []
        self.dead = 0

    def process(self, data: st.DataObject) -> Process:
        return data.draw(st.sampled_from(self.world.processes))

    @rule(data=st.data())
    def begin(self, data: Any) -> None:
        if self.process(data).begin():
            self.begun.append(self.world.now_us)

    @rule(data=st.data())
    def end(self, data: Any) -> None:
        process = self.process(data)
        if process.reserved:
            process.end(1)

    @rule(data=st.data())
    def sync(self, data: Any) -> None:
        self.process(data).sync()

    @rule(data=st.data())
    def begin_during_the_report(self, data: Any) -> None:
        """A call that begins while the report is on its way."""
        process = self.process(data)
        report = process.gate.report()
        if process.begin():
            self.begun.append(self.world.now_us)
        world = self.world
        world.body, shares = settle(world.body, process.name, {"p": (process.gate.terms, report)}, world.now_us)
        process.gate.granted(shares["p"])

    @rule(data=st.data(), arrived=st.booleans())
    def lose_the_answer(self, data: Any, arrived: bool) -> None:
        process, world = self.process(data), self.world
        report = process.gate.report()
        if arrived:
            world.body, _ = settle(world.body, process.name, {"p": (process.gate.terms, report)}, world.now_us)
        process.gate.unanswered()

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        """Not long enough for a call to outlive its process's lease unheard."""
        self.world.now_us += round(seconds * 1e6)
        for process in self.world.processes:
            if process.reserved:
                process.sync()

    @precondition(lambda self: len(self.world.processes) > 1)
    @rule(data=st.data())
    def die(self, data: Any) -> None:
        """With its calls: the provider hears of it when the connection breaks."""
        self.world.processes.remove(self.process(data))
        self.world.processes.append(Process(f"again{self.dead}", self.world))
        self.dead += 1

    @invariant()
    def never_more_than_the_limits(self) -> None:
        if not hasattr(self, "world"):
            return
        limits = self.world.limits
        if limits.concurrent is not None:
            assert sum(process.gate.in_flight for process in self.world.processes) <= limits.concurrent
        if limits.requests_per_minute is not None:
            lately = [at for at in self.begun if at > self.world.now_us - MINUTE_US]
            assert len(lately) <= limits.requests_per_minute


Sharing.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSharing = Sharing.TestCase


def test_what_one_does_not_use_goes_to_another_that_waits() -> None:
    world = World(Limits(concurrent=4), 2)
    idle, busy = world.processes
    idle.sync()
    assert idle.gate.share.slots == 4, "all of it, while nobody else is there"
    world.beat()
    busy.gate.waiting = 4
    world.beat()
    world.beat()
    assert busy.gate.share.slots == 4 and idle.gate.share.slots == 0
    busy.gate.waiting = 0
    world.beat()
    idle.gate.waiting = 1
    world.beat()
    world.beat()
    assert idle.gate.share.slots
    assert idle.gate.share.slots + (busy.gate.share.slots or 0) <= 4


def test_one_place_is_passed_on_between_processes_that_both_want_it() -> None:
    world = World(Limits(concurrent=1), 2)
    served = [0, 0]
    for process in world.processes:
        process.gate.waiting = 5
    for _ in range(40):
        world.beat()
        for at, process in enumerate(world.processes):
            if process.begin():
                served[at] += 1
        world.beat()
        for process in world.processes:
            if process.reserved:
                process.end(1)
    assert sum(served) >= 30 and min(served) >= 10


def test_a_dead_processs_places_come_back_after_its_lease() -> None:
    world = World(Limits(concurrent=2), 2)
    dead, other = world.processes
    dead.sync()
    assert dead.begin() and dead.begin()
    other.gate.waiting = 2
    other.sync()
    assert not other.begin()
    world.now_us += LEASE_US + 1
    assert not dead.begin(), "its share is over for itself too"
    other.sync()
    assert other.begin() and other.begin()


def test_tokens_of_all_processes_count_together() -> None:
    world = World(Limits(tokens_per_minute=1000), 2)
    first, second = world.processes
    first.sync()
    second.sync()
    assert first.begin() and not first.begin() and not second.begin(), "the first call tells what one takes"
    first.end(300)
    used = 300
    for _ in range(20):
        for process in world.processes:
            process.gate.waiting = 3
            if process.reserved:
                process.end(300)
        world.beat()
        for process in world.processes:
            if process.begin():
                used += 300
    assert used == 900
    for process in world.processes:
        while process.reserved:
            process.end(300)
    for _ in range(62):
        world.beat()
    assert any(process.begin() for process in world.processes)
