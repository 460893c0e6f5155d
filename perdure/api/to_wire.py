"""Events and stored messages as Letta JSON: the only place where the wire's messages are made.

One event is one object, the same in a stream, in an answer and in a listing.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, assert_never

from perdure.core.events import (
    CompactionStarted,
    Event,
    Heard,
    LogEnded,
    ReasoningDelta,
    RunFailed,
    RunStarted,
    RunStopped,
    Said,
    Summarised,
    TextDelta,
    ToolCallDelta,
    ToolsReturned,
    UsageReported,
)
from perdure.core.ids import part_otid
from perdure.core.messages import Approval, ImagePart, Message, Part, TextPart, ToolCall, ToolReturn
from perdure.loop.shown import SEND_MESSAGE, Speech, shown
from perdure.memory.summary import framed, packed

STREAM_ERROR_TYPES = frozenset(
    {
        "llm_timeout",
        "llm_rate_limit",
        "llm_authentication",
        "llm_empty_response",
        "llm_bad_request",
        "llm_insufficient_credits",
        "llm_error",
        "context_window_overflow_in_system_prompt",
        "internal_error",
        "stream_incomplete",
    }
)


def iso_seconds(at_us: int) -> str:
    """The wire's message date: whole seconds, UTC as `+00:00`."""
    return _iso_of_second(at_us // 1_000_000)


@lru_cache(maxsize=256)
def _iso_of_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()


def iso(at_us: int | None) -> str | None:
    """The wire's resource date: microseconds kept."""
    if at_us is None:
        return None
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat()


def letta_messages(
    messages: Iterable[Message],
    *,
    types: Sequence[str] | None = None,
    newest_first: bool = False,
    compaction: bool = False,
    speech: Speech = SEND_MESSAGE,
) -> list[dict[str, Any]]:
    """Stored messages as a listing shows them. `newest_first` turns the messages round, never the parts of one.

    `compaction`: as in `to_wire`; asking for summary messages by type is enough too. `speech`: how what older agents say is
    told apart.
    """
    compaction = compaction or asks_for_compaction(types)
    found: list[dict[str, Any]] = []
    ordered = reversed(list(messages)) if newest_first else messages
    for message in ordered:
        for event in shown(message, speech):
            item = to_wire(event, message.run_id, sender_id=message.sender_id, name=message.name, compaction=compaction)
            if types is None or item["message_type"] in types:
                found.append(item)
    return found


def asks_for_compaction(types: Iterable[str] | None) -> bool:
    return types is not None and not {"summary_message", "event_message"}.isdisjoint(types)


def to_wire(
    event: Event,
    run_id: str | None,
    seq_id: int | None = None,
    *,
    sender_id: str | None = None,
    name: str | None = None,
    compaction: bool = False,
) -> dict[str, Any]:
    """One event as its JSON object. `compaction`: whoever reads it knows summary messages; others get a user message."""
    match event:
        case ReasoningDelta():
            return _reasoning(event, event.text, event.native, event.signature, run_id, seq_id)
        case TextDelta():
            return {**_base(event, "assistant_message", event.part, run_id, seq_id), "content": event.text}
        case ToolCallDelta():
            delta = _call_delta(event)
            kind = "approval_request_message" if event.needs_approval else "tool_call_message"
            base = _base(event, kind, event.part, run_id, seq_id)
            if event.needs_approval:
                base["otid"] = event.message_id
            return {**base, "tool_call": delta, "tool_calls": delta}
        case Said():
            return _said(event, run_id, seq_id)
        case ToolsReturned():
            return _returned(event, run_id, seq_id)
        case Heard():
            return _heard(event.message, run_id, seq_id)
        case CompactionStarted():
            return {
                "id": event.event_id,
                "date": iso_seconds(event.at_us),
                "name": None,
                "message_type": "event_message",
                "otid": None,
                "sender_id": None,
                "step_id": None,
                "is_err": None,
                "event_type": "compaction",
                "event_data": {
                    "trigger": event.trigger,
                    "context_token_estimate": event.context_tokens,
                    "context_window": event.context_window,
                },
                "run_id": run_id,
                "seq_id": seq_id,
            }
        case Summarised():
            return _summary(event, run_id, seq_id) if compaction else _plain_summary(event, run_id, seq_id)
        case RunStarted():
            return ping(event.run_id, event.at_us, seq_id)
        case RunStopped():
            return {"message_type": "stop_reason", "stop_reason": event.reason}
        case UsageReported():
            return usage(event)
        case RunFailed():
            return error_message(event, seq_id)
        case LogEnded():
            return {}
        case _:
            assert_never(event)


def _base(
    event: Any,
    kind: str,
    part: int | None,
    run_id: str | None,
    seq_id: int | None,
    *,
    sender_id: str | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    return {
        "id": event.message_id,
        "date": iso_seconds(event.at_us),
        "name": name,
        "message_type": kind,
        "otid": part_otid(event.message_id, part) if part is not None else None,
        "sender_id": sender_id,
        "step_id": event.step_id,
        "is_err": None,
        "seq_id": seq_id,
        "run_id": run_id,
    }


def _reasoning(
    event: Said | ReasoningDelta, text: str, native: bool, signature: str | None, run_id: str | None, seq_id: int | None
) -> dict[str, Any]:
    return {
        **_base(event, "reasoning_message", event.part, run_id, seq_id),
        "source": "reasoner_model" if native else "non_reasoner_model",
        "reasoning": text,
        "signature": signature,
    }


def _call_delta(event: ToolCallDelta) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if event.name is not None or event.needs_approval:
        delta["name"] = event.name
    if event.arguments is not None:
        delta["arguments"] = event.arguments
    delta["tool_call_id"] = event.tool_call_id
    return delta


def _said(event: Said, run_id: str | None, seq_id: int | None) -> dict[str, Any]:
    """`interrupted`, which only answers have that broke off, is ours."""
    said = _said_part(event, run_id, seq_id)
    return said if event.interrupted is None else {**said, "interrupted": event.interrupted}


def _said_part(event: Said, run_id: str | None, seq_id: int | None) -> dict[str, Any]:
    if event.reasoning is not None:
        return _reasoning(event, event.reasoning, event.native, event.signature, run_id, seq_id)
    if event.hidden_reasoning is not None:
        state = "redacted" if event.hidden_reasoning else "omitted"
        return {
            **_base(event, "hidden_reasoning_message", event.part, run_id, seq_id),
            "state": state,
            "hidden_reasoning": event.hidden_reasoning or None,
        }
    if event.text is not None:
        return {**_base(event, "assistant_message", event.part, run_id, seq_id), "content": event.text}
    calls = [_call(call) for call in event.tool_calls or event.approval_calls]
    kind = "tool_call_message" if event.tool_calls else "approval_request_message"
    base = _base(event, kind, event.part, run_id, seq_id)
    if event.approval_calls:
        base["otid"] = event.message_id
    return {**base, "tool_call": calls[0], "tool_calls": calls}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments, "tool_call_id": call.id}


def _returned(event: ToolsReturned, run_id: str | None, seq_id: int | None) -> dict[str, Any]:
    returns = [tool_return(answer) for answer in event.returns]
    first = event.returns[0]
    return {
        **_base(event, "tool_return_message", 0, run_id, seq_id),
        "is_err": True if first.status == "error" else None,
        "tool_return": _plain(first),
        "status": first.status,
        "tool_call_id": first.tool_call_id,
        "stdout": list(first.stdout) if first.stdout else None,
        "stderr": list(first.stderr) if first.stderr else None,
        "tool_returns": returns,
    }


def tool_return(answer: ToolReturn) -> dict[str, Any]:
    content = answer.content if isinstance(answer.content, str) else [wire_part(part) for part in answer.content]
    return {
        "type": "tool",
        "tool_return": content,
        "status": answer.status,
        "tool_call_id": answer.tool_call_id,
        "stdout": list(answer.stdout) if answer.stdout else None,
        "stderr": list(answer.stderr) if answer.stderr else None,
    }


def _plain(answer: ToolReturn) -> str:
    if isinstance(answer.content, str):
        return answer.content
    return "\n".join(part.text if isinstance(part, TextPart) else "[Image omitted]" for part in answer.content)


def wire_part(part: Part) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        if part.url is not None:
            return {"type": "image", "source": {"type": "url", "url": part.url}}
        return {
            "type": "image",
            "source": {"type": "base64", "media_type": part.media_type, "data": part.data, "detail": part.detail},
        }
    return {"type": "text", "text": getattr(part, "text", "")}


def _content(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    """A lone text is a string on the wire, anything else a list of parts."""
    if all(isinstance(part, TextPart) for part in parts) and len(parts) <= 1:
        return "".join(getattr(part, "text", "") for part in parts)
    return [wire_part(part) for part in parts]


def _heard(message: Message, run_id: str | None, seq_id: int | None) -> dict[str, Any]:
    event = Heard(message=message, message_id=message.id, step_id=message.step_id, at_us=message.created_us)
    kind = {"system": "system_message", "approval": "approval_response_message"}.get(message.role, "user_message")
    base = _base(event, kind, None, run_id, seq_id, sender_id=message.sender_id, name=message.name)
    base["otid"] = message.otid or part_otid(message.id, 0)
    if message.role == "approval":
        return base | _approvals(message)
    if message.role == "system":
        return base | {"content": message.text}
    return base | {"content": _content(message.content)}


def _approvals(message: Message) -> dict[str, Any]:
    given = [_approval(item) for item in message.approvals]
    given += [tool_return(answer) for answer in message.tool_returns]
    first = message.approvals[0] if message.approvals else None
    return {
        "approvals": given,
        "approve": first.approve if first else None,
        "approval_request_id": first.tool_call_id if first else None,
        "reason": first.reason if first else None,
    }


def _approval(item: Approval) -> dict[str, Any]:
    given: dict[str, Any] = {
        "type": "approval",
        "tool_call_id": item.tool_call_id,
        "approve": item.approve,
        "reason": item.reason,
    }
    if item.arguments is not None:
        given["edited_arguments"] = item.arguments
    return given


def _summary(event: Summarised, run_id: str | None, seq_id: int | None) -> dict[str, Any]:
    stats = event.stats
    return {
        **_base(event, "summary_message", 0, run_id, seq_id),
        "summary": event.summary,
        "compaction_stats": None
        if stats is None
        else {
            "trigger": stats.trigger,
            "context_tokens_before": stats.tokens_before,
            "context_tokens_after": stats.tokens_after,
            "context_window": stats.context_window,
            "messages_count_before": stats.messages_before,
            "messages_count_after": stats.messages_after,
        },
    }


def _plain_summary(event: Summarised, run_id: str | None, seq_id: int | None) -> dict[str, Any]:
    text = event.summary if event.stats is None else "".join(part.text for part in framed(event.summary, event.stats))
    return {**_base(event, "user_message", 0, run_id, seq_id), "content": packed(text, event.at_us)}


def ping(run_id: str, at_us: int, seq_id: int | None) -> dict[str, Any]:
    """`seq_id`: the last one sent before it, or its own where the ping is stored."""
    return {
        "id": f"ping-{run_id.removeprefix('run-')}",
        "date": iso_seconds(at_us),
        "name": None,
        "message_type": "ping",
        "otid": None,
        "sender_id": None,
        "step_id": None,
        "is_err": None,
        "seq_id": seq_id,
        "run_id": run_id,
    }


def usage(event: UsageReported) -> dict[str, Any]:
    """Token sums; `turns` and `logprobs` stand beside them in streams that asked for them."""
    counts = event.usage
    found: dict[str, Any] = {
        "message_type": "usage_statistics",
        "completion_tokens": counts.completion_tokens,
        "prompt_tokens": counts.prompt_tokens,
        "total_tokens": counts.total_tokens,
        "step_count": event.step_count,
        "run_ids": list(event.run_ids) if event.run_ids else None,
        "cached_input_tokens": counts.cached_input_tokens,
        "cache_write_tokens": counts.cache_write_tokens,
        "reasoning_tokens": counts.reasoning_tokens,
        "context_tokens": event.context_tokens,
    }
    if event.turns is not None:
        found["turns"] = event.turns
    if event.logprobs is not None:
        found["logprobs"] = event.logprobs
    return found


def error_message(event: RunFailed, seq_id: int | None) -> dict[str, Any]:
    kind = event.error_type if event.error_type in STREAM_ERROR_TYPES else "llm_error"
    if event.error_type in ("invalid", "not_found", "conflict"):
        kind = "internal_error"
    return {
        "message_type": "error_message",
        "run_id": event.run_id,
        "error_type": kind,
        "message": event.message,
        "detail": event.detail,
        "seq_id": seq_id,
    }
