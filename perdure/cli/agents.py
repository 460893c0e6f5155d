"""`perdure agents`: list, show, create and delete agents, and take them out to files and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from perdure.cli import options
from perdure.cli.client import Client, ClientError, connect, segment
from perdure.cli.show import print_fields, print_json, print_table

INCLUDE = ["agent.blocks", "agent.tools", "agent.tags"]
agent_argument = click.argument("agent", cls=options.Argument, metavar="AGENT", about="An agent's id or name.")


@click.group(cls=options.Group)
def agents() -> None:
    """List, show, create, delete, export and import agents."""


@agents.command("list")
@options.base_url
@click.option("--name", help="Only agents of this name.")
@options.limit(50)
@options.as_json
def list_agents(base_url: str | None, name: str | None, limit: int, as_json: bool) -> None:
    """List agents, the newest first."""
    found = connect(base_url).get("/v1/agents/", limit=limit, name=name, include=["agent.tags"])
    if as_json:
        print_json(found)
        return
    rows = [(a["id"], a["name"], handle(a), ", ".join(a.get("tags") or []) or None, a.get("created_at")) for a in found]
    print_table(("id", "name", "model", "tags", "created"), rows, empty="No agents yet. `perdure chat` creates one.")


@agents.command("show")
@agent_argument
@options.base_url
@options.as_json
def show_agent(agent: str, base_url: str | None, as_json: bool) -> None:
    """Show one agent: its model, memory, tools and system prompt."""
    found = find_agent(connect(base_url), agent)
    if as_json:
        print_json(found)
        return
    fields: list[tuple[str, Any]] = [(key, found.get(key)) for key in ("id", "name", "description", "agent_type")]
    fields += [("model", handle(found)), ("created", found.get("created_at")), ("tags", found.get("tags") or None)]
    fields += [("tools", ", ".join(tool["name"] for tool in found.get("tools") or []) or None)]
    fields += [("tool rules", found.get("tool_rules") or None), ("stopped", found.get("last_stop_reason"))]
    fields += [(f"[{block['label']}]", block.get("value")) for block in blocks(found)]
    fields += [("system", found.get("system"))]
    print_fields(fields)


@agents.command("create")
@click.argument(
    "name", cls=options.Argument, required=False, metavar="[NAME]", about="Its name; made up when left out."
)
@click.option("--model", metavar="HANDLE", help="`perdure models` lists handles.")
@click.option(
    "--memory",
    "-m",
    metavar="LABEL=TEXT",
    multiple=True,
    help="A memory block; may be given more than once.",
)
@click.option("--system", help="The system prompt, or @FILE to read it from a file.")
@click.option("--tool", metavar="NAME", multiple=True, help="A tool to attach by name.")
@options.base_url
@options.as_json
def create_agent(
    name: str | None,
    model: str | None,
    memory: tuple[str, ...],
    system: str | None,
    tool: tuple[str, ...],
    base_url: str | None,
    as_json: bool,
) -> None:
    """Create an agent and print its id."""
    client = connect(base_url)
    body: dict[str, Any] = {"model": model or choose_model(client), "memory_blocks": parse_memory(memory)}
    if name is not None:
        body["name"] = name
    if system is not None:
        body["system"] = _read_text(system)
    if tool:
        body["tools"] = list(tool)
    created = client.post("/v1/agents/", body)
    print_json(created) if as_json else print(created["id"])


@agents.command("delete")
@agent_argument
@options.base_url
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def delete_agent(agent: str, base_url: str | None, yes: bool) -> None:
    """Delete an agent with its conversations and token record."""
    import sys

    client = connect(base_url)
    found = find_agent(client, agent)
    if not yes:
        if not sys.stdin.isatty():
            raise ClientError("Deleting asks first, and nobody is there to answer: give --yes.")
        click.confirm(f"Delete {found['name']} ({found['id']}) and all it remembers?", abort=True)
    client.delete(f"/v1/agents/{segment(found['id'])}")
    print(f"Deleted {found['id']}.")


@agents.command("export")
@agent_argument
@click.option("--output", "-o", type=options.FILE, help="Write here instead of printing it.")
@click.option("--conversation", help="Its messages, instead of the agent's own.")
@click.option("--scrub-messages", is_flag=True, help="Leave all messages out.")
@click.option("--legacy", is_flag=True, help="Write the old format, one agent with all in it.")
@options.base_url
def export_agent(
    agent: str,
    output: Path | None,
    conversation: str | None,
    scrub_messages: bool,
    legacy: bool,
    base_url: str | None,
) -> None:
    """Write an agent to an agent file (.af): its settings, memory, tools and messages, without the values of its secrets."""
    client = connect(base_url)
    query = {"conversation_id": conversation, "scrub_messages": scrub_messages, "use_legacy_format": legacy}
    raw = client.get_bytes(f"/v1/agents/{segment(find_agent(client, agent)['id'])}/export", **query)
    if output is None:
        print(raw.decode())
        return
    try:
        output.write_bytes(raw)
    except OSError as error:
        raise ClientError(f"{output} cannot be written: {error.strerror}.") from error


@agents.command("import")
@click.argument("file", cls=options.Argument, type=options.FILE, metavar="FILE", about="An agent file.")
@click.option("--name", help="The agent's name, instead of the one in the file.")
@click.option("--model", metavar="HANDLE", help="Its model, instead of the one in the file.")
@click.option("--secret", metavar="NAME=VALUE", multiple=True, help="A secret of its; may be given more than once.")
@click.option("--strip-messages", is_flag=True, help="Leave all messages out.")
@click.option(
    "--keep-tools", is_flag=True, help="Leave tools that are here as they are, whatever the file says of them."
)
@options.base_url
@options.as_json
def import_agent(
    file: Path,
    name: str | None,
    model: str | None,
    secret: tuple[str, ...],
    strip_messages: bool,
    keep_tools: bool,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Make the agents of an agent file and print their ids. What could not be taken over is said on stderr."""
    import json
    import sys

    secrets = dict(_pair(item, "--secret") for item in secret)
    fields = {"append_copy_suffix": "false", "strip_messages": str(strip_messages).lower()}
    fields |= {"override_existing_tools": str(not keep_tools).lower(), "secrets": json.dumps(secrets)}
    fields |= {key: value for key, value in (("name", name), ("model", model)) if value is not None}
    if not file.is_file():
        raise ClientError(f"There is no file {file}.")
    made = connect(base_url).upload("/v1/agents/import", file, fields)
    if as_json:
        print_json(made)
        return
    for note in made.get("notes") or []:
        print(f"note: {note}", file=sys.stderr)
    for agent_id in made["agent_ids"]:
        print(agent_id)


