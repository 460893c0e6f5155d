"""Groups: are the attempts of a group attempts at one thing, and is no call in two rollouts?

A file may hold part of a group (one that was sifted or paged): that is noted, and never an error.
"""

from collections.abc import Sequence
from typing import Any

from perdure.tokens.record import Rollout
from perdure.tokens.verify_report import Findings, Report

ALIKE = ("task hash", "agent snapshot", "tools", "model", "sampling")
NOT_CONFIGURATION = ("seed", "max_new_tokens", "max_tokens")


def check_groups(rollouts: Sequence[tuple[int, Rollout]], report: Report) -> None:
    """G1, G2, C1 over a whole file; `rollouts` with their line numbers."""
    groups: dict[str, list[tuple[int, Rollout]]] = {}
    for number, rollout in rollouts:
        if rollout.group_id is not None:
            groups.setdefault(rollout.group_id, []).append((number, rollout))
    for group_id, members in groups.items():
        _check_size(group_id, members, report)
        _check_alike(group_id, members, report)
    _check_isolated(rollouts, report)


def _check_size(group_id: str, members: Sequence[tuple[int, Rollout]], report: Report) -> None:
    size = members[0][1].group_size
    places: set[int] = set()
    for number, rollout in members:
        found, index = Findings(report, number, rollout.rollout_id), rollout.group_index
        message = f"its group {group_id} has {size} attempts by the first of them, {rollout.group_size} by this one"
        found.expect("G1", rollout.group_size == size, message)
        if index is not None:
            fits = 0 <= index < (size or index + 1) and index not in places
            found.expect("G1", fits, f"is attempt {index} of group {group_id}: there is another, or no such place")
            places.add(index)
    if size is not None:
        number, rollout = members[-1]
        message = f"group {group_id} has {len(members)} attempts here and is said to have {size}"
        Findings(report, number, rollout.rollout_id).expect("G1", len(members) <= size, message)
        if len(members) < size:
            report.notes.append(f"G1: {message}: incomplete in this file.")


def _check_alike(group_id: str, members: Sequence[tuple[int, Rollout]], report: Report) -> None:
    first = _configuration(members[0][1])
    for number, rollout in members[1:]:
        own = _configuration(rollout)
        pairs = zip(ALIKE, own, first, strict=True)
        other = [name for name, one, same in pairs if one is not None and same is not None and one != same]
        message = f"differs from the first attempt of group {group_id} in its {', '.join(other)}"
        Findings(report, number, rollout.rollout_id).expect("G2", not other, message)


def _configuration(rollout: Rollout) -> tuple[Any, ...]:
    """What attempts of one group have in common, in the order of `ALIKE`."""
    sampling = rollout.calls[0].sampling if rollout.calls else {}
    kept = {name: value for name, value in sampling.items() if name not in NOT_CONFIGURATION}
    task = (rollout.task or {}).get("hash")
    return task, rollout.agent_snapshot_sha256, rollout.tools_sha256, rollout.model.handle, kept


def _check_isolated(rollouts: Sequence[tuple[int, Rollout]], report: Report) -> None:
    """C1. One run's export repeats the calls before it as context: only what trains must be somewhere once."""
    trained: dict[str, str] = {}
    asked: dict[str, str] = {}
    for number, rollout in rollouts:
        found = Findings(report, number, rollout.rollout_id, rollout)
        for call in rollout.calls:
            if call.trainable:
                other = trained.setdefault(call.call_id, rollout.rollout_id)
                message = f"is trained in {other} too"
                found.expect("C1", other == rollout.rollout_id, message, call_id=call.call_id)
            if call.engine_request_id is not None:
                other = asked.setdefault(call.engine_request_id, call.call_id)
                message = f"has the engine request of call {other}"
                found.expect("C1", other == call.call_id, message, call_id=call.call_id)
