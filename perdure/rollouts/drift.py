"""The drift report: for each recorded call, the prompt that re-rendering the stored messages would have made instead.

Invariant: a call is compared only where everything its prompt was rendered from is proved to be at hand: the system text and the
tools by their digests, the renderer by its own. Every other call is counted under why it could not be.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from perdure.core.errors import AgentError
from perdure.core.history import history
from perdure.core.messages import Message
from perdure.core.model import ToolSpec
from perdure.core.tokens import ROLES, Segment, Span, TokenCall, bytes_to_ids
from perdure.loop.offer import tool_specs
from perdure.providers.limited import unlimited
from perdure.providers.registry import Registry
from perdure.providers.token_exact import TokenExactModel
from perdure.providers.token_plan import common_prefix, tools_sha256
from perdure.runs.trajectories import conversations_of
from perdure.store import agents, ledger, message_reads
from perdure.store.base import Store, Tx
from perdure.tokens.base import Renderer

NEAR = 12
SYSTEM = ROLES.index("system")
Read = tuple[list[Segment], list[TokenCall], list[Message], list[ToolSpec]]


@dataclass(slots=True)
class Count:
    """`calls` compared; `drifted`: whose re-rendered prompt is another. `first`: where the first of them differs."""

    calls: int = 0
    drifted: int = 0
    first: dict[str, Any] | None = None

    def add(self, difference: dict[str, Any] | None) -> None:
        self.calls += 1
        if difference is not None:
            self.drifted += 1
            self.first = self.first or difference

    def to_json(self) -> dict[str, Any]:
        rate = self.drifted / self.calls if self.calls else None
        return {"calls": self.calls, "drifted": self.drifted, "rate": rate, "first_difference": self.first}


@dataclass(slots=True)
class Drift:
    """Over conversations; `by_tool`: of the calls whose prompts hold a tool's calls or answers, those that differ first there."""

    conversations: int = 0
    all: Count = field(default_factory=Count)
    by_model: dict[str, Count] = field(default_factory=dict)
    by_tool: dict[str, Count] = field(default_factory=dict)
    not_compared: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "conversations": self.conversations,
            **self.all.to_json(),
            "models": {name: count.to_json() for name, count in sorted(self.by_model.items())},
            "tools": {name: count.to_json() for name, count in sorted(self.by_tool.items())},
            "not_compared": dict(sorted(self.not_compared.items())),
        }


async def drift_report(store: Store, registry: Registry, **which: str) -> dict[str, Any]:
    """`which`: one of agent_id, run_id, conversation_id and job_id; a run stands for its whole conversation. NotFound."""
    report = Drift()
    for conversation_id in await conversations_of(store, **which):
        segments, calls, said, specs = await store.scan(lambda held=conversation_id: _read(held))
        report.conversations += bool(calls)
        messages = {message.id: message for message in history(said).messages}
        for segment in segments:
            own = [call for call in calls if call.segment_id == segment.id]
            renderer = await _renderer(registry, segment)
            if isinstance(renderer, str):
                report.not_compared[renderer] = report.not_compared.get(renderer, 0) + len(own)
            else:
                _compare(report, renderer, segment, own, messages, specs)
    return report.to_json()


def _read(conversation_id: str) -> Tx[Read]:
    segments = yield from ledger.segments_of_conversation(conversation_id)
    calls = yield from ledger.calls_of_conversation(conversation_id)
    said = yield from message_reads.list_messages(conversation_id=conversation_id, limit=None)
    if not segments:
        return segments, calls, said, []
    bundle = yield from agents.agent_bundle(segments[0].agent_id)
    return segments, calls, said, tool_specs(bundle.tools, (), strict=False)


async def _renderer(registry: Registry, segment: Segment) -> Renderer | str:
    """The one the segment was rendered with, or why it is not at hand."""
    if segment.tokenizer is None:
        return "the server wrote its prompts itself"
    try:
        model = unlimited((await registry.resolve(segment.model_handle, require_exact=True)).model)
    except AgentError:
        return "the model is not served now"
    if not isinstance(model, TokenExactModel):
        return "the model is not served by token ids now"
    if segment.renderer != model.renderer.info:
        return "the model has another chat template now"
    same = segment.tokenizer.sha256 == model.renderer.tokenizer.info.sha256
    return model.renderer if same else "the model has another tokenizer now"


