"""The body of a chat completion request: OpenAI's JSON in, what is new of it as a request to the agent out.

An agent remembers, so of a whole history only what comes after the last assistant message is sent: the client's tool results,
then user messages. System messages are not sent: the agent has its own.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from perdure.api.message_requests import SendRequest
from perdure.api.model_settings import model_settings
from perdure.api.openai_errors import ChatInvalid
from perdure.core.agents import ModelSettings
from perdure.core.runs import ClientTool


class ToolFunction(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(Struct):
    function: ToolFunction | None = None
    type: str = "function"


class StreamOptions(Struct):
    include_usage: bool = False


class ChatRequest(Struct, kw_only=True):
    """CreateChatCompletionRequest, as far as it means something to an agent; the rest of it is ignored."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[ChatTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    n: int | None = None
    modalities: list[str] | None = None
    logit_bias: dict[str, float] | None = None
    functions: list[dict[str, Any]] = field(default_factory=list)
    function_call: Any = None
    max_steps: int | None = None


_decode = msgspec.json.Decoder(ChatRequest).decode
_SETTINGS = (
    "temperature",
    "top_p",
    "stop",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "parallel_tool_calls",
    "response_format",
)


def decode_chat(body: bytes) -> ChatRequest:
    try:
        request = _decode(body)
    except msgspec.ValidationError as error:
        place = str(error).partition(" - at `$")[2].rstrip("`").lstrip(".") or None
        raise ChatInvalid(f"The request body is wrong: {error}".replace("`$.", "`"), param=place) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ChatInvalid(f"The request body is not valid JSON: {error}") from error
    _check(request)
    return request


def _check(request: ChatRequest) -> None:
    """Refuses what would change the answer and cannot be done, so that nobody is misled by its being ignored."""
    if request.n not in (None, 1):
        raise _unsupported("n", "an agent gives one answer; leave it out or use 1")
    if request.functions or request.function_call is not None:
        raise _unsupported("functions", "`functions` and `function_call` were replaced by `tools`; use that")
    if request.modalities not in (None, [], ["text"]):
        raise _unsupported("modalities", "an agent answers with text; leave it out or use ['text']")
    if request.logit_bias:
        raise _unsupported("logit_bias", "token biases cannot be set; leave it out")
    for at, tool in enumerate(request.tools or ()):
        if tool.type != "function" or tool.function is None:
            raise _unsupported(f"tools[{at}]", "only tools with `type` 'function' and a `function` can be called")
    first_tools(request)


def _unsupported(param: str, what: str) -> ChatInvalid:
    return ChatInvalid(f"{param}: {what}", param=param, code="unsupported_parameter")


def send_request(request: ChatRequest, *, otid: str | None) -> SendRequest:
    """The request to the agent. `otid`: the caller's own key for this request, under which it is accepted only once."""
    messages = list(_new_messages(request.messages))
    if otid is not None:
        for at, message in enumerate(messages):
            message["otid"] = otid if at == 0 else f"{otid}-{at}"
    tools = request.tools if request.tool_choice != "none" else None
    return SendRequest(
        messages=messages,
        max_steps=request.max_steps,
        client_tools=[_client_tool(tool) for tool in tools] if tools else None,
        return_logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs if request.logprobs else None,
        streaming=bool(request.stream),
        stream_tokens=bool(request.stream),
    )


def first_tools(request: ChatRequest) -> tuple[str, ...]:
    """The tools one of which the first model call must call, as `tool_choice` has it: all of the caller's, or the one named."""
    names = tuple(tool.function.name for tool in request.tools or () if tool.function is not None)
    match request.tool_choice:
        case None | "auto" | "none":
            return ()
        case "required" if names:
            return names
        case {"type": "function", "function": {"name": str(name)}} if name in names:
            return (name,)
        case _:
            message = "tool_choice: must be 'auto', 'none', 'required' with `tools` to choose from, or the name of one of them"
            raise ChatInvalid(message, param="tool_choice")


def _client_tool(tool: ChatTool) -> ClientTool:
    assert tool.function is not None
    return ClientTool(tool.function.name, tool.function.description, tool.function.parameters)


def request_settings(request: ChatRequest) -> dict[str, Any] | None:
    """The settings the caller gave for this request alone, under core's names."""
    given = {name: value for name in _SETTINGS if (value := getattr(request, name)) is not None}
    limit = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    if limit is not None:
        given["max_output_tokens"] = limit
    if request.reasoning_effort is not None:
        given["reasoning"] = {"reasoning_effort": request.reasoning_effort}
    if not given:
        return None
    parsed, unsaid = model_settings(given, field="request"), ModelSettings()
    found = {
        name: value
        for name in ModelSettings.__struct_fields__
        if name != "raw" and (value := getattr(parsed, name)) != getattr(unsaid, name)
    }
    if request.parallel_tool_calls is not None:
        found["parallel_tool_calls"] = request.parallel_tool_calls
    return found


def _new_messages(messages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the agent has not heard yet, as messages of its own API. ChatInvalid names the message that is wrong."""
    if not messages:
        raise ChatInvalid("messages: must not be empty", param="messages")
    start = max((at for at, message in enumerate(messages) if message.get("role") == "assistant"), default=-1) + 1
    returns: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for at, message in enumerate(messages[start:], start):
        match message.get("role"):
            case "system" | "developer":
                continue
            case "tool":
                if said:
                    raise ChatInvalid(
                        f"messages[{at}]: the results of tools come before what the user says next",
                        param=f"messages[{at}]",
                    )
                returns.append(_tool_return(message, f"messages[{at}]"))
            case "user":
                said.append(_user_message(message, f"messages[{at}]"))
            case role:
                raise ChatInvalid(
                    f"messages[{at}].role: must be system, developer, user, assistant or tool, not {role!r}",
                    param=f"messages[{at}].role",
                )
    if not returns and not said:
        raise ChatInvalid(
            "messages: there is nothing new for the agent; the last message must be a user's or a tool's",
            param="messages",
        )
    if returns:
        yield {"type": "tool_return", "tool_returns": returns}
    yield from said


def _tool_return(message: dict[str, Any], where: str) -> dict[str, Any]:
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str):
        raise ChatInvalid(f"{where}.tool_call_id: must be the id of the call it answers", param=f"{where}.tool_call_id")
    content = _content(message.get("content"), f"{where}.content")
    return {"type": "tool", "tool_call_id": call_id, "status": "success", "tool_return": content}


def _user_message(message: dict[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "user", "content": _content(message.get("content"), f"{where}.content")}
    if message.get("name") is not None:
        found["name"] = message["name"]
    return found


def _content(content: object, where: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ChatInvalid(f"{where}: must be a string or a list of content parts", param=where)
    return [_part(part, f"{where}[{at}]") for at, part in enumerate(content)]


def _part(part: Any, where: str) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url), **more}}:
            return {"type": "image", "source": {"type": "url", "url": url, "detail": more.get("detail")}}
        case _:
            raise ChatInvalid(f"{where}: only parts of type text and image_url can be sent to an agent", param=where)
