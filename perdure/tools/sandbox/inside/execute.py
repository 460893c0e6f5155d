"""The tool's side of a call: compile its source, call its function, tell what came of it.

Runs in the confined process, beside the tool's code, so nothing it says is trusted further than as this call's own answer.
"""

import enum
import errno
import json
import linecache
import os
import sys
import traceback
import types
import typing
from typing import Any, NamedTuple

MODULE_NAME = "tool"
_MESSAGE_LIMIT = 1_000
_TRACEBACK_LIMIT = 16_384
_NOT_THE_MODELS = ("self", "agent_state")
_AS_THEY_COME = (str, bool, float, list, dict)
_CO_VARKEYWORDS = 8  # inspect.CO_VARKEYWORDS


# made before the fork, like all that can be
_decode = json.JSONDecoder().raw_decode
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_quoted = json.encoder.encode_basestring


class CallRefused(Exception):
    """The call cannot be made as asked; the text is for the model. `kind` stands where an exception's type would."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


_WARM_UP_ROUNDS = 40
_WARM_UP_SOURCE = '''
def warm(first: int, second: str = "", *, third: float = 0.5) -> dict:
    """Some text."""
    return {"sum": first + third}
'''


def warm_up() -> None:
    """Run harmless calls, so that forks find the interpreter's caches filled: filling them there would copy pages."""
    request = {
        "source": _WARM_UP_SOURCE,
        "function": "warm",
        "args": {"first": 1, "second": "two"},
        "env": {},
        "return_char_limit": 100,
        "allow_network": False,
        "requirements": [],
    }
    text = json.dumps(request).encode()
    for _ in range(_WARM_UP_ROUNDS):
        answer(text)
    del sys.modules[MODULE_NAME]
    del linecache.cache[_file_name("warm")]


def answer(request_text: bytes) -> bytes:
    """Run the request's function and give the answer as JSON: {"value", "is_json", "chars"} or {"error", "traceback"}."""
    request: dict[str, Any] = _decode(request_text.decode())[0]
    try:
        for name, text in request["env"].items():
            os.environ[name] = text
        function = _load(request["source"], request["function"])
        value = function(**_arguments(function, request["args"]))
        if hasattr(value, "__await__"):
            value = _awaited(value)
        text, is_json = _as_text(value)
        limit = request["return_char_limit"]
        whole = "true" if is_json and len(text) <= limit else "false"
        told = f'{{"value": {_quoted(text[:limit])}, "is_json": {whole}, "chars": {len(text)}}}'
    except CallRefused as refused:
        told = _ENCODER.encode({"error": f"{refused.kind}: {refused}", "traceback": ""})
    except BaseException as error:
        told = _ENCODER.encode(_failure(error, request))
    return told.encode("utf-8", "replace")


def unprepared(error: Exception) -> bytes:
    """The answer of a call that could not be confined and so was not begun."""
    return _ENCODER.encode({"unprepared": f"{type(error).__name__}: {error}"}).encode("utf-8", "replace")


def _awaited(awaitable: Any) -> Any:
    import asyncio  # loaded by the supervisor for sources that look as if they needed it

    return asyncio.run(_finish(awaitable))


async def _finish(awaitable: Any) -> Any:
    return await awaitable


def _file_name(function: str) -> str:
    return f"<tool {function}>"


def _load(source: str, name: str) -> Any:
    file_name = _file_name(name)
    # so that tracebacks and inspect show the source, which is in no file
    linecache.cache[file_name] = (len(source), None, source.splitlines(keepends=True), file_name)
    module = types.ModuleType(MODULE_NAME)
    sys.modules[MODULE_NAME] = module  # dataclasses and pydantic look their module up by name
    exec(compile(source, file_name, "exec"), module.__dict__)
    function = module.__dict__.get(name)
    if not callable(function):
        found = ", ".join(key for key, value in vars(module).items() if isinstance(value, types.FunctionType)) or "none"
        raise CallRefused(
            "NameError", f"the tool's source defines no function {name!r} (functions it defines: {found})"
        )
    return function


class _Signature(NamedTuple):
    """`names` can be passed by name; those in `optional` need not be."""

    names: "tuple[str, ...]"
    optional: "set[str]"
    takes_any: bool
    positional_only: bool


def _signature(function: Any) -> _Signature:
    if type(function) is not types.FunctionType or hasattr(function, "__wrapped__"):
        import inspect  # one more thing in every fork, and few functions need it

        parameters = inspect.signature(function).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return _Signature(
            tuple(p.name for p in named),
            {p.name for p in named if p.default is not p.empty},
            any(p.kind is p.VAR_KEYWORD for p in parameters),
            any(p.kind is p.POSITIONAL_ONLY for p in parameters),
        )
    # the same for a plain function without `inspect`, whose every first use after a fork copies pages
    code = function.__code__
    positional = code.co_varnames[: code.co_argcount]
    defaults = len(function.__defaults__ or ())
    optional = set(positional[len(positional) - defaults :]) | set(function.__kwdefaults__ or ())
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return _Signature(names, optional, bool(code.co_flags & _CO_VARKEYWORDS), code.co_posonlyargcount > 0)


