"""The built-in tools as data, and which of them an agent begins with."""

import inspect

import pytest

from perdure.core.agents import AgentType, Tool
from perdure.loop.rules import validate_rules
from perdure.tools.builtin import _OTHERS, EDITS
from perdure.tools.registry import BUILTIN_TOOLS, approval_rules_for, base_tools_for, default_rules_for

WIRE_ARGUMENTS = {
    "core_memory_append": ["label", "content"],
    "core_memory_replace": ["label", "old_content", "new_content"],
    "memory_replace": ["label", "old_string", "new_string"],
    "memory_insert": ["label", "new_string", "insert_line"],
    "memory_rethink": ["label", "new_memory"],
    "memory_apply_patch": ["label", "patch"],
    "memory_finish_edits": [],
    "memory": [
        *("command", "path", "file_text", "description", "old_string", "new_string"),
        *("insert_line", "insert_text", "old_path", "new_path"),
    ],
    "archival_memory_insert": ["content", "tags"],
    "archival_memory_search": ["query", "tags", "tag_match_mode", "top_k", "start_datetime", "end_datetime"],
    "conversation_search": ["query", "roles", "limit", "start_date", "end_date"],
    "send_message": ["message"],
    "send_message_to_agent_and_wait_for_reply": ["message", "other_agent_id"],
    "send_message_to_agents_matching_tags": ["message", "match_all", "match_some"],
    "send_message_to_agent_async": ["message", "other_agent_id"],
    "send_message_to_all_agents_in_group": ["message"],
    "choose_next_participant": ["next_speaker_agent_id", "message"],
}


def test_the_model_is_shown_the_wires_arguments():
    assert {name: list(tool.properties) for name, tool in BUILTIN_TOOLS.items()} == WIRE_ARGUMENTS


@pytest.mark.parametrize("name", BUILTIN_TOOLS)
def test_what_the_model_is_shown_is_what_the_tool_takes(name: str):
    definition = BUILTIN_TOOLS[name]
    function = EDITS.get(name) or _OTHERS[name]
    taken = dict(list(inspect.signature(function).parameters.items())[1:])
    assert list(taken) == list(definition.properties)
    required = tuple(key for key, parameter in taken.items() if parameter.default is parameter.empty)
    assert required == definition.required


@pytest.mark.parametrize("name", BUILTIN_TOOLS)
def test_schemas_describe_every_argument(name: str):
    schema = BUILTIN_TOOLS[name].json_schema
    assert schema["name"] == name and schema["description"]
    assert set(schema["parameters"]) == {"type", "properties", "required"}
    assert all(argument["description"] and argument["type"] for argument in schema["parameters"]["properties"].values())


def test_searches_and_questions_may_run_side_by_side_and_edits_may_not():
    parallel = {name for name, tool in BUILTIN_TOOLS.items() if tool.enable_parallel_execution}
    asking = {"send_message_to_agent_and_wait_for_reply", "send_message_to_agents_matching_tags"}
    assert parallel == {"conversation_search", "archival_memory_search"} | asking


@pytest.mark.parametrize(
    ("agent_type", "names"),
    [
        ("letta_v1_agent", "conversation_search memory_replace memory_insert"),
        ("memgpt_v2_agent", "conversation_search memory_replace memory_insert send_message"),
        (
            "memgpt_agent",
            "send_message conversation_search core_memory_append core_memory_replace memory memory_apply_patch",
        ),
        ("sleeptime_agent", "memory_replace memory_insert memory_rethink memory_finish_edits"),
        ("react_agent", ""),
        ("workflow_agent", ""),
    ],
)
def test_base_tools_by_type(agent_type: AgentType, names: str):
    assert base_tools_for(agent_type) == names.split()
    assert base_tools_for(agent_type, include_base_tools=False) == []


def test_agents_with_a_sleeptime_agent_leave_their_memory_to_it():
    expected = ["send_message", "conversation_search", "archival_memory_search"]
    assert base_tools_for("memgpt_agent", enable_sleeptime=True) == expected
    assert base_tools_for("letta_v1_agent", enable_sleeptime=True) == expected[1:]
    assert base_tools_for("sleeptime_agent", enable_sleeptime=True) == base_tools_for("sleeptime_agent")


@pytest.mark.parametrize("agent_type", AgentType.__args__)  # type: ignore[attr-defined]
def test_base_tools_can_all_be_run(agent_type: AgentType):
    for sleeptime in (False, True):
        names = base_tools_for(agent_type, include_multi_agent_tools=True, enable_sleeptime=sleeptime)
        assert set(names) <= set(BUILTIN_TOOLS)
        assert len(set(names)) == len(names)


def test_default_rules_end_the_turn_of_older_types_and_are_off_for_v1():
    names = ["send_message", "conversation_search", "custom"]
    assert default_rules_for("letta_v1_agent", names) == []
    rules = default_rules_for("memgpt_agent", names)
    assert [(rule["type"], rule["tool_name"]) for rule in rules] == [
        ("exit_loop", "send_message"),
        ("continue_loop", "conversation_search"),
    ]
    assert default_rules_for("letta_v1_agent", names, include_base_tool_rules=True) == rules
    assert default_rules_for("memgpt_agent", names, include_base_tool_rules=False) == []
    assert list(validate_rules(rules)) == rules


def test_tools_that_ask_first_get_a_rule():
    tools = [Tool(id="tool-1", name="pay", default_requires_approval=True), Tool(id="tool-2", name="look")]
    rules = approval_rules_for(tools)
    assert list(validate_rules(rules)) == rules
    assert [(rule["type"], rule["tool_name"]) for rule in rules] == [("requires_approval", "pay")]
