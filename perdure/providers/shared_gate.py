"""A provider's gate in a process that shares the provider's limits with others: it lets in what its share allows.

Invariant: no call begins beyond the share, none after the share's time, and every call that began is reported, once or twice but
never not at all.
"""

import time
from collections.abc import Callable

from perdure.providers.limits import Gate, Limits
from perdure.providers.shares import LEASE_US, MARGIN_US, Report, Share, Terms

NOTHING = Share()


class SharedGate(Gate):
    """`short`: called when a call has to wait for a share (False), and when something can be given back (True)."""

    def __init__(
        self, limits: Limits, short: Callable[[bool], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(limits, clock=clock)
        self.terms = Terms(limits.concurrent, limits.requests_per_minute, limits.tokens_per_minute)
        self.share = NOTHING
        self._short = short
        self._until = 0.0
        self._asked_at = 0.0
        self._frozen = False
        self._begun = 0  # since the last report, as are these
        self._ended_tokens = 0
        self._reported = (0, 0)  # until it is known that it arrived

    @property
    def fresh(self) -> bool:
        return self._clock() < self._until

    async def enter(self, who: str) -> float:
        if self._queues or not self._allowed():
            self._short(False)
        return await super().enter(who)

    def report(self) -> Report:
        """What became of the share. What is to be given back is not used until the answer is there."""
        giving = self.share.owing or not self.fresh
        self._frozen = giving
        self._asked_at = self._clock()
        before = self._reported
        report = Report(
            in_flight=self.in_flight,
            waiting=self.waiting,
            requests=before[0] + self._begun,
            tokens=before[1] + self._ended_tokens,
            usual=self._usual,
            unused_requests=max(0, (self.share.requests or 0) - self._begun),
            unused_calls=max(0, (self.share.calls or 0) - self._begun),
            giving=giving,
        )
        self._keep(self.share, self._begun)
        self._reported = (report.requests, report.tokens)
        self._begun = self._ended_tokens = 0
        return report

    def granted(self, share: Share) -> None:
        """The answer to the last report."""
        self._keep(share, 0)
        self._reported = (0, 0)
        self._until = self._asked_at + (LEASE_US - MARGIN_US) / 1e6
        self._frozen = False
        self._pump()

    def unanswered(self) -> None:
        """Nobody knows whether the report arrived: the next one says it again."""
        if self._frozen:  # what was to be given back may be somebody else's by now
            self._keep(NOTHING, 0)
            self._until = 0.0
        self._frozen = False

    def leave(self, reserved: float, tokens: int | None) -> None:
        self._ended_tokens += round(reserved) if tokens is None else tokens
        super().leave(reserved, tokens)
        if self.share.owing or (self.share.crowded and not self.waiting):
            self._short(True)

    def _take(self) -> float:
        self._begun += 1
        return super()._take()

    def _free_in(self) -> float:
        wait_s = super()._free_in()
        return wait_s if wait_s > 0 or self._allowed() else float("inf")

    def _allowed(self) -> bool:
        share = self.share
        return (
            not self._frozen
            and self.fresh
            and (share.slots is None or self.in_flight < share.slots)
            and (share.requests is None or self._begun < share.requests)
            and (share.calls is None or self._begun < share.calls)
        )

    def _keep(self, share: Share, begun: int) -> None:
        """`begun`: calls of it that have been reported."""
        self.share = Share(
            slots=share.slots,
            requests=None if share.requests is None else share.requests - begun,
            calls=None if share.calls is None else share.calls - begun,
            owing=share.owing,
            crowded=share.crowded,
            due=share.due,
            gave=share.gave,
        )
