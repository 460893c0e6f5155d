"""The compiled system text: its sections, their order, and block values that come through unchanged."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.agents import Agent, AgentBundle, AgentType, Block
from perdure.memory.blocks import LINE_NUMBER_WARNING
from perdure.memory.compile import compile_system_text, same_but_for_time
from perdure.memory.system_prompts import DEFAULT_SYSTEM_PROMPTS

NOW_US = 1_774_969_200_000_000  # 2026-03-31 15:00:00 UTC
HUMAN = Block(id="block-1", label="human", value="Ada\n\tlikes tea ", limit=5000, description="Who I talk to")


def bundle(*blocks: Block, system: str = "You are Sam.", **agent: Any) -> AgentBundle:
    return AgentBundle(agent=Agent(id="agent-1", name="Sam", system=system, **agent), blocks=blocks)


def compiled(of: AgentBundle, **more: Any) -> str:
    return compile_system_text(of, **({"conversation_id": None, "now_us": NOW_US} | more))


def test_the_whole_text():
    persona = Block(id="block-2", label="persona", value="", limit=10, read_only=True)
    text = compiled(
        bundle(HUMAN, persona, timezone="America/New_York", tool_rules=({"type": "exit_loop", "tool_name": "stop"},)),
        conversation_id="conv-1",
        previous_message_count=7,
        archival_count=2,
        archive_tags=("b", "a"),
    )
    assert text == (
        "You are Sam.\n\n"
        "<memory_blocks>\nThese memory blocks are always in your view:\n\n"
        "<human>\n<description>\nWho I talk to\n</description>\n"
        "<metadata>\n- chars_current=15\n- chars_limit=5000\n</metadata>\n"
        "<value>\nAda\n\tlikes tea \n</value>\n</human>\n\n"
        "<persona>\n<description>\n\n</description>\n"
        "<metadata>\n- read_only=true\n- chars_current=0\n- chars_limit=10\n</metadata>\n"
        "<value>\n\n</value>\n</persona>\n"
        "</memory_blocks>\n\n"
        "<tool_usage_rules>\nThese rules say when tools may be called. A call that breaks one is not run.\n\n"
        "<tool_rule>\nCalling stop ends your turn.\n</tool_rule>\n</tool_usage_rules>\n\n"
        "<memory_metadata>\n- AGENT_ID: agent-1\n- CONVERSATION_ID: conv-1\n"
        "- System prompt last recompiled: 2026-03-31 11:00:00 AM EDT-0400\n"
        "- Earlier messages in recall memory (conversation_search finds them): 7\n"
        "- Passages in archival memory (archival_memory_search finds them): 2\n"
        "- Tags in archival memory: a, b\n</memory_metadata>"
    )


def test_empty_sections_are_left_out():
    text = compiled(bundle())
    assert "<memory_blocks>" not in text
    assert "<tool_usage_rules>" not in text
    assert "rchival" not in text
    assert "- CONVERSATION_ID: default\n" in text


def test_memory_goes_where_the_placeholder_stands():
    text = compiled(bundle(HUMAN, system="before {CORE_MEMORY} after {other}"))
    assert text.startswith("before <memory_blocks>")
    assert text.endswith("</memory_metadata> after {other}")
    assert "{CORE_MEMORY}" not in text


def test_a_placeholder_within_a_block_is_just_text():
    text = compiled(bundle(Block(id="block-1", label="x", value="say {CORE_MEMORY}")))
    assert text.count("<memory_blocks>") == 1
    assert "say {CORE_MEMORY}" in text


def test_an_agent_without_system_prompt_still_has_its_memory():
    assert compiled(bundle(HUMAN, system="")).startswith("<memory_blocks>")


@pytest.mark.parametrize("agent_type", ["react_agent", "workflow_agent"])
def test_agents_without_memory_are_shown_no_blocks(agent_type: AgentType):
    text = compiled(bundle(HUMAN, agent_type=agent_type, tool_rules=({"type": "run_first", "tool_name": "look"},)))
    assert "<memory_blocks>" not in text
    assert "<tool_usage_rules>" in text
    assert "<memory_metadata>" in text


def test_lines_are_numbered_where_asked():
    text = compiled(bundle(HUMAN), line_numbers=True)
    assert "<value>\n1→ Ada\n2→ \tlikes tea \n</value>" in text
    assert f"<warning>\n{LINE_NUMBER_WARNING}\n</warning>" in text
    assert "<warning>" not in compiled(bundle(HUMAN))


@pytest.mark.parametrize(
    ("agent_type", "endpoint_type", "numbered"),
    [
        ("letta_v1_agent", "anthropic", True),
        ("memgpt_v2_agent", "bedrock", True),
        ("sleeptime_agent", "anthropic", True),
        ("memgpt_agent", "anthropic", False),
        ("letta_v1_agent", "openai", False),
        ("letta_v1_agent", None, False),
    ],
)
def test_claude_is_shown_numbered_lines(agent_type: AgentType, endpoint_type: str | None, numbered: bool):
    extra = {"model": {"endpoint_type": endpoint_type}} if endpoint_type else {}
    text = compiled(bundle(HUMAN, agent_type=agent_type, extra=extra))
    assert ("1→ Ada" in text) is numbered and (LINE_NUMBER_WARNING in text) is numbered
    assert "1→ Ada" not in compiled(bundle(HUMAN, agent_type=agent_type, extra=extra), line_numbers=False)


@given(st.text(max_size=60))
def test_a_value_stands_in_the_text_unchanged(value: str):
    text = compiled(bundle(Block(id="block-1", label="notes", value=value)))
    assert f"<value>\n{value}\n</value>" in text
    assert f"- chars_current={len(value)}\n" in text


def test_the_same_state_gives_the_same_text():
    assert compiled(bundle(HUMAN)) == compiled(bundle(HUMAN))


def test_time_and_message_count_alone_are_no_change():
    agent = bundle(HUMAN)
    later = compiled(agent, now_us=NOW_US + 90_000_000, previous_message_count=12)
    assert later != compiled(agent)
    assert same_but_for_time(compiled(agent), later)


def test_every_other_difference_is_a_change():
    base = compiled(bundle(HUMAN))
    others = [
        compiled(bundle(HUMAN, system="You are Max.")),
        compiled(bundle()),
        compiled(bundle(HUMAN), conversation_id="conv-1"),
        compiled(bundle(HUMAN), archival_count=1),
        compiled(bundle(HUMAN), archive_tags=("t",)),
        compiled(bundle(HUMAN, tool_rules=({"type": "exit_loop", "tool_name": "stop"},))),
    ]
    assert not any(same_but_for_time(base, other) for other in others)


def test_a_block_that_imitates_the_metadata_is_still_compared():
    line = "- System prompt last recompiled: "
    one = compiled(bundle(Block(id="block-1", label="x", value=f"<memory_metadata>\n{line}A\n</memory_metadata>")))
    two = compiled(bundle(Block(id="block-1", label="x", value=f"<memory_metadata>\n{line}B\n</memory_metadata>")))
    assert not same_but_for_time(one, two)


def test_a_timezone_nobody_knows_means_utc():
    assert "03:00:00 PM UTC+0000" in compiled(bundle(timezone="Mars/Olympus"))


def test_every_agent_type_has_a_prompt_of_its_own_words():
    assert set(DEFAULT_SYSTEM_PROMPTS) == set(AgentType.__args__)  # type: ignore[attr-defined]
    for agent_type, prompt in DEFAULT_SYSTEM_PROMPTS.items():
        assert prompt == prompt.strip() and "\n\n" in prompt and "{" not in prompt
        legacy = agent_type in ("memgpt_agent", "memgpt_v2_agent", "split_thread_agent")
        assert ("send_message" in prompt) == legacy
