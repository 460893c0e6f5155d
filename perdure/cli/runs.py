"""`perdure runs`: what ran, how it ended, what each step cost."""

from datetime import datetime
from typing import Any

import click

from perdure.cli import options
from perdure.cli.agents import find_agent
from perdure.cli.client import connect, segment
from perdure.cli.show import print_fields, print_json, print_table


@click.group(cls=options.Group)
def runs() -> None:
    """List runs and show how one went."""


@runs.command("list")
@options.base_url
@click.option("--agent", metavar="AGENT", help="Only this agent's: an id or a name.")
@click.option("--active", is_flag=True, help="Only runs that have not ended.")
@options.limit(20)
@options.as_json
def list_runs(base_url: str | None, agent: str | None, active: bool, limit: int, as_json: bool) -> None:
    """List runs, the newest first. A run is one message to an agent and all that follows from it."""
    client = connect(base_url)
    agent_id = find_agent(client, agent)["id"] if agent else None
    found = client.get("/v1/runs/", agent_id=agent_id, limit=limit, active="true" if active else None)
    if as_json:
        print_json(found)
        return
    rows = [
        (r["id"], r.get("status"), r.get("stop_reason"), took(r), r.get("created_at"), r.get("agent_id")) for r in found
    ]
    print_table(("id", "status", "stop reason", "took", "created", "agent"), rows, empty="No runs.")


@runs.command("show")
@click.argument("run", cls=options.Argument, metavar="RUN", about="A run's id.")
@options.base_url
@options.as_json
def show_run(run: str, base_url: str | None, as_json: bool) -> None:
    """Show one run: its state, its error if it failed, and its steps."""
    client = connect(base_url)
    path = f"/v1/runs/{segment(run)}"
    found = client.get(path)
    steps = client.get(f"{path}/steps", order="asc")
    usage = client.get(f"{path}/usage")
    if as_json:
        print_json({**found, "steps": steps, "usage": usage})
        return
    fields: list[tuple[str, Any]] = [(key, found.get(key)) for key in ("id", "agent_id", "conversation_id", "status")]
    fields += [("stop reason", found.get("stop_reason")), ("created", found.get("created_at")), ("took", took(found))]
    fields += [(name, (usage or {}).get(f"{name}_tokens")) for name in ("prompt", "completion", "total")]
    if error := (found.get("metadata") or {}).get("error"):
        fields.append(("error", error))
    print_fields(fields)
    rows = [
        (s["id"], s.get("status"), s.get("model"), s.get("prompt_tokens"), s.get("completion_tokens")) for s in steps
    ]
    if rows:
        print()
        print_table(("step", "status", "model", "prompt tokens", "completion tokens"), rows)


def took(run: dict[str, Any]) -> str | None:
    """How long a run took, from its own clock where it has one."""
    if (ns := run.get("total_duration_ns")) is not None:
        return f"{ns / 1e9:.2f} s"
    if run.get("created_at") and run.get("completed_at"):
        span = datetime.fromisoformat(run["completed_at"]) - datetime.fromisoformat(run["created_at"])
        return f"{span.total_seconds():.2f} s"
    return None
