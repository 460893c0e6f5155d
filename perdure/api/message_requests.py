"""The body of a request that sends messages: Letta JSON in, a RunConfig and the input messages out.

Decoded with msgspec on the hot path. Unknown fields are ignored; a wrong one is a 422 that names it.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct, field

from perdure.core.errors import Invalid
from perdure.core.ids import new_id, new_otid
from perdure.core.messages import Approval, ImagePart, Message, TextPart, ToolReturn
from perdure.core.runs import ClientSkill, ClientTool, RunConfig
from perdure.providers.images import MAX_BYTES, media_type_of
from perdure.store.submissions import RequestKey


class SendRequest(Struct, kw_only=True):
    """LettaStreamingRequest, with the fields of its async and conversation variants."""

    messages: list[dict[str, Any]] | None = None
    input: str | list[dict[str, Any]] | None = None
    max_steps: int | None = None
    use_assistant_message: bool = True
    assistant_message_tool_name: str = "send_message"
    assistant_message_tool_kwarg: str = "message"
    include_return_message_types: list[str] | None = None
    client_tools: list[ClientTool] | None = None
    client_skills: list[ClientSkill] | None = None
    override_model: str | None = None
    model_settings: dict[str, Any] | None = None
    override_system: str | None = None
    system: str | None = None
    include_compaction_messages: bool = False
    return_logprobs: bool = False
    top_logprobs: int | None = None
    return_token_ids: bool = False
    streaming: bool | None = None
    stream_tokens: bool | None = None
    include_pings: bool | None = None
    background: bool | None = None
    callback_url: str | None = None
    agent_id: str | None = None
    concurrency: Literal["reject", "enqueue", "interrupt", "rollback"] | None = None
    key: RequestKey | None = field(default=None, name="(the Idempotency-Key header)")


class StreamRequest(Struct, kw_only=True):
    """RetrieveStreamRequest: where to take a run's stream up again."""

    agent_id: str | None = None
    run_id: str | None = None
    otid: str | None = None
    starting_after: int = field(default=0)
    include_pings: bool = True
    poll_interval: float | None = None
    batch_size: int | None = None


class ResetRequest(Struct, frozen=True):
    """`add_default_initial_messages`: begin again as an agent of its type begins."""

    add_default_initial_messages: bool | None = None


class CancelRequest(Struct, kw_only=True):
    run_ids: list[str] | None = None


_cancel = msgspec.json.Decoder(CancelRequest)
_reset = msgspec.json.Decoder(ResetRequest)
_send = msgspec.json.Decoder(SendRequest)
_stream = msgspec.json.Decoder(StreamRequest)

MAX_KEY = 255

MESSAGE_TYPES = frozenset(
    {
        "system_message",
        "user_message",
        "assistant_message",
        "reasoning_message",
        "hidden_reasoning_message",
        "tool_call_message",
        "tool_return_message",
        "approval_request_message",
        "approval_response_message",
        "summary_message",
        "event_message",
    }
)


def decode_send(body: bytes, idempotency_key: str | None = None) -> SendRequest:
    """`idempotency_key`: the header of that name; the same one with another body is a Conflict when it is submitted."""
    request = _decode(_send, body)
    check_send(request)
    if idempotency_key is not None:
        request.key = request_key(body, idempotency_key)
    return request


def request_key(body: bytes, idempotency_key: str) -> RequestKey:
    if not 0 < len(idempotency_key) <= MAX_KEY:
        raise wrong("Idempotency-Key", f"must have 1 to {MAX_KEY} characters")
    return RequestKey(idempotency_key, hashlib.sha256(body).digest())


def decode_stream(body: bytes) -> StreamRequest:
    request = _decode(_stream, body or b"{}")
    if request.starting_after < 0:
        raise wrong("starting_after", "must be 0 or more")
    return request


def decode_cancel(body: bytes) -> CancelRequest:
    return _decode(_cancel, body or b"{}")


def decode_reset(body: bytes) -> ResetRequest:
    return _decode(_reset, body or b"{}")


def _decode(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Invalid(f"The request body is wrong: {error}".replace("`$.", "`"), status=422) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"The request body is not valid JSON: {error}", status=422) from error


def wrong(where: str, what: str) -> Invalid:
    return Invalid(f"{where}: {what}", status=422)


def check_send(request: SendRequest) -> None:
    """What the fields' types cannot say."""
    if (request.messages is None) == (request.input is None):
        raise wrong("messages", "give either `messages` or `input`, and only one of them")
    if request.messages is not None and not request.messages:
        raise wrong("messages", "Messages must not be empty")
    if request.max_steps is not None and request.max_steps < 1:
        raise wrong("max_steps", f"must be 1 or more, not {request.max_steps}")
    check_client_tools(request.client_tools or ())
    if request.top_logprobs is not None and not 0 <= request.top_logprobs <= 20:
        raise wrong("top_logprobs", f"must be between 0 and 20, not {request.top_logprobs}")
    for at, kind in enumerate(request.include_return_message_types or ()):
        if kind not in MESSAGE_TYPES:
            known = ", ".join(sorted(MESSAGE_TYPES))
            raise wrong(f"include_return_message_types[{at}]", f"{kind!r} is no message type; use one of {known}")


def check_client_tools(tools: Sequence[ClientTool]) -> None:
    """Each needs a name of its own and, if it takes arguments, the schema of an object."""
    names: set[str] = set()
    for at, tool in enumerate(tools):
        where = f"client_tools[{at}]"
        if not tool.name:
            raise wrong(f"{where}.name", "must not be empty")
        if tool.name in names:
            raise wrong(f"{where}.name", f"there are two tools named {tool.name!r}; give each its own name")
        names.add(tool.name)
        if tool.parameters and tool.parameters.get("type", "object") != "object":
            raise wrong(f"{where}.parameters", 'must be the JSON schema of an object ({"type": "object", ...})')


def check_not_streaming(request: SendRequest) -> None:
    """Stream-only fields in a request whose answer is one JSON object."""
    if request.stream_tokens:
        raise wrong("stream_tokens", "needs `streaming: true`")
    if request.include_pings is False:
        raise wrong("include_pings", "can only be false with `streaming: true`")
    if request.background:
        raise wrong("background", "needs `streaming: true`; use /messages/async to run without waiting")


class Overrides(Struct, frozen=True):
    """What takes more than the request to know, or only other APIs' requests can say of a run: see RunConfig."""

    settings: dict[str, Any] | None = None
    first_tools: tuple[str, ...] = ()


def run_config(
    request: SendRequest, *, streaming: bool, background: bool, overrides: Overrides = Overrides()
) -> RunConfig:
    types = request.include_return_message_types
    return RunConfig(
        max_steps=request.max_steps or 50,
        streaming=streaming,
        stream_tokens=streaming and bool(request.stream_tokens),
        background=background,
        include_pings=streaming and request.include_pings is not False,
        include_return_message_types=tuple(types) if types else None,
        use_assistant_message=request.use_assistant_message,
        assistant_message_tool_name=request.assistant_message_tool_name,
        assistant_message_tool_kwarg=request.assistant_message_tool_kwarg,
        client_tools=tuple(request.client_tools or ()),
        client_skills=tuple(request.client_skills or ()),
        override_model=request.override_model,
        override_system=request.system if request.override_system is None else request.override_system,
        override_settings=overrides.settings,
        first_tools=overrides.first_tools,
        include_compaction_messages=request.include_compaction_messages,
        return_logprobs=request.return_logprobs or request.top_logprobs is not None,
        top_logprobs=request.top_logprobs,
        return_token_ids=request.return_token_ids,
        callback_url=request.callback_url,
    )


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
