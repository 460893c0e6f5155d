"""The checker of the chaos tests finds every kind of damage it is there for, and nothing in what is sound."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.checker import Evidence, findings
from tests.chaos.clients import Transcript
from tests.chaos.story import Story, story


def told_with(calls: tuple[str, ...]) -> Story:
    return next(told for n in range(10_000) if (told := story(f"m{n}")).calls == calls)


FIRST, SECOND = told_with(("note", "look", "memory_insert")), told_with(())


def sound() -> Evidence:
    """Two finished runs of one conversation, each followed by a client."""
    messages: list[dict[str, Any]] = []
    events: dict[str, list[Any]] = {}
    ran: dict[str, int] = {}
    steps: list[dict[str, Any]] = []
    for number, told in enumerate((FIRST, SECOND)):
        _play(told, f"run-{number}", messages, events, ran, steps)
    runs = {
        run_id: {
            "id": run_id,
            "conversation_id": "agent-1",
            "status": "completed",
            "stop_reason": "end_turn",
            "step_count": sum(step["run_id"] == run_id for step in steps),
            "error": None,
        }
        for run_id in events
    }
    transcripts = [_watched(told, f"run-{n}", events[f"run-{n}"]) for n, told in enumerate((FIRST, SECOND))]
    return Evidence(
        runs=runs,
        conversations=[{"id": "agent-1", "active_run_id": None, "pending": None}],
        messages=[{"pos": pos, **message} for pos, message in enumerate(messages, 1)],
        steps=steps,
        events={run_id: [(1, 2, log[:2]), (3, len(log), log[2:])] for run_id, log in events.items()},
        begun=0,
        journal=FIRST.line(2),
        ran=ran,
        transcripts=transcripts,
    )


def _play(
    told: Story,
    run_id: str,
    messages: list[dict[str, Any]],
    events: dict[str, list[Any]],
    ran: dict[str, int],
    steps: list[dict[str, Any]],
) -> None:
    common = {"conversation_id": "agent-1", "run_id": run_id}
    log = events[run_id] = [{"type": "run_started"}]

    def say(role: str, text: str, **more: Any) -> None:
        id = f"message-{len(messages)}"
        messages.append({"id": id, "role": role, "content": [{"type": "text", "text": text}], **common, **more})
        if role == "assistant":
            log.append({"type": "text_delta", "message_id": id, "text": text})

    say("user", told.message)
    for step, name in enumerate(told.calls):
        call_id = f"call-{told.marker}-{step}"
        if name != "memory_insert":
            ran[call_id.removeprefix("call-")] = 1
        say("assistant", told.said(step), tool_calls=[{"id": call_id, "name": name}])
        log.append({"type": "tool_call_delta"})
        content = told.line(step) if name == "memory_insert" else "done"
        back = {"tool_call_id": call_id, "name": name, "status": "success", "content": content}
        say("tool", "", tool_returns=[back])
        log.append({"type": "tools_returned", "returns": [back]})
        steps.append({"id": f"step-{len(steps)}", "run_id": run_id})
    say("assistant", told.answer)
    steps.append({"id": f"step-{len(steps)}", "run_id": run_id})
    log += [{"type": "run_stopped", "reason": "end_turn"}, {"type": "usage_reported"}, {"type": "log_ended"}]


def _watched(told: Story, run_id: str, log: list[Any]) -> Transcript:
    transcript = Transcript(told, "agent-1", "stream", run_id=run_id, ended=True)
    kinds = {
        "run_started": "ping",
        "text_delta": "assistant_message",
        "tool_call_delta": "tool_call_message",
        "tools_returned": "tool_return_message",
        "run_stopped": "stop_reason",
        "usage_reported": "usage_statistics",
    }
    for seq, event in enumerate(log[:-1], 1):
        frame = {"message_type": kinds[event["type"]], "seq_id": seq, "id": event.get("message_id")}
        frame |= {"content": event.get("text"), "stop_reason": event.get("reason")}
        frame["tool_returns"] = [{"tool_return": each["content"]} for each in event.get("returns", ())]
        transcript.add(json.dumps(frame))
    return transcript


def test_what_is_sound_has_no_findings() -> None:
    assert findings(sound()) == []


def message(evidence: Evidence, role: str, at: int = 0) -> dict[str, Any]:
    return [each for each in evidence.messages if each["role"] == role][at]


def swap(items: list[Any], a: int, b: int) -> None:
    items[a], items[b] = items[b], items[a]


def drop_frame(evidence: Evidence) -> None:
    del evidence.transcripts[0].frames[4]


def repeat_answer(evidence: Evidence) -> None:
    again = copy.deepcopy(evidence.messages[7])
    evidence.messages.insert(8, again | {"id": "message-again"})


def shown_twice_differently(evidence: Evidence) -> None:
    line = evidence.transcripts[0].frames[2]
    evidence.transcripts[0].add(line.replace(FIRST.marker, "other"))


def asked_again(evidence: Evidence) -> None:
    """The second request of a client became another run."""
    again = [message | {"run_id": "run-2", "id": f"{message['id']}-again"} for message in evidence.messages[-2:]]
    evidence.messages += again
    evidence.runs["run-2"] = evidence.runs["run-1"] | {"id": "run-2"}
    evidence.steps.append({"id": "step-again", "run_id": "run-2"})
    evidence.events["run-2"] = evidence.events["run-1"]


def broken_off(evidence: Evidence) -> None:
    last = evidence.messages[-1]
    last |= {"interrupted": "cancelled", "content": [{"type": "text", "text": SECOND.answer[:5]}]}


def second_log_end(evidence: Evidence) -> None:
    first, last, events = evidence.events["run-1"][-1]
    evidence.events["run-1"][-1] = (first, last + 1, [*events, {"type": "log_ended"}])


DAMAGE: dict[str, tuple[Callable[[Evidence], Any], str]] = {
    "a run that goes on": (lambda e: e.runs["run-0"].update(status="running"), "stuck"),
    "a run that failed for a fault of ours": (
        lambda e: e.runs["run-0"].update(status="failed", error=b'{"type": "internal_error"}'),
        "failed",
    ),
    "a lease that nobody gave back": (lambda e: e.conversations[0].update(active_run_id="run-0"), "blocked"),
    "a request that waits for ever": (lambda e: e.conversations[0].update(pending=b"{}"), "blocked"),
    "an intent of no run": (lambda e: setattr(e, "begun", 1), "blocked"),
    "a chunk of events that is lost": (lambda e: e.events["run-0"].pop(0), "events"),
    "a chunk of events that is stored twice": (
        lambda e: e.events["run-0"].insert(0, e.events["run-0"][0]),
        "events",
    ),
    "a log that ends twice": (second_log_end, "events"),
    "a log without an end": (lambda e: e.events["run-1"].pop(), "events"),
    "an answer that is lost": (lambda e: e.messages.pop(), "lost"),
    "a return that is lost": (lambda e: e.messages.pop(2), "order"),
    "a step that is stored twice": (repeat_answer, "doubled"),
    "a message that is stored twice": (lambda e: e.messages.append(e.messages[-1]), "doubled"),
    "a request that became two runs": (asked_again, "doubled"),
    "messages out of order": (lambda e: swap(e.messages, 1, 3), "order"),
    "two runs at once in one conversation": (lambda e: swap(e.messages, 7, 8), "order"),
    "a text that is another": (
        lambda e: message(e, "assistant").update(content=[{"type": "text", "text": "other"}]),
        "order",
    ),
    "a step that is not counted": (lambda e: e.steps.pop(), "steps"),
    "a cut answer of a run that was not cancelled": (broken_off, "order"),
    "a run without its row": (lambda e: e.runs.pop("run-1"), "lost"),
    "a tool that ran twice": (lambda e: setattr(e, "ran", {**e.ran, f"{FIRST.marker}-0": 2}), "tools"),
    "a return of a call that never ran": (lambda e: setattr(e, "ran", {}), "tools"),
    "a call that nobody remembers": (lambda e: setattr(e, "ran", {**e.ran, "elsewhere-0": 1}), "lost"),
    "a memory edit that is lost": (lambda e: setattr(e, "journal", ""), "journal"),
    "a memory edit that was made twice": (lambda e: setattr(e, "journal", f"{e.journal}\n{e.journal}"), "journal"),
    "a memory edit that overwrote another": (lambda e: setattr(e, "journal", f"x\n{e.journal}"), "journal"),
    "a frame that is left out": (drop_frame, "transcript"),
    "a frame that was shown in two ways": (shown_twice_differently, "transcript"),
    "a stream that does not end": (lambda e: setattr(e.transcripts[0], "ended", False), "transcript"),
    "a run that was acknowledged and is not there": (
        lambda e: setattr(e.transcripts[0], "run_id", "run-9"),
        "lost",
    ),
    "a text shown and not kept": (
        lambda e: setattr(e.transcripts[0], "frames", dict(e.transcripts[1].frames)),
        "transcript",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found(kind: str) -> None:
    evidence = sound()
    harm, expected = DAMAGE[kind]
    harm(evidence)
    found = findings(evidence)
    assert any(line.startswith(expected) for line in found), found


def test_an_idempotent_tool_may_run_twice() -> None:
    evidence = sound()
    evidence.ran = {**evidence.ran, f"{FIRST.marker}-1": 2}
    assert findings(evidence) == []
