"""`perdure bench`: what a message, a token and a start cost, beside their budgets."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.cli import options

if TYPE_CHECKING:
    from perdure.bench.session import Outcome


@click.group(cls=options.Group, invoke_without_command=True, short_help="Measure a server against a scripted engine.")
@click.option("--quick", is_flag=True, help="Fewer of everything: about 20 s, rougher figures.")
@click.option("--only", metavar="NAME", multiple=True, help="Only this measurement; may be given more than once.")
@click.option("--database", help="Database of the server that is started: a new SQLite file when left out.")
@click.option("--base-url", metavar="URL", help="Measure this running server instead of a new one.")
@click.option("--pid", type=int, help="Process of the running server; without it, its CPU and memory are left out.")
@click.option(
    "--engine-port", type=int, default=18_900, help="With --base-url: where the server finds the scripted engine."
)
@click.option(
    "--model", metavar="HANDLE", default="openai/scripted", help="The handle that reaches the scripted engine."
)
@options.as_json
@click.pass_context
def bench(
    ctx: click.Context,
    quick: bool,
    only: tuple[str, ...],
    database: str | None,
    base_url: str | None,
    pid: int | None,
    engine_port: int,
    model: str,
    as_json: bool,
) -> None:
    """Measure a server against a scripted engine that answers at once, so that only the server's own cost is seen.

    Starts both by itself. To measure a server that runs already, start it with OPENAI_BASE_URL=http://127.0.0.1:18900/v1
    and OPENAI_API_KEY=scripted, and give --base-url and --pid. Exits with status 1 when a budget is missed or a
    measurement fails.
    """
    if ctx.invoked_subcommand is not None:
        return
    import os

    import msgspec

    from perdure.bench.probe import QUICK, Plan
    from perdure.bench.process import unwind_on_sigterm
    from perdure.bench.report import as_json as report_json
    from perdure.bench.report import kept
    from perdure.bench.session import known, measure_ours, measure_running, setting
    from perdure.cli.client import ClientError
    from perdure.cli.show import print_json, progress

    unwind_on_sigterm()
    chosen = list(only)
    known(chosen)
    plan = msgspec.structs.replace(QUICK if quick else Plan(), model=model)
    if base_url is None:
        if pid is not None:
            raise ClientError("--pid goes with --base-url: the process of a server that runs already.")
        outcome = measure_ours(plan, database=database, only=chosen, progress=progress)
    else:
        key = os.environ.get("PERDURE_PASSWORD") or os.environ.get("LETTA_API_KEY")
        outcome = measure_running(
            plan, base_url, key=key, pid=pid, engine_port=engine_port, only=chosen, progress=progress
        )
    facts = setting(plan, database=database, base_url=base_url)
    if as_json:
        print_json(report_json(outcome.figures, facts, outcome.failures))
    else:
        _print(outcome, facts)
    if not kept(outcome.figures, outcome.failures):
        sys.exit(1)


@bench.command()
@options.as_json
def parsers(as_json: bool) -> None:
    """Measure what reading a streamed token costs in each provider's wire format and each form of tool calls in text,
    beside the budget of the whole way.

    No server is started. Exits with status 1 when a format takes more than a token may cost altogether.
    """
    import msgspec

    from perdure.bench.report import BUDGETS
    from perdure.bench.text_calls import measure_form
    from perdure.bench.translators import FORMATS, measure
    from perdure.cli.show import print_json, print_table
    from perdure.core.dialect import TOOL_FORMATS

    costs = [measure(name, wire) for name, wire in FORMATS.items()]
    costs += [measure_form(tool_format) for tool_format in TOOL_FORMATS]
    ahead, alone = (BUDGETS[name].limit or 0.0 for name in ("stream.burst_cpu", "stream.alone_cpu"))
    if as_json:
        print_json(msgspec.to_builtins(costs))
    else:
        headings = ("wire format", f"engine ahead, us (of {ahead:g})", f"each token alone, us (of {alone:g})")
        print_table(headings, [(cost.name, f"{cost.ahead_us:.1f}", f"{cost.alone_us:.1f}") for cost in costs])
    if any(cost.ahead_us > ahead or cost.alone_us > alone for cost in costs):
        sys.exit(1)


@bench.command()
@click.option("--rollouts", type=click.IntRange(1), default=1000, help="How many, in groups of --group.")
@click.option("--concurrency", type=click.IntRange(1, 4096), default=1000, help="How many at the same time.")
@click.option("--group", type=click.IntRange(1), default=8, help="Attempts at one task.")
@click.option("--delay", type=click.IntRange(0), default=200, help="Milliseconds the engine thinks before each answer.")
@click.option("--kill", is_flag=True, help="Kill the server (SIGKILL) when a third have ended.")
@options.as_json
def rollouts(rollouts: int, concurrency: int, group: int, delay: int, kill: bool, as_json: bool) -> None:
    """Run many rollouts at once on the scripted engine: how many a second, in how much memory.

    Each is a fork of one agent, two turns and three model calls, one of them a memory edit. Every record is verified; with
    --kill, every call that was on disk when the server was killed is looked up in the record. Exits with status 1 when
    anything is lost.
    """
    import msgspec

    from perdure.bench.process import unwind_on_sigterm
    from perdure.bench.rollouts import Load, measure
    from perdure.cli.show import print_fields, print_json, progress

    unwind_on_sigterm()
    load = Load(rollouts=rollouts, concurrency=concurrency, group_size=group, delay_ms=delay, kill=kill)
    with progress(f"{rollouts} rollouts"):
        result = measure(load)
    found = msgspec.to_builtins(result)
    if as_json:
        print_json(found)
    else:
        shown = [(name, f"{value:,.1f}" if isinstance(value, float) else value) for name, value in found.items()]
        print_fields([(name.replace("_", " "), value) for name, value in shown if value is not None])


@bench.command()
@click.option("--steps", type=click.IntRange(1), default=600, help="Steps with the record, and as many without.")
@click.option(
    "--tokenizer", metavar="PLACE", type=options.FILE, help="Bridge with this model's tokenizer and renderer too."
)
@options.as_json
def tokens(steps: int, tokenizer: Path | None, as_json: bool) -> None:
    """Measure what the token record costs: its share of a step's CPU, and a bridge over 65,536 tokens.

    Exits with status 1 when it takes more than 3 % of a step, or a bridge more than 5 ms.
    """
    import msgspec

    from perdure.bench.process import unwind_on_sigterm
    from perdure.bench.tokens import MOST_BRIDGE_MS, MOST_SHARE, measure
    from perdure.cli.show import print_json, print_table, progress

    unwind_on_sigterm()
    with progress("The token record"):
        costs = measure(steps=steps, tokenizer=tokenizer)
    if as_json:
        print_json(msgspec.to_builtins(costs))
    else:
        rows = [
            ("step with the record, CPU", f"{costs.step_ms:.3f} ms", ""),
            ("step without it, CPU", f"{costs.step_without_ms:.3f} ms", ""),
            ("share of the record", f"{costs.share:.2%}", f"{MOST_SHARE:.0%}"),
        ]
        rows += [
            (f"bridge over 65,536 tokens, {name}", f"{cost:.2f} ms", f"{MOST_BRIDGE_MS:g} ms")
            for name, cost in costs.bridges_ms.items()
        ]
        print_table(("what", "measured", "budget"), rows)
    if not costs.kept:
        sys.exit(1)


def _print(outcome: "Outcome", facts: dict[str, Any]) -> None:
    from perdure.bench.report import rows
    from perdure.cli.show import print_table, warn

    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print_table(("what", "measured", "budget", "of budget", "verdict"), rows(outcome.figures))
    for name, reason in outcome.failures.items():
        warn(f"{name} could not be measured: {reason}")
