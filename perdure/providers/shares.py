"""How the processes of one database share a provider's limits: a book of who holds how much, and what each may take.

Invariant: what all hold together, and what was used in the last minute, is never more than the limits; a process gives back only
what it says it does not use, and one that is not heard of for its lease holds nothing any more. Pure: the book is kept elsewhere.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

LEASE_US = 6_000_000
MARGIN_US = 1_000_000  # before its lease ends a process stops beginning calls
TURN_US = 500_000  # what cannot be divided is not passed on before
_MINUTE_S = 60


class Terms(Struct, frozen=True):
    """What the limits are. None: no limit."""

    concurrent: int | None
    requests: int | None
    tokens: int | None


class Report(Struct, frozen=True):
    """What became of a share since the last report. `requests`: calls begun; `tokens`: what the calls that ended took; `usual`:
    tokens of a call, lately (0: not known yet). `unused_requests` and `unused_calls` are still there. `giving`: all that is
    not in use may be taken back."""

    in_flight: int
    waiting: int
    requests: int
    tokens: int
    usual: float
    unused_requests: int
    unused_calls: int
    giving: bool


class Share(Struct, frozen=True):
    """What a process may do until its lease ends. `slots`: calls at once; `requests`: calls it may begin; `calls`: the same, by
    the tokens they usually take. None: no limit.

    `owing`: another waits for what is held here beyond the share; `crowded`: another could use more; `due`: others hold what this
    one is to have; `gave`: some of it was given back.
    """

    slots: int | None = 0
    requests: int | None = 0
    calls: int | None = 0
    owing: bool = False
    crowded: bool = False
    due: bool = False
    gave: bool = False


class Holder(Struct):
    """One process in the book. `wants`: for each kind what it could use, what it holds in `holds` alike."""

    until_us: int
    wants: list[int]
    holds: list[int]
    usual: float = 0.0
    turn_us: int = 0


class Book(Struct):
    """`requests`, `tokens`: used, by the second in which they were reported."""

    holders: dict[str, Holder] = {}
    requests: dict[int, int] = {}
    tokens: dict[int, int] = {}


SLOTS, REQUESTS, CALLS = range(3)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Book]).decode


def settle(
    body: bytes | None, owner: str, reports: dict[str, tuple[Terms, Report]], now_us: int
) -> tuple[bytes, dict[str, Share]]:
    """Write the reports of one process, by provider, into the book, and answer its shares."""
    books = _decode(body) if body else {}
    shares = {
        name: _settle(books.setdefault(name, Book()), owner, terms, report, now_us)
        for name, (terms, report) in reports.items()
    }
    return _encode(books), shares


def leave(body: bytes | None, owner: str) -> bytes:
    """The book without a process that has reported its last call."""
    books = _decode(body) if body else {}
    for book in books.values():
        book.holders.pop(owner, None)
    return _encode(books)


def allot(total: int, wants: Sequence[int]) -> list[int]:
    """Divide `total` so that nobody gets more than it wants and the least served get as much as possible; what cannot be
    divided goes to the first. What is left when all have what they want goes to all alike."""
    given = [0] * len(wants)
    left = max(0, total)
    while left and (hungry := [at for at, want in enumerate(wants) if given[at] < want]):
        each = left // len(hungry)
        for at in hungry[: None if each else left]:
            more = min(max(each, 1), wants[at] - given[at])
            given[at] += more
            left -= more
    return [mine + left // len(wants) for mine in given]


def _settle(book: Book, owner: str, terms: Terms, report: Report, now_us: int) -> Share:
    for name in [name for name, holder in book.holders.items() if holder.until_us < now_us]:
        _use(book, book.holders.pop(name), now_us)
    second = now_us // 1_000_000
    _forget_old(book, second)
    if report.requests:
        book.requests[second] = book.requests.get(second, 0) + report.requests
    if report.tokens:
        book.tokens[second] = book.tokens.get(second, 0) + report.tokens
    known = owner in book.holders  # otherwise nothing is its own any more but the calls that it is in the middle of
    me = book.holders.setdefault(owner, Holder(0, [0, 0, 0], [0, 0, 0]))
    me.until_us = now_us + LEASE_US
    me.usual = report.usual
    busy = report.in_flight
    me.wants = [busy + report.waiting, report.waiting, busy + report.waiting]
    before = [me.holds[SLOTS], report.unused_requests, busy + report.unused_calls]
    floors = [max(before[SLOTS], busy), before[REQUESTS], before[CALLS]]
    if report.giving or not known:
        floors = [busy, 0, busy]
    totals = _totals(book, terms)
    order = _order(book, now_us)
    shares: list[int | None] = [None, None, None]
    owing = due = crowded = False
    for kind, total in enumerate(totals):
        if total is None:
            continue
        targets = dict(zip(order, allot(total, [book.holders[name].wants[kind] for name in order]), strict=True))
        others = sum(holder.holds[kind] for name, holder in book.holders.items() if name != owner)
        free = max(0, total - others - floors[kind])
        target = targets[owner]
        held = max(floors[kind], min(target, floors[kind] + free))
        if held > before[kind]:
            me.turn_us = now_us
        me.holds[kind] = held
        short = any(
            holder.holds[kind] < min(holder.wants[kind], targets[name])
            for name, holder in book.holders.items()
            if name != owner
        )
        owing |= short and held > target
        crowded |= any(
            holder.holds[kind] < holder.wants[kind] for name, holder in book.holders.items() if name != owner
        )
        due |= held < min(me.wants[kind], target)
        shares[kind] = min(held, target) if short else held
    gave = any(held < earlier for held, earlier in zip(me.holds, before, strict=True))
    calls = shares[CALLS]
    return Share(
        slots=shares[SLOTS],
        requests=shares[REQUESTS],
        calls=None if calls is None else max(0, calls - busy),
        owing=owing,
        crowded=crowded,
        due=due,
        gave=gave,
    )


def _totals(book: Book, terms: Terms) -> list[int | None]:
    """How much there is of each kind for all together."""
    requests = calls = None
    if terms.requests is not None:
        requests = max(0, terms.requests - sum(book.requests.values()))
    if terms.tokens is not None:
        left = terms.tokens - sum(book.tokens.values())
        usual = max(holder.usual for holder in book.holders.values())
        if not usual:  # the first call tells what one takes
            calls = 1
        elif left == terms.tokens:
            calls = max(1, int(left // usual))  # a call that is larger than the limit goes alone
        else:
            calls = max(0, int(left // usual))
    return [terms.concurrent, requests, calls]


def _order(book: Book, now_us: int) -> list[str]:
    """Whoever got something just now keeps it for a moment; then whoever was served longest ago comes first."""

    def rank(name: str) -> tuple[bool, int, str]:
        turn_us = book.holders[name].turn_us
        return now_us - turn_us >= TURN_US, turn_us, name

    return sorted(book.holders, key=rank)


def _use(book: Book, holder: Holder | None, now_us: int) -> None:
    """A process that is gone may have used all it held of what is counted by the minute."""
    if holder is None:
        return
    second = now_us // 1_000_000
    if holder.holds[REQUESTS]:
        book.requests[second] = book.requests.get(second, 0) + holder.holds[REQUESTS]
    if tokens := round(holder.holds[CALLS] * holder.usual):
        book.tokens[second] = book.tokens.get(second, 0) + tokens


def _forget_old(book: Book, second: int) -> None:
    for used in (book.requests, book.tokens):
        for at in [at for at in used if at < second - _MINUTE_S]:
            del used[at]
