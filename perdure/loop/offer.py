"""What a run shows its model besides the history: the tools it may call and the system text.

Invariant: a client's tool stands in place of the agent's tool of the same name, everywhere and for this run only.
"""

from collections.abc import Iterable, Sequence

from perdure.core.agents import Tool
from perdure.core.model import ToolSpec
from perdure.core.runs import ClientTool, RunConfig
from perdure.memory.skills_text import render_skills


def tool_specs(tools: Iterable[Tool], client_tools: Sequence[ClientTool], *, strict: bool) -> list[ToolSpec]:
    """The agent's own tools in their order, then the client's."""
    names = {tool.name for tool in client_tools}
    specs = [
        ToolSpec(
            tool.name,
            str(tool.json_schema.get("description") or tool.description or ""),
            tool.json_schema.get("parameters") or {"type": "object", "properties": {}},
            strict,
        )
        for tool in tools
        if tool.name not in names
    ]
    specs += [
        ToolSpec(tool.name, tool.description or "", tool.parameters or {"type": "object", "properties": {}}, strict)
        for tool in client_tools
    ]
    return specs


def system_text(compiled: str, config: RunConfig) -> str:
    """The compiled system text, or what the request has in its place; the client's skills go with the compiled one only."""
    if config.override_system is not None:
        return config.override_system
    if not config.client_skills:
        return compiled
    return f"{compiled}\n\n{render_skills(config.client_skills)}"
