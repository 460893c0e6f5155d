"""Reads what the database holds and what every client was shown, and says what does not fit. It uses none of the server's code.

`Evidence` is plain rows and transcripts, so that a test can damage it on purpose and see the damage found.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.chaos.clients import Transcript
from tests.chaos.story import Story, story_of
from tests.chaos.world import World

IDEMPOTENT = "look"
MEMORY = "memory_insert"
PROVIDER_TROUBLE = "llm_"


@dataclass
class Evidence:
    """`runs`, `messages`, `conversations`, `steps`: as their tables, bodies decoded. `events`: run id -> (first, last, events)
    of each chunk. `begun`: how many calls are still on record as under way. `journal`: the block that all agents
    write. `ran`: call id -> how often it was carried out."""

    runs: dict[str, dict[str, Any]]
    conversations: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    events: dict[str, list[tuple[int, int, list[Any]]]]
    begun: int
    journal: str
    ran: Mapping[str, int]
    transcripts: list[Transcript]


async def gather(world: World, transcripts: list[Transcript]) -> Evidence:
    runs = await world.rows(
        "SELECT id, conversation_id, status, stop_reason, step_count, error, created_us, attempts FROM runs"
    )
    names = ("id", "conversation_id", "status", "stop_reason", "step_count", "error", "created_us", "attempts")
    conversations = await world.rows("SELECT id, active_run_id, pending FROM conversations")
    messages = await world.rows("SELECT pos, body FROM messages ORDER BY pos")
    steps = await world.rows("SELECT id, run_id FROM steps")
    events: dict[str, list[tuple[int, int, list[Any]]]] = defaultdict(list)
    for run_id, first, last, body in await world.rows(
        "SELECT run_id, first_seq, last_seq, body FROM run_events ORDER BY run_id, first_seq"
    ):
        events[run_id].append((first, last, msgspec.msgpack.decode(body)))
    return Evidence(
        runs={row[0]: dict(zip(names, row, strict=True)) for row in runs},
        conversations=[dict(zip(("id", "active_run_id", "pending"), row, strict=True)) for row in conversations],
        messages=[{"pos": pos, **json.loads(bytes(body))} for pos, body in messages],
        steps=[{"id": id, "run_id": run_id} for id, run_id in steps],
        events=dict(events),
        begun=(await world.rows("SELECT COUNT(*) FROM begun_calls"))[0][0],
        journal=(await world.rows("SELECT value FROM blocks WHERE label = 'journal'"))[0][0],
        ran=dict(world.ledger.ran),
        transcripts=transcripts,
    )


def findings(evidence: Evidence) -> list[str]:
    """What is wrong, one line each; [] is a clean bill."""
    return [
        *_stuck(evidence),
        *_logs(evidence),
        *_histories(evidence),
        *_tools(evidence),
        *_journal(evidence),
        *(line for transcript in evidence.transcripts for line in _transcript(transcript, evidence)),
    ]


def _stuck(evidence: Evidence) -> Iterable[str]:
    for run in evidence.runs.values():
        if run["status"] not in ("completed", "failed", "cancelled"):
            yield f"stuck: run {run['id']} is {run['status']}"
        elif run["status"] == "failed":
            kind = str(json.loads(bytes(run["error"]))["type"]) if run["error"] else "nothing"
            if not kind.startswith(PROVIDER_TROUBLE):
                yield f"failed: run {run['id']} ended with {kind}: {run['error']}"
    for conversation in evidence.conversations:
        if conversation["active_run_id"] is not None or conversation["pending"] is not None:
            yield f"blocked: conversation {conversation['id']} is held by {conversation['active_run_id']}"
    if evidence.begun:
        yield f"blocked: {evidence.begun} calls are on record as under way, and no run is"


def _logs(evidence: Evidence) -> Iterable[str]:
    """Each run's events are numbered without a gap, and end once."""
    for run_id in evidence.runs:
        chunks = evidence.events.get(run_id, [])
        expected = 1
        for first, last, events in chunks:
            if first != expected or last - first + 1 != len(events):
                yield f"events: run {run_id} has {first}..{last} ({len(events)} events) where {expected} was next"
            expected = last + 1
        kinds = [event["type"] for _, _, events in chunks for event in events]
        if kinds[-1:] != ["log_ended"] or kinds.count("log_ended") != 1 or kinds.count("run_stopped") != 1:
            yield f"events: run {run_id} ends with {kinds[-3:]}"


