"""`perdure rollouts`: try an agent many times at tasks, watch it, keep what came of it.

The job is the server's: a command that is interrupted leaves it running and says so, and `watch` shows it again.
"""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from perdure.cli import options
from perdure.cli.agents import find_agent
from perdure.cli.client import Client, ClientError, connect, segment
from perdure.cli.show import is_terminal, print_fields, print_json, print_table, printable
from perdure.rollouts.export import FORMATS, JSONL

out_option = click.option(
    "--out", "-o", metavar="FILE", type=options.FILE, help="Write the trajectories there at the end."
)
format_option = click.option(
    "--format",
    "format_name",
    metavar="FORMAT",
    default=JSONL,
    help="What --out writes, as `trajectory export` does.",
)
job_argument = click.argument("job", cls=options.Argument, metavar="JOB", about="A rollout job's id.")


@click.group(cls=options.Group)
def rollouts() -> None:
    """Run an agent in groups of attempts at tasks, scored."""


@rollouts.command("run")
@click.argument(
    "tasks",
    cls=options.Argument,
    metavar="TASKS",
    type=options.FILE,
    about="JSON lines of {input} or {turns}, with id and metadata if wanted.",
)
@click.option("--agent", "-a", metavar="AGENT", required=True, help="An agent's id or name.")
@click.option("--group", "-g", type=click.IntRange(1), default=1, help="Attempts at each task.")
@click.option(
    "--reward",
    metavar="FILE|URL",
    multiple=True,
    help="A Python file with reward(rollout), or a judge. May be repeated.",
)
@click.option("--max-concurrency", type=click.IntRange(1), default=16, help="Attempts that run at the same time.")
@click.option("--max-steps", type=click.IntRange(1), default=50, help="Steps a turn may take.")
@click.option("--model", metavar="HANDLE", help="Another model than the agent's.")
@click.option("--temperature", type=click.FloatRange(0), help="Another temperature than the agent's.")
@out_option
@format_option
@options.base_url
@options.as_json
def run_rollouts(
    tasks: Path,
    agent: str,
    group: int,
    reward: tuple[str, ...],
    max_concurrency: int,
    max_steps: int,
    model: str | None,
    temperature: float | None,
    out: Path | None,
    format_name: str,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Start a job, show it live, and exit with 0 if every attempt came to its end, else with 1.

    Ctrl-C stops watching, with status 130: the job goes on at the server, and `watch` shows it again. `cancel` ends it.
    """
    _check_format(format_name)
    client = connect(base_url)
    body: dict[str, Any] = {
        "agent_id": find_agent(client, agent)["id"],
        "tasks": _tasks(tasks),
        "group_size": group,
        "max_concurrency": max_concurrency,
        "max_steps": max_steps,
        "rewards": [_reward(each) for each in reward],
    }
    if model is not None:
        body["model"] = model
    if temperature is not None:
        body["model_settings"] = {"temperature": temperature}
    job = client.post("/v1/rollouts", body)
    print(f"{job['id']}: {len(job['rollouts'])} rollouts of {job['tasks']} tasks", file=sys.stderr)
    _see_through(client, job, out=out, format_name=format_name, as_json=as_json)


@rollouts.command("watch")
@job_argument
@out_option
@format_option
@options.base_url
@options.as_json
def watch_job(job: str, out: Path | None, format_name: str, base_url: str | None, as_json: bool) -> None:
    """Show a job that runs already live, to its end: as `run` does from its beginning."""
    _check_format(format_name)
    client = connect(base_url)
    found = client.get(f"/v1/rollouts/{segment(job)}")
    _see_through(client, found, out=out, format_name=format_name, as_json=as_json)


def _see_through(client: Client, job: dict[str, Any], *, out: Path | None, format_name: str, as_json: bool) -> None:
    try:
        ended = _watch(client, job)
    except (KeyboardInterrupt, ClientError) as error:
        if isinstance(error, ClientError):
            print(f"perdure: {error.message}", file=sys.stderr)
        print(
            f"Not watched any more; {job['id']} goes on at the server. `perdure rollouts watch {job['id']}` shows it again, "
            f"`perdure rollouts cancel {job['id']}` ends it.",
            file=sys.stderr,
        )
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)
    if out is not None:
        wanted = None if format_name == JSONL else format_name
        _write(out, client.get_bytes("/v1/trajectories", job_id=job["id"], format=wanted))
    if as_json:
        print_json(ended)
    else:
        _print_job(ended)
    if ended["status"] != "completed" or ended["counts"].get("failed"):
        sys.exit(1)


def _check_format(name: str) -> None:
    if name not in FORMATS:
        raise ClientError(f"--format: {name!r} is not known; use {', '.join(FORMATS)}.")


@rollouts.command("show")
@job_argument
@options.base_url
@options.as_json
def show_job(job: str, base_url: str | None, as_json: bool) -> None:
    """Show a job: how far it is, and each of its rollouts."""
    found = connect(base_url).get(f"/v1/rollouts/{segment(job)}")
    if as_json:
        print_json(found)
        return
    _print_job(found)
    columns = ("id", "task_id", "group_index", "status", "reward", "error")
    print()
    print_table(columns, [[rollout.get(name) for name in columns] for rollout in found["rollouts"]])


@rollouts.command("cancel")
@job_argument
@options.base_url
@options.as_json
def cancel_job(job: str, base_url: str | None, as_json: bool) -> None:
    """End a job: what has not begun never will, what goes on is cancelled."""
    found = connect(base_url).post(f"/v1/rollouts/{segment(job)}/cancel")
    if as_json:
        print_json(found)
    else:
        _print_job(found)


def _tasks(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{file} cannot be read: {error}.") from error
    tasks: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            task = json.loads(line)
        except ValueError as error:
            raise ClientError(f"{file}, line {number} is not JSON: {error}.") from error
        if not isinstance(task, dict) or ("input" in task) == ("turns" in task):
            raise ClientError(f'{file}, line {number}: a task is {{"input": "..."}} or {{"turns": ["...", "..."]}}.')
        tasks.append(task)
    if not tasks:
        raise ClientError(f'{file} has no task. Write one a line, as {{"input": "..."}}.')
    return tasks


def _reward(given: str) -> dict[str, Any]:
    if given.startswith(("http://", "https://")):
        return {"name": urlsplit(given).hostname or "judge", "url": given}
    file = Path(given)
    try:
        return {"name": file.stem, "source_code": file.read_text(encoding="utf-8")}
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"--reward: {given} is neither a URL nor a file that can be read: {error}.") from error


def _watch(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job as it ended, each rollout shown as it does."""
    with _view(len(job["rollouts"])) as show:
        for frame in client.stream(f"/v1/rollouts/{segment(job['id'])}/stream", method="GET"):
            if frame["message_type"] == "job":
                return frame
            show(frame)
    raise ClientError(f"The stream ended before {job['id']} did.")


@contextmanager
def _view(total: int) -> Generator[Any]:
    """A bar with counts and the mean reward on a terminal; a line a rollout in a pipe."""
    counts: dict[str, int] = {}
    rewards: list[float] = []

    def told(frame: dict[str, Any]) -> str:
        counts[frame["status"]] = counts.get(frame["status"], 0) + 1
        if frame["reward"] is not None:
            rewards.append(frame["reward"])
        mean = f", mean reward {sum(rewards) / len(rewards):.4g}" if rewards else ""
        return ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) + mean

    if not is_terminal(sys.stderr):

        def line(frame: dict[str, Any]) -> None:
            told(frame)
            scored = "" if frame["reward"] is None else f" reward {frame['reward']:.4g}"
            failed = f": {printable(frame['error'])}" if frame["error"] else ""
            place = f"{printable(frame['task_id'])} #{frame['group_index']}"
            done = sum(counts.values())
            print(f"{done}/{total} {place} {frame['status']}{scored}{failed}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[told]}", markup=False))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("rollouts", total=total, told="")

        def advance(frame: dict[str, Any]) -> None:
            text = told(frame)
            if frame["error"]:
                where = f"{frame['task_id']} #{frame['group_index']}: {frame['error']}"
                progress.console.print(printable(where), style="red", markup=False)
            progress.update(bar, advance=1, told=text)

        yield advance


def _print_job(job: dict[str, Any]) -> None:
    counts = ", ".join(f"{number} {status}" for status, number in sorted(job["counts"].items()))
    fields: list[tuple[str, Any]] = [(name, job.get(name)) for name in ("id", "agent_id", "status", "tasks")]
    fields += [("group size", job["group_size"]), ("rollouts", counts), ("mean reward", job["mean_reward"])]
    if job.get("error"):
        fields.append(("error", job["error"]))
    print_fields(fields)


def _write(file: Path, data: bytes) -> None:
    """Whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(file)
    except OSError as error:
        raise ClientError(f"{file} cannot be written: {error.strerror}.") from error
    print(f"{file}: {len(data):,} bytes", file=sys.stderr)