def _compare(
    report: Drift,
    renderer: Renderer,
    segment: Segment,
    calls: Sequence[TokenCall],
    messages: dict[str, Message],
    specs: Sequence[ToolSpec],
) -> None:
    stream: array[int] = array("i")
    held: list[str] = []
    spans: list[Span] = []
    system = _system(renderer, segment, calls)
    for call in calls:
        stream.extend(bytes_to_ids(call.delta_ids))
        held += call.message_ids
        spans += call.spans
        why = None
        if system is None:
            why = "the system prompt's text is gone"
        elif segment.tools_sha256 != tools_sha256(specs):
            why = "the agent has other tools now"
        elif any(name not in messages for name in held):
            why = "a message was deleted or edited"
        if why is not None or system is None:
            report.not_compared[why or ""] = report.not_compared.get(why or "", 0) + 1
        else:
            shown = [messages[name] for name in held]
            again = array("i", _rendered(renderer, segment, system, shown, specs))
            difference = _difference(renderer, call, stream, again, spans)
            report.all.add(difference)
            report.by_model.setdefault(segment.model_handle, Count()).add(difference)
            _count_tools(report, shown, difference)
        stream.extend(completion := bytes_to_ids(call.completion_ids))
        spans.append(Span(len(completion), call.assistant_message_id, ROLES.index("assistant"), True))
        held.append(call.assistant_message_id)


def _system(renderer: Renderer, segment: Segment, calls: Sequence[TokenCall]) -> str | None:
    """The system text as it was shown: decoded from the ids, and proved by the segment's digest of it."""
    if not calls:
        return None
    ids, at, texts = bytes_to_ids(calls[0].delta_ids), 0, [""]
    for span in calls[0].spans:
        if span.role == SYSTEM and span.is_content:
            texts.append(renderer.tokenizer.decode(ids[at : at + span.length].tolist()))
        at += span.length
    for text in texts:
        if hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() == segment.system_sha256:
            return text
    return None


def _rendered(
    renderer: Renderer, segment: Segment, system: str, shown: Sequence[Message], specs: Sequence[ToolSpec]
) -> list[int]:
    settings = segment.settings
    return renderer.render(
        system,
        shown,
        specs,
        enable_thinking=settings.get("enable_thinking"),
        retention=settings.get("thinking_retention") or "all",
    ).ids


def _difference(
    renderer: Renderer, call: TokenCall, recorded: "array[int]", again: "array[int]", spans: Sequence[Span]
) -> dict[str, Any] | None:
    """None if the prompts are one; else where they part and what stands there in each."""
    if recorded == again:
        return None
    at, end, message_id = common_prefix(recorded, again), 0, ""
    for span in spans:
        end += span.length
        if at < end:
            message_id = span.message_id
            break
    decode = renderer.tokenizer.decode
    before = max(0, at - NEAR)
    return {
        "conversation_id": call.conversation_id,
        "call_id": call.id,
        "message_id": message_id,
        "position": at,
        "recorded_tokens": len(recorded),
        "rendered_tokens": len(again),
        "before": decode(recorded[before:at].tolist()),
        "recorded": decode(recorded[at : at + NEAR].tolist()),
        "rendered": decode(again[at : at + NEAR].tolist()),
    }


def _count_tools(report: Drift, shown: Sequence[Message], difference: dict[str, Any] | None) -> None:
    at = difference["message_id"] if difference is not None else None
    names: dict[str, bool] = {}
    for message in shown:
        own = [call.name for call in message.tool_calls] + [answer.name for answer in message.tool_returns]
        for name in own:
            names[name] = names.get(name, False) or message.id == at
    for name, is_there in names.items():
        report.by_tool.setdefault(name, Count()).add(difference if is_there else None)
