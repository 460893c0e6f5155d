"""What goes to a worker and what comes back: its reply, taken apart with care, becomes a SandboxResult.

Everything in a reply that tool code could have written is bounded text or checked JSON; nothing of it is ever unpickled or run.
"""

import json
import signal
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from perdure.core.errors import AgentError

_ERROR_LIMIT = 1_000


class IsolationUnavailable(AgentError):
    """The isolation that was asked for is not possible on this machine; the message says why and what else to choose."""


class SandboxResult(Struct, frozen=True, kw_only=True):
    """`value`: str() of the return, or JSON text of a dict or list (`is_json`), cut to the caller's limit.

    `error`: "Error executing function <name>: <Type>: <message>", for the model. `stdout`, `stderr`: [] or the whole text as
    one item; a Python traceback is at the end of stderr. Tools get no agent_state and change none.
    """

    status: Literal["success", "error"]
    value: str = ""
    is_json: bool = False
    error: str | None = None
    stdout: list[str] = []
    stderr: list[str] = []


class Reply(NamedTuple):
    """A worker's reply. `outcome`: how the call's process ended, `code` its exit status or signal.

    `answer` is the tool process's own account; the outputs are what was kept of them, `dropped` how many bytes were not.
    """

    outcome: str
    code: int = 0
    detail: str = ""
    answer: bytes = b""
    stdout: bytes = b""
    stderr: bytes = b""
    dropped: tuple[int, int] = (0, 0)


class _Answer(Struct):
    value: str | None = None
    is_json: bool = False
    chars: int = 0
    error: str | None = None
    traceback: str = ""
    unprepared: str | None = None


_answers = msgspec.json.Decoder(_Answer)


class CallLimits(NamedTuple):
    timeout_s: float
    memory_mb: int
    max_processes: int
    return_char_limit: int


def encoded_request(request: dict[str, Any]) -> bytes:
    """The request as workers read it: JSON."""
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError:
        # half of a surrogate pair, which a model can write as an escape and only an escape can carry
        return json.dumps(request).encode()


def result_of(reply: Reply, function: str, limits: CallLimits) -> SandboxResult:
    answer: _Answer | None = None
    if reply.outcome == "exit" and reply.answer:
        try:
            answer = _answers.decode(reply.answer)
        except (msgspec.MsgspecError, RecursionError):
            answer = None
    stdout, stderr = _text(reply.stdout, reply.dropped[0]), _text(reply.stderr, reply.dropped[1])
    if answer is not None and answer.value is not None:
        value, is_json = _value(answer, answer.value, limits.return_char_limit)
        return SandboxResult(
            status="success", value=value, is_json=is_json, stdout=_lines(stdout), stderr=_lines(stderr)
        )
    if answer is not None and answer.error is not None:
        what, stderr = answer.error, stderr + answer.traceback
        if what.rstrip(": ") == "MemoryError":
            what = f"MemoryError: the tool wanted more than the {limits.memory_mb} MB it may have"
    else:
        what = _what_happened(reply, answer, limits)
    error = f"Error executing function {function}: {what}"[:_ERROR_LIMIT]
    return SandboxResult(status="error", error=error, stdout=_lines(stdout), stderr=_lines(stderr))


def _value(answer: _Answer, value: str, limit: int) -> tuple[str, bool]:
    chars = max(answer.chars, len(value))
    if chars > limit:
        return f"{value[:limit]}... [NOTE: the return was cut: it has {chars} characters, the limit is {limit}]", False
    return value, answer.is_json and _is_json(value)


def _is_json(text: str) -> bool:
    """The tool's process says that it is; whoever puts it into a document unquoted has to be sure."""
    try:
        msgspec.json.decode(text, type=dict[str, Any] | list[Any])
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _text(data: bytes, dropped: int) -> str:
    text = data.decode("utf-8", "replace")
    return f"{text}\n[{dropped} more bytes were not kept]\n" if dropped else text


def _lines(text: str) -> list[str]:
    return [text] if text else []


def _what_happened(reply: Reply, answer: _Answer | None, limits: CallLimits) -> str:
    if reply.outcome == "timeout":
        return f"TimeoutError: no result within {limits.timeout_s:g} s; the tool and all its processes were stopped"
    if reply.outcome == "memory":
        return f"MemoryError: the tool and its processes held more than {limits.memory_mb} MB and were stopped"
    if reply.outcome == "processes":
        return f"ProcessError: the tool had more than {limits.max_processes} processes and was stopped"
    if reply.outcome == "flooded":
        return "ProcessError: the tool's process gave an answer far beyond the limit on its size"
    if reply.outcome == "signal":
        return f"ProcessError: {_signal_text(reply.code)} before the function returned"
    if answer is not None and answer.unprepared is not None:
        return f"SandboxError: the sandbox could not confine the tool, so it was not run: {answer.unprepared}"
    if reply.outcome == "unprepared":
        return f"SandboxError: the sandbox could not be prepared, so the tool was not run: {reply.detail}"
    if reply.outcome == "exit" and not reply.answer:
        return f"ProcessError: the tool ended its own process (exit status {reply.code}) before the function returned"
    if reply.outcome == "exit":
        return "ProcessError: the tool's process gave an answer that cannot be read"
    return "SandboxError: the sandbox went away while the tool ran; what the tool did until then may have taken effect"


def _signal_text(number: int) -> str:
    if number == getattr(signal, "SIGXCPU", None):
        return "the tool used more CPU time than it may and was stopped"
    if number == getattr(signal, "SIGSEGV", None):
        return "the tool's process crashed (SIGSEGV)"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"the tool's process was killed ({name})"
