"""How tools are listed in a prompt, where families share it or a template has no place for them."""

from collections.abc import Sequence
from typing import Any

from perdure.core.model import ToolSpec
from perdure.tokens.templates import to_json

TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
DEEPSEEK_BEFORE = "## Tools\nYou have access to the following tools:\n\n"
DEEPSEEK_AFTER = (
    "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments<｜tool▁call▁end｜>"
    "{additional_tool_calls}<｜tool▁calls▁end｜>\n\nWhere:\n"
    "- `tool_call_name` must be an exact match to one of the available tools\n"
    "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
    "- For multiple tool calls, chain them directly without separators or spaces"
)


def tool_object(tool: ToolSpec) -> dict[str, Any]:
    """A tool as chat templates are given one."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def hermes_list(tools: Sequence[ToolSpec]) -> str:
    """Tools, and how to call them, as Hermes and Qwen are told."""
    return TOOLS_BEFORE + "".join("\n" + to_json(tool_object(tool)) for tool in tools) + TOOLS_AFTER


def deepseek_tool(tool: ToolSpec) -> str:
    return f"### {tool.name}\nDescription: {tool.description}\n\nParameters: {to_json(tool.parameters)}"


def deepseek_list(tools: Sequence[ToolSpec]) -> str:
    """The same as DeepSeek's authors describe it."""
    return DEEPSEEK_BEFORE + "".join(deepseek_tool(tool) + "\n\n" for tool in tools) + DEEPSEEK_AFTER
