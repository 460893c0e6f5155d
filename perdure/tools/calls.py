"""A tool call's arguments from text to values, and a tool's return cut to size. Nothing is dropped silently."""

import json
from collections.abc import Container
from typing import Any, NoReturn

import msgspec

from perdure.core.errors import ToolError
from perdure.core.messages import ToolCall

LEGACY_KEYS = ("request_heartbeat", "inner_thoughts", "thinking")


def arguments_of(call: ToolCall, *, legacy: bool = False, own: Container[str] = ()) -> dict[str, Any]:
    """The arguments of a call. `legacy`: leave out those of older agent types that are no arguments of the tool's `own`.

    No text at all means no arguments. Raises ToolError for anything that is not one JSON object.
    """
    arguments = _object(call)
    if legacy:
        for key in LEGACY_KEYS:
            if key not in own:
                arguments.pop(key, None)
    return arguments


def truncated(text: str, limit: int) -> str:
    """A return as the model gets it: whole, or its first `limit` characters and a note with both numbers."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... [NOTE: this return was cut: it has {len(text)} characters, the limit is {limit}]"


def cut_client_return(text: str, context_window: int) -> str:
    """A client's own return: at most 5,000 characters or 80 % of the context window (in tokens), whichever is more."""
    limit = max(5_000, context_window * 4 // 5)
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... [truncated {len(text) - limit} chars]"


def _object(call: ToolCall) -> dict[str, Any]:
    text = call.arguments
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        value = _lenient(call)
    if isinstance(value, str):
        return _quoted(call, value)
    if not isinstance(value, dict):
        _refuse(call, f"they are not a JSON object but {_kind(value)}")
    return value


def _quoted(call: ToolCall, inner: str) -> dict[str, Any]:
    """An object that was written as a JSON string holds nothing else, so it is taken."""
    try:
        value = msgspec.json.decode(inner)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        value = None
    if not isinstance(value, dict):
        _refuse(call, "they are not a JSON object but a string")
    return value


def _lenient(call: ToolCall) -> Any:
    """Takes raw line ends in strings, and an object repeated or preceded by `{}`; several different ones it refuses."""
    text, at, values = call.arguments.strip(), 0, []
    decoder = json.JSONDecoder(strict=False, parse_constant=_no_constant)
    try:
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            values.append(value)
            at += len(text[at:]) - len(text[at:].lstrip())
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as wrong:
        reason = str(wrong) if isinstance(wrong, json.JSONDecodeError) else f"{type(wrong).__name__}: {wrong}"
        _refuse(call, f"they are not valid JSON ({reason})")
    different = [value for at, value in enumerate(values) if value != {} and value not in values[:at]]
    if len(different) > 1:
        _refuse(call, f"they hold {len(different)} JSON values. Make one call for each")
    return different[0] if different else {}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return "a list" if isinstance(value, list) else "a number"


def _refuse(call: ToolCall, why: str) -> NoReturn:
    raise ToolError(
        f"Error executing function {call.name}: the arguments could not be read: {why}. "
        "Nothing was run. Call the tool again with one JSON object."
    )
