"""A run's stream as a person reads it: reasoning dim, tool calls with their arguments, what they returned, the answer.

Text is written the moment its frame comes and never again; a header line says whose text it is whenever that changes.
"""

from collections.abc import Iterable
from typing import Any, TextIO

from msgspec import Struct, field

from perdure.cli.show import paint, printable

RETURN_CHARS_SHOWN = 2_000


class StreamSummary(Struct):
    """What a stream came to. `tool_returns`: (tool, status, text) in order; `answer`: the assistant's text."""

    stop_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    error: str | None = None
    answer: str = ""
    tool_returns: list[tuple[str, str, str]] = field(default_factory=list)


class StreamView:
    """Writes frames to `out` as they are fed."""

    def __init__(self, out: TextIO, *, colour: bool) -> None:
        self.summary = StreamSummary()
        self._out = out
        self._colour = colour
        self._open: tuple[str, str] | None = None  # whose text the cursor stands in: (kind, message or tool call id)
        self._tools: dict[str, str] = {}  # tool_call_id -> tool's name

    def feed(self, frame: dict[str, Any]) -> None:
        self.summary.run_id = frame.get("run_id") or self.summary.run_id
        match frame.get("message_type"):
            case "reasoning_message":
                self._text("reasoning", frame.get("id", ""), frame.get("reasoning") or "", "dim")
            case "hidden_reasoning_message":
                self._line("reasoning", "(hidden by the provider)", "dim")
            case "assistant_message":
                text = _plain(frame.get("content"))
                self.summary.answer += text
                self._text("assistant", frame.get("id", ""), text, "")
            case "tool_call_message":
                self._calls(frame, "tool call")
            case "approval_request_message":
                self._calls(frame, "asks to call")
            case "tool_return_message":
                self._returns(frame)
            case "event_message" | "summary_message":
                self._line("memory", "the conversation so far was summarised to fit the model's window", "dim")
            case "stop_reason":
                self.summary.stop_reason = frame.get("stop_reason")
            case "usage_statistics":
                self.summary.usage = frame
            case "error_message":
                self.summary.error = ": ".join(str(frame[k]) for k in ("message", "detail") if frame.get(k))
                self._line("error", self.summary.error, "red")
            case _:  # pings, user messages and kinds that later servers may add
                pass

    def close(self) -> StreamSummary:
        """End the line the cursor stands in."""
        if self._open is not None:
            self._out.write("\n")
            self._out.flush()
            self._open = None
        return self.summary

    def _calls(self, frame: dict[str, Any], label: str) -> None:
        calls = frame.get("tool_calls") or frame.get("tool_call") or []
        for call in [calls] if isinstance(calls, dict) else calls:
            call_id = call.get("tool_call_id") or ""
            name = call.get("name")
            if name:
                self._tools[call_id] = name
            shown = (name or "") + (" " if name else "") + (call.get("arguments") or "")
            self._text(label, call_id, shown, "cyan")

    def _returns(self, frame: dict[str, Any]) -> None:
        returns = frame.get("tool_returns") or [frame]
        for item in returns:
            text = _plain(item.get("tool_return"))
            status = item.get("status") or "success"
            name = self._tools.get(item.get("tool_call_id") or "", "tool")
            self.summary.tool_returns.append((name, status, text))
            if len(text) > RETURN_CHARS_SHOWN:
                text = f"{text[:RETURN_CHARS_SHOWN]} ... ({len(text) - RETURN_CHARS_SHOWN} more characters)"
            ok = status == "success"
            self._line("returned" if ok else "failed", text, "green" if ok else "red")

    def _text(self, label: str, key: str, text: str, style: str) -> None:
        if not text:
            return
        if self._open != (label, key):
            self.close()
            self._out.write(self._label(label))
            self._open = (label, key)
        self._out.write(paint(printable(text), style, colour=self._colour))
        self._out.flush()

    def _line(self, label: str, text: str, style: str) -> None:
        self.close()
        self._out.write(self._label(label) + paint(printable(text), style, colour=self._colour) + "\n")
        self._out.flush()

    def _label(self, label: str) -> str:
        return paint(f"{label:>12}", "bold", colour=self._colour) + "  "


def show_stream(frames: Iterable[dict[str, Any]], out: TextIO, *, colour: bool) -> StreamSummary:
    """Write a whole stream; whatever breaks it off, the line under the cursor is ended."""
    view = StreamView(out, colour=colour)
    try:
        for frame in frames:
            view.feed(frame)
    finally:
        view.close()
    return view.summary


def _plain(content: Any) -> str:
    """Text of a content that is a string, a list of parts or any JSON."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content)
    return "" if content is None else str(content)
