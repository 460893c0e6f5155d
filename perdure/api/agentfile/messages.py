"""Messages of an agent file: the archived server's stored form of them, both ways.

Invariant: a message written here is read back as it was. Tool results travel packed, `{"status", "message", "time"}`, as that
server keeps them; what it packs of users' messages is unpacked, unless the file is one of ours, which packs none.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from perdure.api.agentfile.places import objects, optional_text, text, wrong
from perdure.api.to_wire import iso, wire_part
from perdure.core.messages import (
    Approval,
    CompactionStats,
    HiddenReasoningPart,
    ImagePart,
    Interruption,
    LegacyForm,
    Message,
    Parked,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCall,
    ToolReturn,
)
from perdure.memory.times import spelt

# what only we say of a message: its field, what it is when nothing is said, its type
_OURS: dict[str, tuple[Any, Any]] = {
    "hidden": (False, bool),
    "calls_at": (None, int),
    "is_err": (None, bool),
    "parked": (None, Parked),
    "compaction": (None, CompactionStats),
    "legacy": (None, LegacyForm),
    "interrupted": (None, Interruption),
}

ROLES: frozenset[str] = frozenset({"system", "user", "assistant", "tool", "approval", "summary"})
LOST_IMAGE = "[An image that is not in the agent file]"


def file_message(message: Message, *, agent_id: str, timezone: str) -> dict[str, Any]:
    """A message as it is written, under its own id."""
    found: dict[str, Any] = {
        "type": "message",
        "id": message.id,
        "role": message.role,
        "content": _content(message, timezone),
        "name": message.name,
        "otid": message.otid,
        "sender_id": message.sender_id,
        "batch_item_id": message.batch_item_id,
        "group_id": message.group_id,
        "model": message.model,
        "agent_id": agent_id,
        "tool_calls": [_call(call) for call in message.tool_calls] or None,
        "tool_call_id": message.tool_returns[0].tool_call_id if message.role == "tool" else None,
        "tool_returns": [_return(item, message, timezone) for item in message.tool_returns]
        if message.role == "tool"
        else [],
        "created_at": iso(message.created_us),
        "approve": message.approvals[0].approve if message.approvals else None,
        "approval_request_id": message.approvals[0].tool_call_id if message.approvals else None,
        "denial_reason": message.approvals[0].reason if message.approvals else None,
        "approvals": _approvals(message),
    }
    for name, (unsaid, _) in _OURS.items():
        if (value := getattr(message, name)) is not unsaid:
            found[name] = msgspec.to_builtins(value)
    return found


def _content(message: Message, timezone: str) -> list[dict[str, Any]]:
    if message.role == "tool":
        packed = _return(message.tool_returns[0], message, timezone)["func_response"]
        return packed if isinstance(packed, list) else [{"type": "text", "text": packed, "signature": None}]
    return [_part(part) for part in message.content]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text, "signature": part.signature}
        case ImagePart():
            return wire_part(part)
        case ReasoningPart():
            return {"type": "reasoning", "is_native": part.native, "reasoning": part.text, "signature": part.signature}
        case HiddenReasoningPart(data=None):
            return {"type": "omitted_reasoning", "signature": None}
        case HiddenReasoningPart():
            return {"type": "redacted_reasoning", "data": part.data}


def _call(call: ToolCall) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
    more = {"signature": call.signature, "at": call.at}
    return found | {key: value for key, value in more.items() if value is not None}


def _return(answer: ToolReturn, message: Message, timezone: str) -> dict[str, Any]:
    if isinstance(answer.content, str):
        status = "OK" if answer.status == "success" else "Failed"
        packed: Any = json.dumps(
            {"status": status, "message": answer.content, "time": spelt(message.created_us, timezone)},
            ensure_ascii=False,
        )
    else:
        packed = [wire_part(part) for part in answer.content]
    return {
        "tool_call_id": answer.tool_call_id,
        "name": answer.name,
        "status": answer.status,
        "stdout": list(answer.stdout) if answer.stdout else None,
        "stderr": list(answer.stderr) if answer.stderr else None,
        "func_response": packed,
        **({} if answer.ran else {"ran": False}),
    }


def _approvals(message: Message) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "type": "approval",
            "tool_call_id": item.tool_call_id,
            "approve": item.approve,
            "reason": item.reason,
            **({} if item.arguments is None else {"edited_arguments": item.arguments}),
            **({"automatic": True} if item.automatic else {}),
        }
        for item in message.approvals
    ]
    if message.role == "approval":
        for item in message.tool_returns:
            content = item.content if isinstance(item.content, str) else [wire_part(part) for part in item.content]
            found.append(
                {
                    "type": "tool",
                    "tool_call_id": item.tool_call_id,
                    "name": item.name,
                    "status": item.status,
                    "tool_return": content,
                    "stdout": list(item.stdout) if item.stdout else None,
                    "stderr": list(item.stderr) if item.stderr else None,
                    **({} if item.ran else {"ran": False}),
                }
            )
    return found


class MessageReader:
    """Reads the messages of one agent in order. `packs_users`: the file is from a server that packs what users say."""

    def __init__(self, *, packs_users: bool) -> None:
        self._packs_users = packs_users
        self._names: dict[str, str] = {}
        self.lost_images = 0

    def message(self, item: dict[str, Any], message_id: str, where: str) -> Message:
        role = text(item, "role", where)
        if role not in ROLES:
            raise wrong(f"{where}.role", f"{role!r} is not known; it is one of {', '.join(sorted(ROLES))}")
        content, calls, returns = self._parts(item.get("content"), f"{where}.content")
        calls += [self._called(call, place) for place, call in objects(item, "tool_calls", where)]
        self._names |= {call.id: call.name for call in calls}
        approvals: list[Approval] = []
        if role == "tool":
            returns, content = self._returns(item, where, content, returns), []
        elif role == "approval":
            approvals, returns = self._answers(item, where)
        elif role in ("user", "summary"):
            content = self._unpacked(role, content)
        return Message(
            id=message_id,
            role=cast(Role, role),
            created_us=_time_us(item, where),
            content=tuple(content),
            tool_calls=tuple(calls),
            tool_returns=tuple(returns),
            approvals=tuple(approvals),
            otid=optional_text(item, "otid", where),
            name=optional_text(item, "name", where),
            sender_id=optional_text(item, "sender_id", where),
            group_id=optional_text(item, "group_id", where),
            batch_item_id=optional_text(item, "batch_item_id", where),
            model=optional_text(item, "model", where),
            **_ours(item, where),
        )

    def _parts(self, content: object, where: str) -> tuple[list[Part], list[ToolCall], list[ToolReturn]]:
        parts: list[Part] = []
        calls: list[ToolCall] = []
        returns: list[ToolReturn] = []
        if content is None:
            return parts, calls, returns
        if isinstance(content, str):
            return [TextPart(content)], calls, returns
        for place, part in objects({"content": content}, "content", where.removesuffix(".content")):
            match part.get("type", "text"):
                case "text":
                    parts.append(TextPart(text(part, "text", place), optional_text(part, "signature", place)))
                case "image":
                    parts.append(self._image(part, place))
                case "reasoning":
                    signature = optional_text(part, "signature", place)
                    parts.append(
                        ReasoningPart(text(part, "reasoning", place), part.get("is_native") is True, signature)
                    )
                case "summarized_reasoning":
                    said = [text(piece, "text", inner) for inner, piece in objects(part, "summary", place)]
                    parts.append(ReasoningPart("\n\n".join(said)))
                case "redacted_reasoning":
                    parts.append(HiddenReasoningPart(text(part, "data", place)))
                case "omitted_reasoning":
                    parts.append(HiddenReasoningPart())
                case "tool_call":
                    given = json.dumps(part.get("input") or {}, ensure_ascii=False)
                    calls.append(ToolCall(text(part, "id", place), text(part, "name", place), given))
                case "tool_return":
                    call_id, status = text(part, "tool_call_id", place), part.get("is_error")
                    answer = self._return(call_id, None, text(part, "content", place), "error" if status else None)
                    returns.append(answer)
                case kind:
                    raise wrong(f"{place}.type", f"{kind!r} is not a known kind of content")
        return parts, calls, returns

    def _image(self, part: dict[str, Any], where: str) -> Part:
        source = part.get("source")
        match source:
            case {"type": "url", "url": str(url)}:
                return ImagePart(url=url, detail=optional_text(cast(dict[str, Any], source), "detail", where))
            case {"data": str(data)}:
                given = cast(dict[str, Any], source)
                kind, detail = optional_text(given, "media_type", where), optional_text(given, "detail", where)
                return ImagePart(media_type=kind, data=data, detail=detail)
            case _:
                self.lost_images += 1
                return TextPart(LOST_IMAGE)

    def _called(self, call: dict[str, Any], where: str) -> ToolCall:
        function = call.get("function")
        if not isinstance(function, dict):
            raise wrong(f"{where}.function", "must be an object with name and arguments")
        function = cast(dict[str, Any], function)
        name, arguments = text(function, "name", f"{where}.function"), text(function, "arguments", f"{where}.function")
        at = call["at"] if isinstance(call.get("at"), int) else None
        return ToolCall(text(call, "id", where), name, arguments, optional_text(call, "signature", where), at)

    def _returns(
        self, item: dict[str, Any], where: str, content: Sequence[Part], given: list[ToolReturn]
    ) -> list[ToolReturn]:
        """`tool_returns`; in older files the one return is the message's own content."""
        whole = content[0].text if len(content) == 1 and isinstance(content[0], TextPart) else tuple(content)
        found = list(given)
        for place, answer in objects(item, "tool_returns", where):
            call_id = optional_text(answer, "tool_call_id", place) or optional_text(item, "tool_call_id", where)
            if call_id is None:
                raise wrong(f"{place}.tool_call_id", "is missing")
            response: Any = answer.get("func_response")
            if isinstance(response, list):
                response = tuple(self._parts(response, f"{place}.func_response")[0])
            elif not isinstance(response, str):
                response = whole
            name = optional_text(answer, "name", place) or optional_text(item, "name", where)
            found.append(self._return(call_id, name, response, answer.get("status"), answer))
        if not found and (call_id := optional_text(item, "tool_call_id", where)) is not None:
            found.append(self._return(call_id, optional_text(item, "name", where), whole, None))
        if not found:
            raise wrong(where, "a tool's message must say which call it answers, in `tool_call_id` or `tool_returns`")
        return found

    def _return(
        self, call_id: str, name: str | None, content: Any, status: object, logs: dict[str, Any] | None = None
    ) -> ToolReturn:
        if isinstance(content, str):
            content, packed = unpacked_return(content)
            status = status if status in ("success", "error") else packed
        return ToolReturn(
            tool_call_id=call_id,
            name=self._names.get(call_id) or name or "",
            status="error" if status == "error" else "success",
            content=content,
            stdout=_lines(logs, "stdout"),
            stderr=_lines(logs, "stderr"),
            ran=(logs or {}).get("ran") is not False,
        )

    def _answers(self, item: dict[str, Any], where: str) -> tuple[list[Approval], list[ToolReturn]]:
        approvals: list[Approval] = []
        returns: list[ToolReturn] = []
        for place, answer in objects(item, "approvals", where):
            call_id = text(answer, "tool_call_id", place)
            if answer.get("type", "approval") == "approval" and "approve" in answer:
                reason, edited = (
                    optional_text(answer, "reason", place),
                    optional_text(answer, "edited_arguments", place),
                )
                approvals.append(
                    Approval(call_id, answer["approve"] is True, reason, edited, answer.get("automatic") is True)
                )
                continue
            content: Any = answer.get("tool_return", answer.get("func_response"))
            if isinstance(content, list):
                content = tuple(self._parts(content, f"{place}.tool_return")[0])
            status = "error" if answer.get("status") == "error" else "success"
            name = self._names.get(call_id) or optional_text(answer, "name", place) or ""
            logs = _lines(answer, "stdout"), _lines(answer, "stderr")
            ran = answer.get("ran") is not False
            returns.append(ToolReturn(call_id, name, status, content if content is not None else "", *logs, ran))
        asked = item.get("approval_request_id")
        if not approvals and not returns and isinstance(item.get("approve"), bool) and isinstance(asked, str):
            approvals.append(Approval(asked, item["approve"], optional_text(item, "denial_reason", where)))
        return approvals, returns

    def _unpacked(self, role: str, content: list[Part]) -> list[Part]:
        if not self._packs_users or len(content) != 1 or not isinstance(content[0], TextPart):
            return content
        packed = _object(content[0].text)
        is_said = packed.get("type") == "user_message" or role == "summary"
        inner = packed.get("message")
        return [TextPart(inner)] if is_said and isinstance(inner, str) else content


