"""One benchmark from start to end: the engine, the server where it is ours to start, the measurements, the report."""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from perdure.bench.crowds import CROWDS
from perdure.bench.engine import run
from perdure.bench.floor import floor
from perdure.bench.install import core_packages, size_bytes
from perdure.bench.load import LoadError, Target
from perdure.bench.measure import MEASUREMENTS
from perdure.bench.probe import Bench, Plan
from perdure.bench.process import ProcessError, clean_env, rss_bytes, scripted_engine, serving
from perdure.bench.report import Figure
from perdure.core.errors import AgentError

IDLE_S = 1.0

Progress = Callable[[str], AbstractContextManager[None]]


class Outcome(Struct):
    figures: list[Figure] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def measure_ours(plan: Plan, *, database: str | None, only: Sequence[str], progress: Progress) -> Outcome:
    """Measure a server started for it: empty SQLite database at full durability, unless `database` names another."""
    outcome = Outcome()
    if not only or "install" in only:
        with _noting(outcome, "install", progress):
            outcome.figures += install_figures()
    if only and not {"start", "floor", *MEASUREMENTS, *CROWDS} & set(only):
        return outcome
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder, scripted_engine() as engine:
        env = clean_env({"OPENAI_BASE_URL": f"{engine.url}/v1", "OPENAI_API_KEY": "scripted"})
        if not only or "start" in only:
            with _noting(outcome, "start", progress):
                outcome.figures += start_figures(env, Path(folder))
        if not only or "floor" in only:
            with _noting(outcome, "floor", progress):
                outcome.figures += run(floor(engine.url, plan))
        if not only or {*MEASUREMENTS, *CROWDS} & set(only):
            options = ("--database", database) if database else ()
            with serving(env, *options, data_dir=Path(folder) / "server") as server:
                _measure(outcome, Bench(Target(server.url), server.pid, plan), only, progress)
    return outcome


def measure_running(
    plan: Plan,
    base_url: str,
    *,
    key: str | None,
    pid: int | None,
    engine_port: int,
    only: Sequence[str],
    progress: Progress,
) -> Outcome:
    """Measure a server that runs already and reaches its model at `engine_port`, where the scripted engine is started."""
    outcome = Outcome()
    with scripted_engine(port=engine_port):
        _measure(outcome, Bench(Target(base_url, key), pid, plan), only, progress)
    return outcome


def install_figures() -> list[Figure]:
    packages = core_packages()
    sizes = {name: size_bytes(package) / 1e6 for name, package in packages.items()}
    largest = dict(sorted(((n, round(s, 1)) for n, s in sizes.items()), key=lambda item: -item[1])[:10])
    return [
        Figure("install.packages", len(packages), {"names": sorted(packages)}),
        Figure("install.size", sum(sizes.values()), {"largest_mb": largest}),
    ]


def start_figures(env: dict[str, str], folder: Path) -> list[Figure]:
    """The second of two starts, on a database that is there: the first also writes bytecode and makes the schema."""
    times: list[float] = []
    rss = 0.0
    for _ in range(2):
        started = time.monotonic()
        with serving(env, data_dir=folder / "start") as server:
            times.append(time.monotonic() - started)
            time.sleep(IDLE_S)
            rss = rss_bytes(server.pid) / 1e6
    return [Figure("start.healthy", times[1], {"first_start_s": round(times[0], 2)}), Figure("start.rss", rss)]


def setting(plan: Plan, *, database: str | None, base_url: str | None) -> dict[str, Any]:
    """What the figures depend on, for the report."""
    from perdure import __version__

    where = "SQLite, synchronous FULL" if database is None else database.split("@")[-1]
    return {
        "perdure": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "server": base_url or f"started for this, {where}",
        "messages": plan.messages,
        "load_1m": round(os.getloadavg()[0], 1),
    }


def _measure(outcome: Outcome, bench: Bench, only: Sequence[str], progress: Progress) -> None:
    chosen = {name: measure for name, measure in MEASUREMENTS.items() if not only or name in only}
    chosen |= {name: measure for name, measure in CROWDS.items() if name in only}

    async def measure_all() -> None:
        try:
            for name, measure in chosen.items():
                with _noting(outcome, name, progress):
                    outcome.figures += await measure(bench)
        finally:
            bench.close()

    run(measure_all())


@contextmanager
def _noting(outcome: Outcome, name: str, progress: Progress) -> Generator[None]:
    """A measurement that fails is noted with its reason, and the others go on."""
    try:
        with progress(name):
            yield
    except (LoadError, ProcessError) as error:
        outcome.failures[name] = error.message


def known(names: Sequence[str]) -> None:
    """AgentError naming the measurement there is none of."""
    choices = ["install", "start", "floor", *MEASUREMENTS, *CROWDS]
    for name in names:
        if name not in choices:
            raise AgentError(f"There is no measurement {name!r}; there are: {', '.join(choices)}.")
