"""What the demo does, in order: a server, an agent, a few messages, and the proof of what was recorded.

The embedded model is too small to choose tools or to talk about what they returned, so its agent's rules name the tool a
message must call, a grammar keeps the call well-formed, and the turn ends with it; what the model writes into the call is
its own. Other models get no rules.
"""

import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from msgspec import Struct

from perdure.bench.process import Child, serving
from perdure.cli.agents import blocks
from perdure.cli.chat import message_body
from perdure.cli.client import Client, ClientError, segment
from perdure.cli.demo_proof import prove
from perdure.cli.show import paint, print_fields, progress, use_colour
from perdure.cli.stream_view import StreamSummary, show_stream

SERVER_START_TIMEOUT_S = 60.0
MAX_STEPS = 3
ANSWER_TOKENS = 48

SYSTEM = """You are Sam, a friendly assistant. Answer in one short sentence.
When the human says something about themselves, call memory_insert. For example, when the human says "My name is Bob.", call:
<tool_call>
{"name": "memory_insert", "arguments": {"label": "human", "new_string": "Bob"}}
</tool_call>"""
MEMORY = [
    {"label": "human", "value": "The human's name:"},
    {"label": "persona", "value": "I am Sam. I answer in one short sentence."},
]
TOOL_NAME = "fahrenheit_to_celsius"
TOOL_SOURCE = f'''
def {TOOL_NAME}(fahrenheit: int) -> str:
    """Convert a temperature from degrees Fahrenheit to degrees Celsius.

    Args:
        fahrenheit (int): The temperature in degrees Fahrenheit.
    """
    return f"{{fahrenheit}} F is {{(fahrenheit - 32) * 5 / 9:.1f}} C"
'''


class Message(Struct, frozen=True):
    """`tool`: the call it should lead to; `args`: what of the call a small model is spared."""

    text: str
    tool: str | None = None
    args: dict[str, Any] | None = None


STORY = (
    Message("My name is Ada.", "memory_insert", {"label": "human", "insert_line": -1}),
    Message("Convert 68 fahrenheit to celsius.", TOOL_NAME),
    Message("What is my name?"),
    Message("Thank you! What is the capital of France?"),
)


def tell(handle: str, *, embedded: bool, folder: Path, env: Mapping[str, str]) -> None:
    """The whole demo. ClientError, ProcessError or another AgentError when any of it fails."""
    with ExitStack() as stack:
        with progress("Starting perdure serve"):
            server = stack.enter_context(serving(env, data_dir=folder, timeout_s=SERVER_START_TIMEOUT_S))
        print_fields((("server", server.url), ("data", str(folder)), ("model", handle)))
        client = Client(server.url)
        with progress("Looking for the model"):
            _check_offered(client, handle)
        _tell(client, server, handle, embedded=embedded, folder=folder)
    _say_what_next(embedded)


def _tell(client: Client, server: Child, handle: str, *, embedded: bool, folder: Path) -> None:
    _heading("An agent with two memory blocks and a Python tool")
    agent_id = _create(client, handle)
    _show_memory(client, agent_id)
    rules: list[dict[str, Any]] = []
    for number, message in enumerate(STORY, 1):
        _heading(f"Message {number} of {len(STORY)}")
        if embedded and rules_for(message) != rules:
            rules = rules_for(message)
            client.patch(f"/v1/agents/{segment(agent_id)}", {"tool_rules": rules})
        _send(client, agent_id, message, must_call=embedded, first=number == 1)
        if message.tool == "memory_insert":
            _show_memory(client, agent_id)
    _heading("Every token on record")
    prove(client, agent_id, folder / "trajectory.jsonl", token_exact=embedded)


def rules_for(message: Message) -> list[dict[str, Any]]:
    """The tool rules that make a model begin and end its turn with one call of the message's tool."""
    if message.tool is None:
        return []
    first: dict[str, Any] = {"type": "run_first", "tool_name": message.tool}
    if message.args is not None:
        first["args"] = message.args
    return [first, {"type": "exit_loop", "tool_name": message.tool}]


def _check_offered(client: Client, handle: str) -> None:
    offered = [model.get("handle") for model in client.get("/v1/models/")]
    if handle in offered:
        return
    if handle.startswith("local/"):
        raise ClientError(
            f"The embedded model {handle} is not offered: install it with pip install 'perdure[local]', "
            "or set PERDURE_MODEL to the handle of another model."
        )
    others = ", ".join(str(each) for each in offered[:8]) or "none"
    raise ClientError(f"PERDURE_MODEL is {handle}, which the server does not offer. It offers: {others}.")


def _create(client: Client, handle: str) -> str:
    tool = client.put("/v1/tools/", {"source_code": TOOL_SOURCE})
    body = {
        "name": "Demo",
        "model": handle,
        "system": SYSTEM,
        "memory_blocks": MEMORY,
        "include_base_tools": False,
        "tools": ["memory_insert"],
        "tool_ids": [tool["id"]],
        "model_settings": {"provider_type": "openai", "temperature": 0, "max_output_tokens": ANSWER_TOKENS},
    }
    agent = client.post("/v1/agents/", body)
    print_fields((("agent", agent["id"]), ("tools", f"memory_insert, {TOOL_NAME}")))
    return agent["id"]


def _show_memory(client: Client, agent_id: str) -> None:
    agent = client.get(f"/v1/agents/{segment(agent_id)}", include=["agent.blocks"])
    print_fields([(f"[{block['label']}]", block["value"]) for block in blocks(agent)])


def _send(client: Client, agent_id: str, message: Message, *, must_call: bool, first: bool) -> StreamSummary:
    colour = use_colour()
    print(paint(f"{'you':>12}", "bold", colour=colour) + f"  {message.text}", flush=True)
    body = {**message_body(message.text), "max_steps": MAX_STEPS, "return_token_ids": must_call}
    frames: Iterable[dict[str, Any]] = client.stream(f"/v1/agents/{segment(agent_id)}/messages", body)
    if first:
        # the first message loads the model, which takes the longest of all
        with progress("Waiting for the model's first words"):
            opening = _until_output(frames)
        frames = chain(opening, frames)
    summary = show_stream(frames, sys.stdout, colour=colour)
    if summary.error is not None:
        raise ClientError(f"The message failed: {summary.error}")
    called = [name for name, status, _ in summary.tool_returns if status == "success"]
    if must_call and message.tool is not None and message.tool not in called:
        raise ClientError(f"{message.tool} should have been called and was not (stopped: {summary.stop_reason}).")
    return summary


def _until_output(frames: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The frames up to the first that is not a ping."""
    seen: list[dict[str, Any]] = []
    for frame in frames:
        seen.append(frame)
        if frame.get("message_type") != "ping":
            break
    return seen


def _heading(text: str) -> None:
    print("\n" + paint(f"== {text}", "bold cyan", colour=use_colour()), flush=True)


def _say_what_next(embedded: bool) -> None:
    _heading("What next")
    if embedded:
        print(
            "SmolLM2-135M is here to show that everything works on any machine: memory, tools, streams and exact token\n"
            "records. It is a poor agent; its tool calls above were required by rules and shaped by a grammar.\n"
            "One variable names a better model, with its provider set up as usual:\n\n"
            "  PERDURE_MODEL=openai/gpt-4.1-mini make demo        (OPENAI_API_KEY)\n"
            "  PERDURE_MODEL=sglang/Qwen/Qwen3-8B make demo       (SGLANG_BASE_URL; token-exact)\n"
        )
    print("Serve it:  perdure serve      Talk:  perdure chat      Look:  perdure agents list, perdure runs list")
