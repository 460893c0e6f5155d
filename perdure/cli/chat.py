"""`perdure chat`: talk to an agent. What it thinks, calls and answers is shown as it is produced."""

import sys
from typing import Any

import click

from perdure.cli import options
from perdure.cli.client import Client, ClientError, connect, segment

DEFAULT_MEMORY = [
    {"label": "human", "value": "Nothing is known about the human yet."},
    {"label": "persona", "value": "I am a helpful assistant who remembers what matters."},
]


@click.command(cls=options.Command, short_help="Talk to an agent.")
@click.argument(
    "agent",
    cls=options.Argument,
    required=False,
    metavar="[AGENT]",
    about="An agent's id or name; a new agent when left out.",
)
@click.option("--model", metavar="HANDLE", help="The new agent's model. `perdure models` lists handles.")
@click.option("--message", "-m", metavar="TEXT", help="Send this one message and leave.")
@options.base_url
def chat(agent: str | None, model: str | None, message: str | None, base_url: str | None) -> None:
    """Talk to an agent in the terminal.

    Without --message, what you type is sent line by line (Ctrl-D or /exit ends); in a pipe, stdin is one message.
    """
    from perdure.cli.agents import find_agent

    client = connect(base_url)
    if agent is not None and model is not None:
        raise ClientError("--model is for a new agent; leave out the agent's name, or --model.")
    found = find_agent(client, agent) if agent else _new_agent(client, model)
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip()
        if not message:
            raise ClientError("There is nothing to send: stdin is empty. Give --message TEXT.")
    if message is not None:
        if not send(client, found["id"], message):
            sys.exit(1)
        return
    _converse(client, found)


def send(client: Client, agent_id: str, message: str) -> bool:
    """Send one message and show what comes of it. False when the run failed."""
    from perdure.cli.show import use_colour
    from perdure.cli.stream_view import show_stream

    frames = client.stream(f"/v1/agents/{segment(agent_id)}/messages", message_body(message))
    summary = show_stream(frames, sys.stdout, colour=use_colour())
    if summary.stop_reason == "requires_approval":
        print("The agent waits for approval of this call; the API's approval message answers it.", file=sys.stderr)
    return summary.error is None


def message_body(text: str) -> dict[str, Any]:
    """One user message, streamed by token. Its otid makes a repeated request attach to the run it began."""
    import uuid

    messages = [{"role": "user", "content": text, "otid": str(uuid.uuid4())}]
    return {"messages": messages, "streaming": True, "stream_tokens": True}


def _new_agent(client: Client, model: str | None) -> dict[str, Any]:
    from perdure.cli.agents import choose_model

    created = client.post("/v1/agents/", {"model": model or choose_model(client), "memory_blocks": DEFAULT_MEMORY})
    print(f"New agent {created['name']} ({created['id']}), model {created.get('model')}.", file=sys.stderr)
    return created


def _converse(client: Client, agent: dict[str, Any]) -> None:
    print(f"Talking to {agent['name']}. Ctrl-D or /exit leaves; the agent stays.", file=sys.stderr)
    while True:
        try:
            text = input("\n         you  ").strip()
        except EOFError:
            print()
            return
        if text in ("/exit", "/quit"):
            return
        if not text:
            continue
        try:
            send(client, agent["id"], text)
        except ClientError as error:
            print(f"perdure: {error.message}", file=sys.stderr)
