"""`perdure trajectory`: the token record of an agent or a run, exported and verified.

Exit status of `verify`: 0 all holds, 1 something does not, 2 the file (or the engine asked) cannot be read.
"""

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from perdure.cli import options
from perdure.cli.client import Client, ClientError, connect
from perdure.cli.show import is_terminal, paint, print_fields, print_json, print_table, progress, use_colour, warn
from perdure.core.errors import AgentError
from perdure.rollouts.export import FORMATS, JSONL, PARQUET

if TYPE_CHECKING:
    from perdure.tokens.base import Tokenizer
    from perdure.tokens.verify_report import Report

EXACT_ONLY = "Only engines that take and give token ids (SGLang, vLLM, llama.cpp, the embedded model) leave one."

target_argument = click.argument(
    "target",
    cls=options.Argument,
    metavar="AGENT|RUN|JOB",
    about="An agent's id or name, or the id of a run, conversation or rollout job.",
)


@click.group(cls=options.Group)
def trajectory() -> None:
    """Export the token record of an agent or a run, and verify one."""


@trajectory.command("export")
@target_argument
@click.option("--output", "-o", metavar="FILE", type=options.FILE, help="Write there, not to standard output.")
@click.option("--format", "format_name", metavar="FORMAT", default=JSONL, help=f"One of {', '.join(FORMATS)}.")
@options.base_url
@click.option("--database", metavar="FILE", type=options.FILE, help="Read this SQLite file, without a server.")
def export_trajectory(
    target: str, output: Path | None, format_name: str, base_url: str | None, database: Path | None
) -> None:
    """Write every rollout on record: as a line of JSON (traj/1), as Parquet, or in the shape a trainer reads.

    The same record gives the same bytes.
    """
    if format_name not in FORMATS:
        raise ClientError(f"--format: {format_name!r} is not known; use {', '.join(FORMATS)}.")
    if format_name == PARQUET and output is None and is_terminal():
        raise ClientError("Parquet is not for a terminal. Give a file with --output.")
    if base_url is not None and database is not None:
        raise ClientError("Give --base-url or --database, not both.")
    if database is not None:
        data = _from_database(database, target, format_name)
    else:
        data = _from_server(connect(base_url), target, format_name)
    if not data:
        raise ClientError(f"{target} has no token record. {EXACT_ONLY}")
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    # whole or not at all: a file cut between two lines would still verify
    partial = output.with_name(output.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(output)
    except OSError as error:
        raise ClientError(f"{output} cannot be written: {error.strerror}.") from error
    counted = {JSONL: "rollouts, ", PARQUET: ""}.get(format_name, "rows, ")
    number = f"{data.count(bytes([10]))} " if counted else ""
    print(f"{output}: {number}{counted}{len(data):,} bytes", file=sys.stderr)


def _from_server(client: Client, target: str, format_name: str) -> bytes:
    wanted = None if format_name == JSONL else format_name
    return client.get_bytes("/v1/trajectories", **which(client, target), format=wanted)


def which(client: Client, target: str) -> dict[str, str]:
    """The query that names a run, a conversation, a rollout job or an agent."""
    kind = target.partition("-")[0]
    names = {"run": "run_id", "conv": "conversation_id", "job": "job_id"}
    if kind in names and target != kind:
        return {names[kind]: target}
    from perdure.cli.agents import find_agent

    return {"agent_id": find_agent(client, target)["id"]}


def _from_database(file: Path, target: str, format_name: str) -> bytes:
    import asyncio

    from perdure.rollouts.export.formats import dump
    from perdure.runs.trajectories import rollouts_of_either
    from perdure.store.migrate import sqlite_is_current
    from perdure.store.sqlite import SqliteStore

    if not file.is_file():
        raise ClientError(
            f"There is no file {file}. Give the server's database, by default perdure.db in its data directory."
        )
    if not sqlite_is_current(file):
        raise ClientError(
            f"{file} has another version's schema. Start `perdure serve` on it once to bring it up to date."
        )

    async def read() -> bytes:
        store = SqliteStore(file, readers=1)
        try:
            found = [rollout async for rollout in rollouts_of_either(store, target)]
            return dump(found, format_name) if found else b""
        finally:
            await store.close()

    return asyncio.run(read())


@trajectory.command("drift")
@target_argument
@options.base_url
@options.as_json
def show_drift(target: str, base_url: str | None, as_json: bool) -> None:
    """Show how often re-rendering the stored messages would have made another prompt than the model was given."""
    client = connect(base_url)
    report = client.get("/v1/trajectories/drift", **which(client, target))
    if as_json:
        print_json(report)
        return
    rows = [("all", "", report), *(("model", name, each) for name, each in report["models"].items())]
    rows += [("tool", name, each) for name, each in report["tools"].items()]
    cells = [
        (kind, name, each["calls"], each["drifted"], None if each["rate"] is None else f"{each['rate']:.1%}")
        for kind, name, each in rows
    ]
    print_table(("of", "name", "calls", "re-rendered otherwise", "rate"), cells)
    if (first := report["first_difference"]) is not None:
        print()
        print_fields(
            [
                ("first difference", f"call {first['call_id']}, token {first['position']}"),
                ("in message", first["message_id"] or "the template's own text"),
                ("after", repr(first["before"])),
                ("the model saw", repr(first["recorded"])),
                ("re-rendered", repr(first["rendered"])),
            ]
        )
    for why, number in report["not_compared"].items():
        warn(f"not compared: {number} calls, {why}")


@trajectory.command("verify")
@click.argument("file", cls=options.Argument, type=options.FILE, metavar="FILE", about="An export, of any format.")
@click.option("--engine", metavar="URL", help="Recompute logprobs by this llama.cpp or SGLang server.")
@click.option(
    "--server",
    "--base-url",
    "server",
    metavar="URL",
    help="Recompute logprobs by the engines of this running Perdure.",
)
@click.option(
    "--tokenizer",
    metavar="PLACE",
    type=options.FILE,
    help="A model folder, tokenizer.json or .gguf: checks ids against text too.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    help="Largest mean logprob difference; ten times it for the 99th percentile. (0.02; 0.05 for llama.cpp)",
)
@click.option(
    "--against", metavar="FILE", type=options.FILE, help="A traj/1 export: this file must train the very same."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def verify_trajectory(
    file: Path,
    engine: str | None,
    server: str | None,
    tokenizer: Path | None,
    tolerance: float | None,
    against: Path | None,
    as_json: bool,
) -> None:
    """Check every invariant an export can be held to, and name the first bad token."""
    try:
        report = _verified(file, engine, server, tokenizer, tolerance, against)
    except OSError as error:
        _stop(f"{file} cannot be read: {error.strerror}.", as_json)
    except AgentError as error:
        _stop(f"{file}: {error.message}", as_json)
    if as_json:
        print_json(report.to_dict())
    else:
        _print_report(report)
    if not report.ok:
        sys.exit(1)


def _stop(message: str, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"ok": False, "error": message})
    print(f"perdure: {message}", file=sys.stderr)
    sys.exit(2)


def _verified(
    file: Path,
    engine: str | None,
    server: str | None,
    place: Path | None,
    tolerance: float | None,
    against: Path | None,
) -> "Report":
    from perdure.rollouts.export.verify import verify_any

    if engine is not None and server is not None:
        raise ClientError("give --engine or --server, not both.")
    data = file.read_bytes()
    tokenizer = _tokenizer(place) if place is not None else None
    recomputing = engine or server
    shown = progress(f"Recomputing logprobs by {recomputing}") if recomputing else nullcontext()
    with shown, ExitStack() as stack:
        return verify_any(
            data,
            tokenizer=tokenizer,
            scorer=(lambda records: stack.enter_context(_scorer(engine, server, records))) if recomputing else None,
            tolerance=tolerance,
            against=against.read_bytes() if against is not None else None,
        )


@contextmanager
def _scorer(engine: str | None, server: str | None, rollouts: list[dict[str, Any]]) -> Generator[Any]:
    if engine is not None:
        from perdure.cli.scoring import engine_score

        with engine_score(engine, rollouts) as score:
            yield score
    else:
        from perdure.cli.scoring import server_score

        assert server is not None
        yield server_score(server)


def _tokenizer(place: Path) -> "Tokenizer":
    from perdure.tokens.base import TokenizerNotFound
    from perdure.tokens.discovery import load

    try:
        found = load(place, place.name)
    except TokenizerNotFound as error:
        raise ClientError(str(error)) from error
    if found is None:
        raise ClientError(f"there is no tokenizer.json or .gguf at {place}.")
    return found.tokenizer


def _print_report(report: "Report") -> None:
    from perdure.tokens.verify_report import MEANING

    colour = use_colour()
    print_fields(
        [
            ("rollouts", report.rollouts),
            ("segments", report.segments),
            ("calls", report.calls),
            ("tokens", report.tokens),
            ("sampled tokens", report.sampled_tokens),
            ("trainable tokens", report.trainable_tokens),
            ("drift", f"{report.drift} prompts rebuilt without a declared cause"),
            ("declared fallbacks", report.fallbacks),
        ]
    )
    if (stats := report.logprobs) is not None:
        text = f"mean {stats.mean:.3g}, p99 {stats.p99:.3g}, max {stats.max:.3g} over {stats.tokens} tokens"
        print_fields([("logprob difference", f"{text} (tolerance {stats.tolerance:g})")])
    print()
    broken = {violation.invariant for violation in report.violations}
    rows = [
        (name, MEANING[name], times, "VIOLATED" if name in broken else "holds")
        for name, times in sorted(report.checked.items())
    ]
    print_table(("invariant", "meaning", "checked", "result"), rows)
    for note in report.notes:
        print(paint(f"not checked: {note}", "yellow", colour=colour))
    for violation in report.violations:
        print(f"{paint(violation.invariant, 'bold red', colour=colour)}  {violation.place}: {violation.message}")
    if report.violation_count > len(report.violations):
        print(f"... and {report.violation_count - len(report.violations)} more of the same kinds")
    if report.ok:
        checks = sum(report.checked.values())
        print(paint(f"OK: {len(report.checked)} invariants hold in {checks:,} checks", "bold green", colour=colour))
        return
    print(paint(f"NOT OK: {report.violation_count} violations", "bold red", colour=colour))
    if (first := report.first_bad_token) is not None:
        print(paint(f"first bad token: {first.place}: {first.message}", "bold red", colour=colour))