def _pair(given: str, option: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals or not name.strip():
        raise ClientError(f"{option} {given!r} is not NAME=VALUE.")
    return name.strip(), value


def find_agent(client: Client, agent: str) -> dict[str, Any]:
    """The agent of that id or name. ClientError when there is none, or the name is not its alone."""
    if agent.startswith("agent-"):
        return client.get(f"/v1/agents/{segment(agent)}", include=INCLUDE)
    named = client.get("/v1/agents/", name=agent, include=INCLUDE, limit=50)
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(a["id"] for a in named)
        raise ClientError(f"{len(named)} agents are called {agent!r}; give an id: {ids}.")
    raise ClientError(f"There is no agent called {agent!r}. `perdure agents list` shows those there are.")


def choose_model(client: Client) -> str:
    """The model to use when nobody named one: PERDURE_MODEL, else the first the server offers."""
    import os

    if named := os.environ.get("PERDURE_MODEL"):
        return named
    offered = [m for m in client.get("/v1/models/") if m.get("handle")]
    if not offered:
        raise ClientError("The server offers no model. `perdure models` says what is wrong with each provider.")
    return offered[0]["handle"]


def parse_memory(given: Sequence[str]) -> list[dict[str, str]]:
    parsed: list[dict[str, str]] = []
    for item in given:
        label, equals, value = item.partition("=")
        if not equals or not label.strip():
            raise ClientError(f"--memory {item!r} is not LABEL=TEXT, as in --memory human='Name: Ada'.")
        parsed.append({"label": label.strip(), "value": value})
    return parsed


def blocks(agent: dict[str, Any]) -> list[dict[str, Any]]:
    """An agent's memory blocks, wherever the server put them."""
    return agent.get("blocks") or (agent.get("memory") or {}).get("blocks") or []


def handle(agent: dict[str, Any]) -> str | None:
    return agent.get("model") or (agent.get("llm_config") or {}).get("handle")


def _read_text(given: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise ClientError(f"{given[1:]} cannot be read: {error.strerror}.") from error
