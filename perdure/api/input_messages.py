"""The messages of a request as messages to store: text and images, approvals, what client tools returned.

A wrong field is a 422 that names its place.
"""

import base64
import binascii
from typing import Any, cast

import msgspec

from perdure.api.message_requests import SendRequest, wrong
from perdure.core.errors import Invalid
from perdure.core.ids import new_id, new_otid
from perdure.core.messages import Approval, ImagePart, Message, TextPart, ToolReturn
from perdure.providers.images import MAX_BYTES, media_type_of


def input_messages(
    request: SendRequest, *, agent_id: str, conversation_id: str, run_id: str, now: int
) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The messages to store, and the otids the client gave them (what makes a repeated request the same one)."""
    items = request.messages if request.messages is not None else [{"role": "user", "content": request.input}]
    found: list[Message] = []
    otids: list[str] = []
    for at, item in enumerate(items):
        where = f"messages[{at}]" if request.messages is not None else "input"
        message = _input_message(item, where, at)
        if (otid := item.get("otid")) is not None:
            otids.append(_text(otid, f"{where}.otid"))
        found.append(
            msgspec.structs.replace(
                message, agent_id=agent_id, conversation_id=conversation_id, run_id=run_id, created_us=now + at
            )
        )
    return tuple(found), tuple(otids)


def _input_message(item: dict[str, Any], where: str, at: int) -> Message:
    kind = item.get("type")
    if kind is None:
        kind = "approval" if "approval_request_id" in item or "approve" in item else "message"
    if kind == "message":
        return _plain_message(item, where)
    if kind in ("approval", "tool_return"):
        if at > 0:
            raise wrong(where, "an approval or tool return may only be the first message")
        return _approval(item, where, kind)
    raise wrong(f"{where}.type", f"{kind!r} is not known; use message, approval or tool_return")


def _plain_message(item: dict[str, Any], where: str) -> Message:
    role = item.get("role", "user")
    if role not in ("user", "system", "assistant"):
        raise wrong(f"{where}.role", f"must be user, system or assistant, not {role!r}")
    if "content" not in item:
        raise wrong(f"{where}.content", "Field required")
    content = parts_of(item["content"], f"{where}.content")
    if not any(isinstance(part, ImagePart) or part.text for part in content):
        raise Invalid(f"{where}.content: the message is empty")
    return Message(
        id=new_id("message"),
        role=role,
        created_us=0,
        content=content,
        otid=item.get("otid") or new_otid(),
        name=_optional(item, "name", where),
        sender_id=_optional(item, "sender_id", where),
        group_id=_optional(item, "group_id", where),
        batch_item_id=_optional(item, "batch_item_id", where),
    )


def _optional(item: dict[str, Any], key: str, where: str) -> str | None:
    value = item.get(key)
    return None if value is None else _text(value, f"{where}.{key}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise wrong(where, f"must be a string, not {type(value).__name__}")
    return value


def parts_of(content: object, where: str) -> tuple[TextPart | ImagePart, ...]:
    """A string, or a list of text and image parts."""
    if isinstance(content, str):
        return (TextPart(content),)
    if not isinstance(content, list):
        raise wrong(where, f"must be a string or a list of content parts, not {type(content).__name__}")
    return tuple(_part(part, f"{where}[{at}]") for at, part in enumerate(cast(list[object], content)))


def _part(part: object, where: str) -> TextPart | ImagePart:
    if isinstance(part, str):
        return TextPart(part)
    if not isinstance(part, dict):
        raise wrong(where, f"must be an object, not {type(part).__name__}")
    item = cast(dict[str, Any], part)
    kind = item.get("type", "text")
    if kind == "text":
        return TextPart(_text(item.get("text"), f"{where}.text"))
    if kind == "image":
        return _image(item.get("source"), f"{where}.source")
    raise wrong(f"{where}.type", f"{kind!r} cannot be sent; use text or image")


def _image(source: object, where: str) -> ImagePart:
    if not isinstance(source, dict):
        raise wrong(where, "must be an object with `type` url or base64")
    item = cast(dict[str, Any], source)
    kind = item.get("type")
    if kind == "url":
        url = _text(item.get("url"), f"{where}.url")
        if not url.startswith(("http://", "https://", "data:")):
            raise Invalid(f"{where}.url: use an http, https or data URL")
        return ImagePart(url=url, detail=item.get("detail"))
    if kind == "base64":
        data = _text(item.get("data"), f"{where}.data")
        try:
            decoded = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Invalid(f"{where}.data: is not valid base64 ({error})") from error
        if len(decoded) > MAX_BYTES:
            raise Invalid(f"{where}.data: is larger than {MAX_BYTES // (1024 * 1024)} MB")
        media_type = media_type_of(decoded) or _text(item.get("media_type"), f"{where}.media_type")
        return ImagePart(media_type=media_type, data=data, detail=item.get("detail"))
    raise wrong(f"{where}.type", f"{kind!r} is not supported; use url or base64")


def _approval(item: dict[str, Any], where: str, kind: str) -> Message:
    key = "approvals" if kind == "approval" else "tool_returns"
    given = item.get(key)
    if given is None and kind == "approval" and "approve" in item:
        call_id = _text(item.get("approval_request_id"), f"{where}.approval_request_id")
        given = [
            {"type": "approval", "tool_call_id": call_id, "approve": item["approve"], "reason": item.get("reason")}
        ]
    if not isinstance(given, list) or not given:
        raise wrong(f"{where}.{key}", "must be a list with at least one answer")
    approvals: list[Approval] = []
    returns: list[ToolReturn] = []
    for at, answer in enumerate(cast(list[object], given)):
        place = f"{where}.{key}[{at}]"
        if not isinstance(answer, dict):
            raise wrong(place, "must be an object")
        answer = cast(dict[str, Any], answer)
        call_id = _text(answer.get("tool_call_id"), f"{place}.tool_call_id")
        if kind == "approval" and answer.get("type", "approval") == "approval":
            approve = answer.get("approve")
            if not isinstance(approve, bool):
                raise wrong(f"{place}.approve", "must be true or false")
            edited = _edited_arguments(answer, approve, place)
            approvals.append(Approval(call_id, approve, _optional(answer, "reason", place), edited))
        else:
            returns.append(_client_return(answer, call_id, place))
    return Message(
        id=new_id("message"),
        role="approval",
        created_us=0,
        approvals=tuple(approvals),
        tool_returns=tuple(returns),
        otid=item.get("otid") or new_otid(),
    )


def _edited_arguments(answer: dict[str, Any], approve: bool, place: str) -> str | None:
    """`edited_arguments`: what to call the tool with in place of the model's arguments, an object or its JSON text."""
    edited = answer.get("edited_arguments")
    if edited is None:
        return None
    if not approve:
        raise wrong(f"{place}.edited_arguments", "only goes with `approve: true`")
    if isinstance(edited, str):
        try:
            edited = msgspec.json.decode(edited)
        except msgspec.DecodeError as error:
            raise wrong(f"{place}.edited_arguments", f"is not valid JSON: {error}") from error
    if not isinstance(edited, dict):
        raise wrong(f"{place}.edited_arguments", "must be an object with the tool's arguments")
    return msgspec.json.encode(edited).decode()


def _client_return(answer: dict[str, Any], call_id: str, place: str) -> ToolReturn:
    status = answer.get("status", "success")
    if status not in ("success", "error"):
        raise wrong(f"{place}.status", f"must be success or error, not {status!r}")
    content = answer.get("tool_return")
    parts = parts_of(content, f"{place}.tool_return") if isinstance(content, list) else None
    return ToolReturn(
        tool_call_id=call_id,
        name="",
        status=status,
        content=parts if parts is not None else _text(content, f"{place}.tool_return"),
        stdout=_lines(answer, "stdout", place),
        stderr=_lines(answer, "stderr", place),
    )


def _lines(answer: dict[str, Any], key: str, place: str) -> tuple[str, ...] | None:
    given = answer.get(key)
    if not given:
        return None
    if not isinstance(given, list):
        raise wrong(f"{place}.{key}", "must be a list of strings")
    return tuple(_text(line, f"{place}.{key}[{at}]") for at, line in enumerate(cast(list[object], given)))