def _fit_as_they_are(function: Any, given: "dict[str, Any]") -> bool:
    """Whether every argument is of the very type that a plain function names for it, as nearly all are. The short way."""
    if type(function) is not types.FunctionType or hasattr(function, "__wrapped__"):
        return False
    code, hints = function.__code__, _written_hints(function)
    count = code.co_argcount
    if code.co_posonlyargcount or code.co_kwonlyargcount:
        return False
    required = count - len(function.__defaults__ or ())
    passed = 0
    for name in code.co_varnames[:count]:
        if name in given:
            if type(given[name]) is not hints.get(name):
                return False
            passed += 1
        elif required > 0:
            return False
        required -= 1
    return passed == len(given)


def _arguments(function: Any, given: "dict[str, Any]") -> "dict[str, Any]":
    if _fit_as_they_are(function, given):
        return given
    signature = _signature(function)
    if signature.positional_only:
        raise CallRefused("TypeError", "the function has positional-only parameters; arguments are passed by name")
    if not signature.takes_any and (unknown := [name for name in given if name not in signature.names]):
        known = ", ".join(name for name in signature.names if name not in _NOT_THE_MODELS) or "none"
        raise CallRefused("TypeError", f"unexpected argument(s) {', '.join(unknown)}. Arguments it takes: {known}")
    hints = _type_hints(function)
    arguments = {name: _converted(value, hints.get(name), name) for name, value in given.items()}
    missing: list[str] = []
    for name in signature.names:
        if name in arguments or name in signature.optional:
            continue
        if name == "agent_state":
            raise CallRefused("TypeError", "agent_state is not passed to tools here; read the agent through the API")
        if name == "self" or _allows_none(hints.get(name)):
            arguments[name] = None
        else:
            missing.append(name)
    if missing:
        raise CallRefused("TypeError", f"missing argument(s) {', '.join(missing)}")
    return arguments


def _written_hints(function: Any) -> dict[str, Any]:
    try:
        return getattr(function, "__annotations__", {})
    except Exception:  # from Python 3.14 on they are evaluated here, and may name what does not exist
        return {}


def _type_hints(function: Any) -> dict[str, Any]:
    try:
        written = _written_hints(function)
        if all(hint is int or hint in _AS_THEY_COME for hint in written.values()):
            return written
        return typing.get_type_hints(function)
    except Exception:
        return {}


def _allows_none(hint: Any) -> bool:
    return hint is type(None) or type(None) in typing.get_args(hint)


def _converted(value: Any, hint: Any, name: str) -> Any:
    """What JSON has no type for is made from what came: pydantic models, enums, tuples, sets, whole floats."""
    if hint is None or value is None or hint in _AS_THEY_COME:
        return value
    pydantic = sys.modules.get("pydantic")  # a source that uses its models has imported it
    if pydantic is not None and _mentions(hint, pydantic.BaseModel):
        try:
            return pydantic.TypeAdapter(hint).validate_python(value)
        except pydantic.ValidationError as error:
            details = "; ".join(f"{'.'.join(map(str, e['loc'])) or name}: {e['msg']}" for e in error.errors())
            raise CallRefused("ValidationError", f"argument {name!r} does not fit: {details}") from None
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            allowed = ", ".join(repr(member.value) for member in hint)
            raise CallRefused("ValueError", f"argument {name!r} must be one of {allowed}, not {value!r}") from None
    kind = typing.get_origin(hint) or hint
    if kind in (tuple, set, frozenset) and isinstance(value, list):
        return kind(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
    if kind in (typing.Union, types.UnionType) and len(choices) == 1:
        return _converted(value, choices[0], name)
    return value


def _mentions(hint: Any, base: type) -> bool:
    if isinstance(hint, type) and not typing.get_args(hint):
        return issubclass(hint, base)
    return any(_mentions(part, base) for part in typing.get_args(hint))


def _as_text(value: Any) -> tuple[str, bool]:
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict | list):
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str), True
        except (ValueError, TypeError, RecursionError):
            pass  # NaN, a cycle, or keys JSON cannot have: its text will do
    return str(value), False


def _failure(error: BaseException, request: dict[str, Any]) -> dict[str, Any]:
    message = f"{type(error).__name__}: {error}"[:_MESSAGE_LIMIT]
    requirements = request["requirements"]
    if isinstance(error, ImportError) and requirements:
        message += (
            f". The tool asks for {', '.join(requirements)}, and this server does not install packages for tools: "
            "install them where the server runs"
        )
    elif not request["allow_network"] and _wanted_network(error):
        message += " (this tool has no network access: it is not allowed any)"
    return {"error": message, "traceback": _tool_traceback(error)}


def _wanted_network(error: BaseException | None) -> bool:
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAFNOSUPPORT):
            return True
        if type(error).__name__ == "gaierror":
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def _tool_traceback(error: BaseException) -> str:
    """The traceback without this module's own frames."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
        frame = frame.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frame))[-_TRACEBACK_LIMIT:]
    except BaseException:
        return ""
