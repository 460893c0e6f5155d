"""Chat-completion frames that are not as the API says, put straight: what some servers send instead.

Seen: arguments as an object, content as a list of parts (thinking among them), one tool call not in a list, numbers as
text, null for a list, an error object in a list of its own. Slow, so only asked when a frame does not fit its type.
"""

from typing import Any

import msgspec

# MiniMax tells errors in answers of status 200, by numbers of its own: the HTTP status each means.
MINIMAX_STATUS = {
    **dict.fromkeys((1000, 1013, 1024), 500),
    **dict.fromkeys((1002, 1039), 429),
    **dict.fromkeys((1004, 2049), 401),
    1001: 504,
    1008: 402,
    1033: 503,
    2013: 400,
}


def straightened(value: Any) -> Any:
    """The frame as the API has it, as far as it can be told; what cannot is left as it is, for the decoder to refuse."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return value
    frame: dict[str, Any] = {key: each for key, each in value.items() if each is not None}
    if isinstance(choices := frame.get("choices"), list):
        frame["choices"] = [_choice(choice) for choice in choices if isinstance(choice, dict)]
    for key in ("id", "model", "object"):
        if key in frame and not isinstance(frame[key], str):
            frame[key] = str(frame[key])
    if isinstance(usage := frame.get("usage"), dict):
        frame["usage"] = _usage(usage)
    return frame


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    """Counts that are no whole numbers are dropped; a float that is one is taken."""
    made: dict[str, Any] = {}
    for key, each in usage.items():
        if isinstance(each, float) and each.is_integer():
            made[key] = int(each)
        elif isinstance(each, dict):
            made[key] = _usage(each)
        elif isinstance(each, int):
            made[key] = each
    return made


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    made = {key: each for key, each in choice.items() if each is not None}
    for key in ("delta", "message"):
        if isinstance(delta := made.get(key), dict):
            made[key] = _delta(delta)
        else:
            made.pop(key, None)
    if not isinstance(made.get("logprobs"), dict):
        made.pop("logprobs", None)
    if "finish_reason" in made and not isinstance(made["finish_reason"], str):
        made["finish_reason"] = str(made["finish_reason"])
    return made


def _delta(delta: dict[str, Any]) -> dict[str, Any]:
    made = {key: each for key, each in delta.items() if each is not None}
    if isinstance(parts := made.get("content"), list):
        thinking = [part for part in parts if isinstance(part, dict) and part.get("type") == "thinking"]
        made["content"] = [part for part in parts if part not in thinking]
        if thinking:
            made.setdefault("reasoning_content", thinking)
    for key in ("content", "reasoning_content", "reasoning", "refusal"):
        if key in made:
            made[key] = _text(made[key])
    calls = made.get("tool_calls")
    if isinstance(calls, dict):
        calls = [calls]
    if isinstance(calls, list):
        made["tool_calls"] = [_call(call) for call in calls if isinstance(call, dict)]
    return made


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_text(part) or "" for part in value)
    if isinstance(value, dict):
        return _text(value.get("text") or value.get("thinking"))
    return None


def _call(call: dict[str, Any]) -> dict[str, Any]:
    made = {key: each for key, each in call.items() if each is not None}
    if "id" in made:
        made["id"] = str(made["id"])
    function = made.get("function")
    if not isinstance(function, dict):
        function = {key: made[key] for key in ("name", "arguments") if key in made}
    made["function"] = function = dict(function)
    if isinstance(function.get("arguments"), dict | list):
        function["arguments"] = msgspec.json.encode(function["arguments"]).decode()
    return made