def _ours(item: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        return {
            name: msgspec.convert(item[name], kind) for name, (_, kind) in _OURS.items() if item.get(name) is not None
        }
    except msgspec.ValidationError as error:
        raise wrong(where, str(error)) from error


def unpacked_return(packed: str) -> tuple[str, str]:
    """(what the tool returned, success or error) of a packed tool result; what is not packed is returned as it is."""
    found = _object(packed)
    if found.get("status") not in ("OK", "Failed") or "message" not in found:
        return packed, "success"
    inner = found["message"]
    said = inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)
    return said, "success" if found["status"] == "OK" else "error"


def _object(packed: str) -> dict[str, Any]:
    if not packed.startswith("{"):
        return {}
    try:
        found = json.loads(packed)
    except ValueError:
        return {}
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}


def _lines(logs: dict[str, Any] | None, key: str) -> tuple[str, ...] | None:
    found = (logs or {}).get(key)
    return tuple(str(line) for line in cast(list[object], found)) if isinstance(found, list) and found else None


def _time_us(item: dict[str, Any], where: str) -> int:
    given = optional_text(item, "created_at", where)
    if given is None:
        return 0
    try:
        at = datetime.fromisoformat(given)
    except ValueError as error:
        raise wrong(f"{where}.created_at", f"{given!r} is not an ISO 8601 time") from error
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return round(at.timestamp() * 1_000_000)
