"""Which built-in tools and rules an agent begins with, by its type. The tools themselves are in `definitions.py`."""

from collections.abc import Iterable, Sequence
from typing import Any

from perdure.core.agents import AgentType, Tool
from perdure.tools.calls import arguments_of, cut_client_return, truncated
from perdure.tools.definitions import BUILTIN_TOOLS, Definition

__all__ = [
    "BUILTIN_TOOLS",
    "GROUP_TOOLS",
    "Definition",
    "approval_rules_for",
    "arguments_of",
    "base_tools_for",
    "cut_client_return",
    "default_rules_for",
    "truncated",
]

MULTI_AGENT_TOOLS = (
    "send_message_to_agent_and_wait_for_reply",
    "send_message_to_agents_matching_tags",
    "send_message_to_agent_async",
)

# What the manager of a group leads it with, by the kind of the group.
GROUP_TOOLS = {
    "supervisor": "send_message_to_all_agents_in_group",
    "round_robin": "send_message_to_all_agents_in_group",
    "dynamic": "choose_next_participant",
}

_V1 = ("conversation_search", "memory_replace", "memory_insert")
_MEMGPT = (
    "send_message",
    "conversation_search",
    "core_memory_append",
    "core_memory_replace",
    "memory",
    "memory_apply_patch",
)
_SLEEPTIME = ("memory_replace", "memory_insert", "memory_rethink", "memory_finish_edits")
_WITH_SLEEPTIME = ("send_message", "conversation_search", "archival_memory_search")
_ENDING = frozenset({"send_message", "memory_finish_edits"})

_BASE_TOOLS: dict[AgentType, tuple[str, ...]] = {
    "letta_v1_agent": _V1,
    "memgpt_v2_agent": (*_V1, "send_message"),
    "memgpt_agent": _MEMGPT,
    "split_thread_agent": _MEMGPT,
    "sleeptime_agent": _SLEEPTIME,
    "voice_sleeptime_agent": _SLEEPTIME,
    "voice_convo_agent": ("conversation_search",),
    "react_agent": (),
    "workflow_agent": (),
}
# A sleeptime agent has taken over the memory of these, so they only read.
_LEAVES_MEMORY_TO_SLEEPTIME: frozenset[AgentType] = frozenset(
    {"letta_v1_agent", "memgpt_agent", "memgpt_v2_agent", "split_thread_agent"}
)


def base_tools_for(
    agent_type: AgentType,
    *,
    include_base_tools: bool = True,
    include_multi_agent_tools: bool = False,
    enable_sleeptime: bool | None = False,
) -> list[str]:
    """Names of the built-in tools to attach to a new agent."""
    names: tuple[str, ...] = ()
    if include_base_tools:
        names = _BASE_TOOLS[agent_type]
        if enable_sleeptime and agent_type in _LEAVES_MEMORY_TO_SLEEPTIME:
            names = _WITH_SLEEPTIME
            if agent_type == "letta_v1_agent":  # answers in plain text
                names = tuple(name for name in names if name != "send_message")
    if include_multi_agent_tools:
        names += MULTI_AGENT_TOOLS
    return list(names)


def default_rules_for(
    agent_type: AgentType, tool_names: Iterable[str], *, include_base_tool_rules: bool | None = None
) -> list[dict[str, Any]]:
    """Rules for the built-in tools among `tool_names`. None: as the type has it (off for `letta_v1_agent`)."""
    wanted = agent_type != "letta_v1_agent" if include_base_tool_rules is None else include_base_tool_rules
    if not wanted:
        return []
    return [
        {"type": "exit_loop" if name in _ENDING else "continue_loop", "tool_name": name, "prompt_template": None}
        for name in tool_names
        if name in BUILTIN_TOOLS
    ]


def approval_rules_for(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Rules for the tools that ask a person first unless told otherwise."""
    return [
        {"type": "requires_approval", "tool_name": tool.name, "prompt_template": None}
        for tool in tools
        if tool.default_requires_approval
    ]
