"""`perdure agents`: list, show, create and delete agents, and take them out to files and back."""

from pathlib import Path
from typing import Annotated, Any

import typer

from perdure.cli.client import Client, ClientError, connect, segment
from perdure.cli.options import AsJson, BaseUrl, Limit, new_app
from perdure.cli.show import print_fields, print_json, print_table

app = new_app("List, show, create, delete, export and import agents.", no_args_is_help=True)

INCLUDE = ["agent.blocks", "agent.tools", "agent.tags"]
AgentArg = Annotated[str, typer.Argument(metavar="AGENT", help="An agent's id or name.")]


@app.command("list")
def list_agents(
    base_url: BaseUrl = None,
    name: Annotated[str | None, typer.Option(help="Only agents of this name.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List agents, the newest first."""
    found = connect(base_url).get("/v1/agents/", limit=limit, name=name, include=["agent.tags"])
    if as_json:
        print_json(found)
        return
    rows = [(a["id"], a["name"], handle(a), ", ".join(a.get("tags") or []) or None, a.get("created_at")) for a in found]
    print_table(("id", "name", "model", "tags", "created"), rows, empty="No agents yet. `perdure chat` creates one.")


@app.command("show")
def show_agent(agent: AgentArg, base_url: BaseUrl = None, as_json: AsJson = False) -> None:
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


@app.command("create")
def create_agent(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Its name; made up when left out.")] = None,
    model: Annotated[str | None, typer.Option(metavar="HANDLE", help="`perdure models` lists handles.")] = None,
    memory: Annotated[
        list[str] | None,
        typer.Option("--memory", "-m", metavar="LABEL=TEXT", help="A memory block; may be given more than once."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt, or @FILE to read it from a file.")] = None,
    tool: Annotated[list[str] | None, typer.Option("--tool", metavar="NAME", help="A tool to attach by name.")] = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Create an agent and print its id."""
    client = connect(base_url)
    body: dict[str, Any] = {"model": model or choose_model(client), "memory_blocks": parse_memory(memory or [])}
    if name is not None:
        body["name"] = name
    if system is not None:
        body["system"] = _read_text(system)
    if tool:
        body["tools"] = tool
    created = client.post("/v1/agents/", body)
    print_json(created) if as_json else print(created["id"])


@app.command("delete")
def delete_agent(
    agent: AgentArg,
    base_url: BaseUrl = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete an agent with its conversations and token record."""
    import sys

    client = connect(base_url)
    found = find_agent(client, agent)
    if not yes:
        if not sys.stdin.isatty():
            raise ClientError("Deleting asks first, and nobody is there to answer: give --yes.")
        typer.confirm(f"Delete {found['name']} ({found['id']}) and all it remembers?", abort=True)
    client.delete(f"/v1/agents/{segment(found['id'])}")
    print(f"Deleted {found['id']}.")


@app.command("export")
def export_agent(
    agent: AgentArg,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of printing it.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Its messages, instead of the agent's own.")] = None,
    scrub_messages: Annotated[bool, typer.Option("--scrub-messages", help="Leave all messages out.")] = False,
    legacy: Annotated[bool, typer.Option("--legacy", help="Write the old format, one agent with all in it.")] = False,
    base_url: BaseUrl = None,
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


@app.command("import")
def import_agent(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An agent file.")],
    name: Annotated[str | None, typer.Option(help="The agent's name, instead of the one in the file.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="HANDLE", help="Its model, instead of the one in the file.")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option("--secret", metavar="NAME=VALUE", help="A secret of its; may be given more than once."),
    ] = None,
    strip_messages: Annotated[bool, typer.Option("--strip-messages", help="Leave all messages out.")] = False,
    keep_tools: Annotated[
        bool,
        typer.Option("--keep-tools", help="Leave tools that are here as they are, whatever the file says of them."),
    ] = False,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make the agents of an agent file and print their ids. What could not be taken over is said on stderr."""
    import json
    import sys

    secrets = dict(_pair(item, "--secret") for item in secret or [])
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


def parse_memory(given: list[str]) -> list[dict[str, str]]:
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
