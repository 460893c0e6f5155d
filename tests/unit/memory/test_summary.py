"""What a summary is made of and stands as: bounded transcripts, clipped notes, and the words around them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.agents import CompactionSettings
from perdure.core.messages import (
    Approval,
    CompactionStats,
    ImagePart,
    Message,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolReturn,
)
from perdure.memory.summary import (
    clipped,
    framed,
    instructions,
    middle_cut,
    packed,
    self_request,
    summarizer_messages,
    summary_of,
    transcript,
)

STATS = CompactionStats("manual", 2_000, 11, 5, 1_900, 800)


def message(role: Any, *content: Any, **more: Any) -> Message:
    return Message(id="m", role=role, created_us=1, content=content, **more)


def test_a_transcript_says_who_said_what() -> None:
    said = [
        message("summary", TextPart("intro"), TextPart("what was")),
        message("user", TextPart("look"), ImagePart(url="http://x")),
        message(
            "assistant", ReasoningPart("hm"), TextPart("let me see"), tool_calls=(ToolCall("1", "find", '{"q":1}'),)
        ),
        message("tool", tool_returns=(ToolReturn("1", "find", "error", "nothing"),)),
        message("approval", tool_calls=(ToolCall("2", "delete", "{}"),)),
        message("approval", approvals=(Approval("2", False, "too risky"),)),
    ]
    assert transcript(said, 10_000).split("\n") == [
        "[earlier notes] what was",
        "[user] look[image]",
        "[assistant] let me see",
        '[assistant calls find] {"q":1}',
        "[find returned failed] nothing",
        "[assistant calls delete] {}",
        "[a person denied the call] too risky",
    ]


@given(st.lists(st.text(max_size=3_000), max_size=12), st.integers(20, 6_000))
def test_a_transcript_is_never_longer_than_asked(texts: list[str], limit: int) -> None:
    shown = transcript([message("user", TextPart(text)) for text in texts], limit)
    assert len(shown) <= limit


def test_long_messages_lose_their_middle_before_any_goes() -> None:
    said = [message("user", TextPart(f"begin{at} " + "x" * 5_000 + f" end{at}")) for at in range(5)]
    shown = transcript(said, 8_000)
    assert all(f"begin{at}" in shown and f"end{at}" in shown for at in range(5))


@given(st.text(max_size=200), st.integers(0, 220))
def test_cuts_keep_to_their_limit(text: str, limit: int) -> None:
    assert len(middle_cut(text, limit)) <= limit or len(text) <= limit
    assert len(clipped(text, limit)) <= limit or len(text) <= limit
    assert clipped(text, None) == text


def test_a_summary_message_tells_what_it_is_and_gives_the_summary_back() -> None:
    content = framed("They like tea.", STATS)
    assert "7 of 10" in content[0].text
    assert summary_of(message("summary", *content)) == "They like tea."


def test_old_clients_get_json_in_a_user_message() -> None:
    told = json.loads(packed("notes", 1_700_000_000_000_000))
    assert (told["type"], told["message"]) == ("system_alert", "notes")
    assert told["time"].startswith("2023-11-14 10:13:20 PM")


@pytest.mark.parametrize("everything", [True, False])
@pytest.mark.parametrize("brief", [True, False])
def test_the_default_prompts_say_how_long_and_of_what(everything: bool, brief: bool) -> None:
    settings = CompactionSettings()
    told = instructions(settings, words=77, everything=everything, brief=brief)
    [asked] = self_request(settings, words=77, everything=everything, brief=brief)
    assert "77" in told and "77" in asked.text
    assert brief == (len(told) < 200) == (len(asked.text) < 200)


def test_an_agents_own_prompt_is_used_as_it_is() -> None:
    settings = CompactionSettings(prompt="Only names.", prompt_acknowledgement=True)
    told = instructions(settings, words=5, everything=True, brief=True)
    system, messages = summarizer_messages(settings, told, "[user] hi")
    assert (told, system) == ("Only names.", "")
    assert [each.role for each in messages] == ["user", "assistant", "user"]
    assert [each.role for each in self_request(settings, words=5, everything=True, brief=True)] == [
        "user",
        "assistant",
        "user",
    ]
