"""How much is asked of a provider at once and in a minute: calls wait their turn here instead of being refused there.

Invariant: no more than the limits at any moment and in any 60 seconds, and agents take turns: one with a thousand calls waiting
delays another's by one call. Counted in this process (`shared_gate.py` counts over several); a provider without limits is called
directly.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.errors import Invalid, ProviderError

WINDOW_S = 60.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
SLACK_S = 0.002
REFUSALS = ("llm_rate_limit", "llm_overloaded")


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tokens_per_minute` counts prompts and answers. None: no limit."""

    concurrent: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in self.__struct_fields__)


class Configured(Struct, frozen=True):
    """`together`: what all providers together may be asked. `each`: by provider name."""

    together: Limits = Limits()
    each: dict[str, Limits] = {}

    def __bool__(self) -> bool:
        return bool(self.together) or any(self.each.values())


class Gate:
    """`enter` waits for a place and `leave` gives it back. `clock` in seconds."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.in_flight = 0
        self.waiting = 0
        self._clock = clock
        self._queues: OrderedDict[str, deque[asyncio.Future[float]]] = OrderedDict()
        self._starts: deque[float] = deque()
        self._spent: deque[tuple[float, int]] = deque()
        self._tokens = 0  # in `_spent`
        self._reserved = 0.0  # by the calls in flight
        self._usual = 0.0  # tokens of a call, lately
        self._paused_until = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, who: str) -> float:
        """Wait for a place. Answers the tokens set aside for the call, which `leave` takes back."""
        if not self._queues and self._free_in() <= 0:
            return self._take()
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(who, deque()).append(turn)
        self.waiting += 1
        self._pump()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had been let in when it was called off
                self.leave(turn.result(), 0)
            else:
                self._drop(who, turn)
            raise

    def leave(self, reserved: float, tokens: int | None) -> None:
        """The call has ended. `tokens`: what it used; None if nobody knows, and then what was set aside counts."""
        self.in_flight -= 1
        self._reserved -= reserved
        if self.limits.tokens_per_minute is not None:
            spent = round(reserved) if tokens is None else tokens
            self._spent.append((self._clock(), spent))
            self._tokens += spent
            if tokens:
                self._usual = tokens if not self._usual else 0.8 * self._usual + 0.2 * tokens
        if tokens:
            self._pause_s = FIRST_PAUSE_S
        self._pump()

    def refused(self, error: ProviderError) -> None:
        """The provider said that it was asked too much: nobody is let in before it wants to be asked again."""
        if error.kind not in REFUSALS:
            return
        now = self._clock()
        if error.retry_after_s is not None:
            pause_s = error.retry_after_s
        elif self._paused_until > now:
            return  # calls that were under way are refused together
        else:
            pause_s = self._pause_s
            self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._paused_until = max(self._paused_until, now + min(pause_s, LONGEST_PAUSE_S))

    def _take(self) -> float:
        self.in_flight += 1
        self._reserved += self._usual
        if self.limits.requests_per_minute is not None:
            self._starts.append(self._clock())
        return self._usual

    def _free_in(self) -> float:
        """Seconds until there may be a place: 0 now; infinity when only a call's end makes one."""
        limits, now = self.limits, self._clock()
        wait_s = self._paused_until - now
        if limits.concurrent is not None and self.in_flight >= limits.concurrent:
            return float("inf")
        if limits.requests_per_minute is not None:
            while self._starts and self._starts[0] <= now - WINDOW_S:
                self._starts.popleft()
            if len(self._starts) >= limits.requests_per_minute:
                wait_s = max(wait_s, self._starts[0] + WINDOW_S - now)
        if limits.tokens_per_minute is not None:
            wait_s = max(wait_s, self._tokens_free_in(limits.tokens_per_minute, now))
        return wait_s

    def _tokens_free_in(self, most: int, now: float) -> float:
        while self._spent and self._spent[0][0] <= now - WINDOW_S:
            self._tokens -= self._spent.popleft()[1]
        if not self._tokens and not self.in_flight:
            return 0.0  # a call that is larger than the limit goes alone
        left = most - self._reserved - self._usual
        if not self._usual:  # the first call tells what one takes
            return float("inf") if self.in_flight else 0.0
        over = self._tokens - left
        if over <= 0:
            return 0.0
        for at, tokens in self._spent:
            over -= tokens
            if over <= 0:
                return at + WINDOW_S - now
        return float("inf") if self.in_flight else self._spent[-1][0] + WINDOW_S - now

    def _pump(self) -> None:
        """Let in who is next, agent after agent, for as long as there are places."""
        while self._queues:
            free_in_s = self._free_in()
            if free_in_s > 0:
                self._look_again(free_in_s)
                return
            who, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            del self._queues[who]
            if queue:
                self._queues[who] = queue  # at the end: the others come first
            self.waiting -= 1
            if not turn.done():
                turn.set_result(self._take())

    def _look_again(self, in_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if in_s != float("inf"):
            self._timer = asyncio.get_running_loop().call_later(in_s + SLACK_S, self._pump)

    def _drop(self, who: str, turn: "asyncio.Future[float]") -> None:
        queue = self._queues.get(who)
        if queue is not None and turn in queue:
            self.waiting -= 1
            queue.remove(turn)
            if not queue:
                del self._queues[who]


def limits_from(config: Mapping[str, Any], env: Mapping[str, str]) -> Configured:
    """The `[limits]` table of the configuration file, then PERDURE_LIMITS (`concurrent=8, openai.requests_per_minute=500`).

    Invalid names the key and the fix.
    """
    table = config.get("limits", {})
    if not isinstance(table, Mapping):
        raise Invalid("limits: must be a table: [limits] for all providers together, [limits.NAME] for one.")
    together: dict[str, Any] = {}
    each: dict[str, dict[str, Any]] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            each[str(key)] = dict(value)
        else:
            together[str(key)] = value
    for item in filter(None, (part.strip() for part in env.get("PERDURE_LIMITS", "").split(","))):
        path, equals, text = item.partition("=")
        provider, _, name = path.strip().rpartition(".")
        if not equals or not text.strip().isdigit():
            raise Invalid(
                f"PERDURE_LIMITS: {item!r} is not of the form concurrent=8 or openai.requests_per_minute=500."
            )
        (each.setdefault(provider, {}) if provider else together)[name] = int(text)
    named = {name: _limits(f"limits.{name}", values) for name, values in each.items()}
    return Configured(_limits("limits", together), named)


def _limits(where: str, values: Mapping[str, Any]) -> Limits:
    try:
        limits = msgspec.convert(values, Limits)
    except msgspec.ValidationError as error:
        raise Invalid(f"{where}: {error}. It may have: {', '.join(Limits.__struct_fields__)}.") from error
    for name in Limits.__struct_fields__:
        value = getattr(limits, name)
        if value is not None and value < 1:
            raise Invalid(f"{where}.{name}: must be 1 or more, not {value}. Leave it out for no limit.")
    return limits