def _histories(evidence: Evidence) -> Iterable[str]:
    by_conversation: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for message in evidence.messages:
        if message["role"] != "system":
            by_conversation[message["conversation_id"]].append(message)
    steps = Counter(step["run_id"] for step in evidence.steps)
    seen = Counter(message["id"] for message in evidence.messages)
    yield from (f"doubled: message {id} is there {count} times" for id, count in seen.items() if count > 1)
    asked = Counter(_text(message) for message in evidence.messages if message["role"] == "user")
    yield from (f"doubled: {text!r} was taken for {count} requests" for text, count in asked.items() if count > 1)
    for messages in by_conversation.values():
        order = [
            run_id for at, m in enumerate(messages) if (run_id := m["run_id"]) != messages[at - 1]["run_id"] or not at
        ]
        if len(set(order)) != len(order):
            yield f"order: runs are mixed in {messages[0]['conversation_id']}: {order}"
        for run_id in set(order):
            run = evidence.runs.get(run_id)
            said = [message for message in messages if message["run_id"] == run_id]
            if run is None:
                yield f"lost: run {run_id} has messages and no row"
                continue
            yield from _history(run, said)
    for run in evidence.runs.values():
        if steps[run["id"]] != run["step_count"]:
            yield f"steps: run {run['id']} counts {run['step_count']}, and {steps[run['id']]} are stored"


def _history(run: dict[str, Any], said: list[dict[str, Any]]) -> Iterable[str]:
    """The run's messages are its story, each step once and in order, as far as it came."""
    first = said[0]
    told = story_of(_text(first)) if first["role"] == "user" else None
    if told is None:
        yield f"order: run {run['id']} begins with {first['role']} {_text(first)!r}"
        return
    rest = [message for message in said[1:] if message.get("interrupted") != "retried"]
    expected = _expected(told)
    for at, message in enumerate(rest):
        if message.get("interrupted") == "cancelled":
            whole = expected[at][1] if at < len(expected) else ""
            if run["status"] != "cancelled" or at != len(rest) - 1 or not whole.startswith(_text(message)):
                yield f"order: run {run['id']} has an answer that broke off as number {at}: {_text(message)!r}"
            return
        if at >= len(expected):
            yield f"doubled: run {run['id']} goes on behind its end with {message['role']} {_text(message)!r}"
            return
        found = (message["role"], _text(message), _calls(message))
        if found != expected[at]:
            yield f"order: run {run['id']} has {found} where {expected[at]} was to be"
            return
    if run["status"] == "completed" and len(rest) != len(expected):
        yield f"lost: run {run['id']} is completed with {len(rest)} of {len(expected)} messages"
    if rest and rest[-1]["role"] == "assistant" and rest[-1].get("tool_calls"):
        yield f"blocked: run {run['id']} ends with an open call"


def _expected(told: Story) -> list[tuple[str, str, tuple[str, ...]]]:
    """(role, text, ids of calls made or answered) of the messages of a whole run, without its first."""
    found: list[tuple[str, str, tuple[str, ...]]] = []
    for step in range(len(told.calls)):
        call = (f"call-{told.marker}-{step}",)
        found += [("assistant", told.said(step), call), ("tool", "", call)]
    return [*found, ("assistant", told.answer, ())]


def _text(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message.get("content", ()) if part["type"] == "text")


def _calls(message: dict[str, Any]) -> tuple[str, ...]:
    if message["role"] == "tool":
        return tuple(each["tool_call_id"] for each in message.get("tool_returns", ()))
    return tuple(call["id"] for call in message.get("tool_calls", ()))


def _tools(evidence: Evidence) -> Iterable[str]:
    """What a return says of its call is true, and nothing ran twice that may not."""
    returned: dict[str, dict[str, Any]] = {}
    for message in evidence.messages:
        for each in message.get("tool_returns", ()):
            returned[each["tool_call_id"]] = each
    for call_id, each in returned.items():
        if each["name"] == MEMORY:
            continue
        times = evidence.ran.get(call_id.removeprefix("call-"), 0)
        if each["status"] == "success" and times == 0:
            yield f"tools: {call_id} is said to have run and did not"
        if times > 1 and each["name"] != IDEMPOTENT:
            yield f"tools: {call_id} ran {times} times"
    for call, times in evidence.ran.items():
        if f"call-{call}" not in returned:
            yield f"lost: call {call} ran {times} times, and the history does not know of it"


