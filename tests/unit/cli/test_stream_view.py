import io
from typing import Any

import pytest

from perdure.cli.stream_view import show_stream


def shown(*frames: dict[str, Any], colour: bool = False) -> str:
    out = io.StringIO()
    show_stream(frames, out, colour=colour)
    return out.getvalue()


def call(**delta: str) -> dict[str, Any]:
    return {"message_type": "tool_call_message", "id": "m", "tool_call": delta, "tool_calls": delta}


def text(content: str, message_id: str = "m") -> dict[str, Any]:
    return {"message_type": "assistant_message", "id": message_id, "content": content}


def test_a_turn_reads_from_top_to_bottom() -> None:
    returned = {"tool_call_id": "c", "tool_return": "4", "status": "success"}
    frames = [
        {"message_type": "ping", "run_id": "run-1"},
        {"message_type": "reasoning_message", "id": "m", "reasoning": "Let me "},
        {"message_type": "reasoning_message", "id": "m", "reasoning": "roll."},
        call(name="roll_dice", tool_call_id="c"),
        call(arguments='{"n":', tool_call_id="c"),
        call(arguments=" 6}", tool_call_id="c"),
        {"message_type": "tool_return_message", "id": "t", "tool_returns": [returned]},
        text("A ", "m2"),
        text("four.", "m2"),
        {"message_type": "stop_reason", "stop_reason": "end_turn"},
        {"message_type": "usage_statistics", "total_tokens": 7},
    ]
    assert shown(*frames) == (
        '   reasoning  Let me roll.\n   tool call  roll_dice {"n": 6}\n    returned  4\n   assistant  A four.\n'
    )


def test_the_summary_tells_what_came_of_it() -> None:
    frames = [
        {"message_type": "ping", "run_id": "run-1"},
        call(name="f", tool_call_id="c"),
        {"message_type": "tool_return_message", "tool_call_id": "c", "tool_return": "boom", "status": "error"},
        text("Sorry."),
        {"message_type": "stop_reason", "stop_reason": "end_turn"},
        {"message_type": "usage_statistics", "total_tokens": 7},
    ]
    summary = show_stream(frames, io.StringIO(), colour=False)
    assert (summary.run_id, summary.stop_reason, summary.answer) == ("run-1", "end_turn", "Sorry.")
    assert summary.tool_returns == [("f", "error", "boom")]
    assert summary.usage["total_tokens"] == 7


def test_a_failure_is_shown_with_its_detail() -> None:
    frame = {"message_type": "error_message", "message": "The model failed", "detail": "connection refused"}
    assert shown(text("Wel"), frame) == "   assistant  Wel\n       error  The model failed: connection refused\n"


def test_complete_messages_of_step_streaming_are_shown_too() -> None:
    calls = [
        {"name": "a", "arguments": "{}", "tool_call_id": "1"},
        {"name": "b", "arguments": "{}", "tool_call_id": "2"},
    ]
    frame = {"message_type": "tool_call_message", "id": "m", "tool_call": calls[0], "tool_calls": calls}
    assert shown(frame) == "   tool call  a {}\n   tool call  b {}\n"


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x07", "\r", "\x9b31m", "\x00"])
def test_what_a_model_writes_cannot_command_the_terminal(evil: str) -> None:
    assert evil not in shown(text(f"a{evil}b"))
    assert evil not in shown({"message_type": "tool_return_message", "tool_return": evil, "status": "success"})


def test_colours_only_when_asked_for() -> None:
    frame = {"message_type": "reasoning_message", "id": "m", "reasoning": "hm"}
    assert "\x1b[2mhm\x1b[0m" in shown(frame, colour=True)
    assert "\x1b" not in shown(frame)


def test_long_returns_are_cut_and_say_so() -> None:
    out = shown({"message_type": "tool_return_message", "tool_return": "x" * 5000, "status": "success"})
    assert "(3000 more characters)" in out


def test_a_broken_stream_still_ends_its_line() -> None:
    def frames() -> Any:
        yield text("half")
        raise RuntimeError("gone")

    out = io.StringIO()
    with pytest.raises(RuntimeError, match="gone"):
        show_stream(frames(), out, colour=False)
    assert out.getvalue().endswith("half\n")
