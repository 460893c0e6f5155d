"""What was measured beside what it may cost: the budgets, and the verdict on each figure.

A budget without a figure is shown as not measured; it never counts as kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field

Better = Literal["lower", "higher"]
Verdict = Literal["PASS", "MISS", "-"]


class Budget(Struct, frozen=True):
    """`limit` None: shown for information. `what` is what a person reads. `there`: what it was where the budgets were set."""

    what: str
    unit: str
    limit: float | None = None
    better: Better = "lower"
    there: float | None = None


BUDGETS: dict[str, Budget] = {
    "install.packages": Budget("packages of a core install", "", 45),
    "install.size": Budget("size of a core install", "MB", 120),
    "floor.request": Budget("floor: a bare request among 32, CPU", "ms", there=0.098),
    "floor.message": Budget("floor: a model call and eight rows, CPU", "ms", there=1.5),
    "floor.token": Budget("floor: a token relayed, each alone, CPU", "us", there=78.0),
    "start.healthy": Budget("start to healthy", "s", 1.5),
    "start.rss": Budget("idle memory", "MB", 120),
    "agents.create_cpu": Budget("create an agent, CPU", "ms", 2.0),
    "agents.get_cpu": Budget("get an agent, CPU", "ms", 1.0),
    "agents.list_cpu": Budget("list 50 agents, CPU", "ms", 10.0),
    "message.cpu": Budget("plain message, CPU", "ms", 2.0),
    "message.p50": Budget("plain message, p50", "ms", 8.0),
    "message.p95": Budget("plain message, p95", "ms"),
    "throughput.1": Budget("messages a second, 1 agent", "/s", None, "higher"),
    "throughput.8": Budget("messages a second, 8 agents", "/s", None, "higher"),
    "throughput.32": Budget("messages a second, 32 agents", "/s", None, "higher"),
    "throughput.128": Budget("messages a second, 128 agents", "/s", 400.0, "higher"),
    "throughput.cpu": Budget("plain message at 128 agents, CPU", "ms"),
    "tool.builtin_cpu": Budget("message with a memory tool call, CPU", "ms", 4.0),
    "tool.builtin_p50": Budget("message with a memory tool call, p50", "ms"),
    "tool.custom_cpu": Budget("message with a custom Python tool, CPU", "ms", 8.0),
    "tool.custom_p50": Budget("message with a custom Python tool, p50", "ms"),
    "stream.first_token": Budget("first token of a stream, p50", "ms", 8.0),
    "stream.burst_cpu": Budget("streamed token, engine ahead, CPU", "us", 15.0),
    "stream.alone_cpu": Budget("streamed token, each alone, CPU", "us", 100.0),
    "stream.first_64": Budget("first answers of 64 agents at once, p95", "ms"),
    "stream.events": Budget("streamed tokens a second, 16 streams", "/s", 25_000.0, "higher"),
    "stream.paced_16": Budget("16 streams of 100 at 100 tokens/s, p95", "s", 1.1),
    "stream.paced_64": Budget("64 streams of 100 at 100 tokens/s, p95", "s", 1.1),
    "stream.paced_cpu": Budget("streamed token, 64 paced streams, CPU", "us", 100.0),
    "history.10": Budget("message after 10 messages, CPU", "ms"),
    "history.100": Budget("message after 100 messages, CPU", "ms"),
    "history.1000": Budget("message after 1,000 messages, CPU", "ms"),
    "history.ratio": Budget("1,000 messages of history against 10", "x", 1.3),
    "queue.accepted": Budget("runs accepted a second, to be driven later", "/s", None, "higher"),
    "queue.drained": Budget("queued runs driven a second", "/s", None, "higher"),
    "queue.cpu": Budget("queued run, accepted and driven, CPU", "ms"),
    "queue.rss": Budget("memory on top while the queue drains", "MB"),
    "followers.cpu": Budget("token told to one of many followers, CPU", "us", 100.0),
    "followers.gap": Budget("between two tokens of a follower (20 sent), p95", "ms"),
    "followers.rss": Budget("memory of all followers", "MB"),
    "database.statements_10": Budget("statements of a message with one step, after 10", "", 14),
    "database.statements_1000": Budget("statements of a message with one step, after 1,000", "", 14),
    "database.time_10": Budget("database time of a message with one step, after 10, p50", "ms", 15.0),
    "database.time_1000": Budget("database time of a message with one step, after 1,000, p50", "ms", 15.0),
    "load.rss": Budget("memory after the load", "MB"),
}


class Figure(Struct, frozen=True):
    """One measured value. `detail`: what else was seen, for the JSON report."""

    name: str
    value: float
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def budget(self) -> Budget:
        return BUDGETS[self.name]

    @property
    def ratio(self) -> float | None:
        """How much of the budget is used: 1 is all of it, more is too much. Of a floor: how much slower this machine is."""
        limit = self.budget.limit if self.budget.there is None else self.budget.there
        if limit is None:
            return None
        if self.budget.better == "lower":
            return self.value / limit
        return limit / self.value if self.value else float("inf")

    @property
    def verdict(self) -> Verdict:
        return "-" if self.ratio is None or self.budget.limit is None else "PASS" if self.ratio <= 1 else "MISS"


def rows(figures: Sequence[Figure]) -> list[tuple[str, str, str, str, str]]:
    """(what, measured, budget, ratio, verdict) as text, in the order of the budgets."""
    order = {name: at for at, name in enumerate(BUDGETS)}
    return [
        (
            figure.budget.what,
            _number(figure.value, figure.budget.unit),
            _limit(figure.budget),
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            figure.verdict,
        )
        for figure in sorted(figures, key=lambda figure: order[figure.name])
    ]


def as_json(figures: Sequence[Figure], setting: Mapping[str, Any], failures: Mapping[str, str]) -> dict[str, Any]:
    """The whole report. `setting`: machine, versions, options; `failures`: what could not be measured, and why."""
    return {
        "setting": dict(setting),
        "figures": [
            {
                "name": figure.name,
                "what": figure.budget.what,
                "value": round(figure.value, 4),
                "unit": figure.budget.unit,
                "budget": figure.budget.limit,
                "ratio": None if figure.ratio is None else round(figure.ratio, 3),
                "verdict": figure.verdict,
                **({"detail": figure.detail} if figure.detail else {}),
            }
            for figure in figures
        ],
        "failures": dict(failures),
        "not_measured": [name for name in BUDGETS if name not in {figure.name for figure in figures}],
    }


def kept(figures: Sequence[Figure], failures: Mapping[str, str]) -> bool:
    """Everything was measured that was tried, and within its budget."""
    return not failures and all(figure.verdict != "MISS" for figure in figures)


def _limit(budget: Budget) -> str:
    if budget.there is not None:
        return f"({_number(budget.there, budget.unit)})"
    if budget.limit is None:
        return ""
    return f"{'<=' if budget.better == 'lower' else '>='} {_number(budget.limit, budget.unit)}"


def _number(value: float, unit: str) -> str:
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}" + (f" {unit}" if unit else "")