def _journal(evidence: Evidence) -> Iterable[str]:
    """The shared block is a line of appends: each that succeeded is there once, and what it saw was a beginning of it all."""
    lines = evidence.journal.split("\n")
    wrote: list[str] = []
    for message in evidence.messages:
        for each in message.get("tool_returns", ()):
            if each["name"] != MEMORY or each["status"] != "success":
                continue
            line = each["tool_call_id"].removeprefix("call-")
            wrote.append(line)
            if lines.count(line) != 1:
                yield f"journal: {line} is there {lines.count(line)} times"
            elif lines[: lines.index(line) + 1] != each["content"].split("\n"):
                yield f"journal: {line} was written behind {each['content']!r}, which is no beginning of the journal"
    strays = set(lines) - {*wrote, ""}
    if strays:
        yield f"journal: {sorted(strays)} is there, and no call is on record as having written it"


def _transcript(transcript: Transcript, evidence: Evidence) -> Iterable[str]:
    name = f"{transcript.story.marker} ({transcript.kind}, {transcript.run_id})"
    yield from (f"transcript: {name}: {line}" for line in transcript.wrong)
    if not transcript.ended:
        yield f"transcript: {name} never ended; {transcript.refused}"
        return
    if transcript.kind == "sync":
        yield from _sync_answer(transcript, evidence, name)
        return
    run = evidence.runs.get(str(transcript.run_id))
    if run is None:
        yield f"lost: {name} was acknowledged, and there is no such run"
        return
    stored = [event for _, _, events in evidence.events.get(run["id"], []) for event in events]
    told = [event for event in stored if event["type"] != "log_ended"]
    shown = [json.loads(transcript.frames[seq]) for seq in sorted(transcript.frames)]
    if sorted(transcript.frames) != list(range(1, len(told) + 1)):
        yield f"transcript: {name} has frames {sorted(transcript.frames)[-3:]} of {len(told)} events"
    for at, (event, frame) in enumerate(zip(told, shown, strict=False), 1):
        if _said_by(event) != _said_in(frame):
            yield f"transcript: {name}: frame {at} is {_said_in(frame)}, event {at} is {_said_by(event)}"
            break
    texts: dict[str, str] = defaultdict(str)
    for frame in shown:
        if frame.get("message_type") == "assistant_message":
            texts[frame["id"]] += frame["content"]
    held = {message["id"]: _text(message) for message in evidence.messages}
    for id, text in texts.items():
        if held.get(id) != text and not (run["status"] == "failed" and id not in held):
            yield f"transcript: {name}: {id} was shown as {text!r} and is stored as {held.get(id)!r}"


def _sync_answer(transcript: Transcript, evidence: Evidence, name: str) -> Iterable[str]:
    if transcript.answer is None:
        return
    said = [item for item in transcript.answer["messages"] if item["message_type"] == "assistant_message"]
    if said and said[-1]["content"] != transcript.story.answer:
        yield f"transcript: {name} was answered {said[-1]['content']!r}"
    held = {message["id"] for message in evidence.messages}
    yield from (f"transcript: {name} got {item['id']}, which is not stored" for item in said if item["id"] not in held)


_KINDS = {
    "run_started": "ping",
    "text_delta": "assistant_message",
    "tool_call_delta": "tool_call_message",
    "tools_returned": "tool_return_message",
    "run_stopped": "stop_reason",
    "usage_reported": "usage_statistics",
    "run_failed": "error_message",
}


def _said_by(event: dict[str, Any]) -> tuple[str, str]:
    kind = _KINDS.get(event["type"])
    if event["type"] == "said":
        kind = "tool_call_message" if event.get("tool_calls") else "assistant_message"
    returns = "".join(str(each["content"]) for each in event.get("returns", ()))
    return kind or event["type"], str(event.get("text") or event.get("reason") or returns)


def _said_in(frame: dict[str, Any]) -> tuple[str, str]:
    kind = frame["message_type"]
    if kind == "assistant_message":
        return kind, str(frame["content"])
    if kind == "tool_return_message":
        return kind, "".join(str(each["tool_return"]) for each in frame["tool_returns"])
    return kind, str(frame.get("stop_reason") or "") if kind == "stop_reason" else ""
