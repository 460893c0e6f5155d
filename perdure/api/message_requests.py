"""The body of a request that sends messages: Letta JSON in, a RunConfig and the input messages out.

Decoded with msgspec on the hot path. Unknown fields are ignored; a wrong one is a 422 that names it.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from perdure.core.errors import Invalid
from perdure.core.runs import ClientSkill, ClientTool, RunConfig
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
