"""What a run shows its model besides the history: the tools it may call and the system text.

Invariant: a client's tool stands in place of the agent's tool of the same name, everywhere and for this run only.
"""

from collections.abc import Iterable, Sequence

import msgspec

from perdure.core.agents import Tool
from perdure.core.model import ToolSpec
from perdure.core.runs import ClientTool, RunConfig
from perdure.memory.skills_text import render_skills
from perdure.tools.strict import strict_parameters

KEPT_STRICT = 4096
_strict: dict[tuple[str, int], ToolSpec] = {}


def tool_specs(tools: Iterable[Tool], client_tools: Sequence[ClientTool], *, strict: bool) -> list[ToolSpec]:
    """The agent's own tools in their order, then the client's.

    `strict`: the agent's own in strict form, where they have one. A client's keep theirs: it may not know what the nulls of
    the strict form mean.
    """
    names = {tool.name for tool in client_tools}
    specs = [_spec(tool, strict) for tool in tools if tool.name not in names]
    specs += [
        ToolSpec(tool.name, tool.description or "", tool.parameters or {"type": "object", "properties": {}})
        for tool in client_tools
    ]
    return specs


def _spec(tool: Tool, strict: bool) -> ToolSpec:
    spec = ToolSpec(
        tool.name,
        str(tool.json_schema.get("description") or tool.description or ""),
        tool.json_schema.get("parameters") or {"type": "object", "properties": {}},
    )
    return _made_strict(tool, spec) if strict else spec


def _made_strict(tool: Tool, spec: ToolSpec) -> ToolSpec:
    """Making the form takes a while, so it is kept as long as the tool stays as it is."""
    key = tool.id, tool.updated_us
    if (found := _strict.get(key)) is not None:
        return found
    parameters = strict_parameters(spec.parameters)
    made = spec if parameters is None else msgspec.structs.replace(spec, parameters=parameters, strict=True)
    if len(_strict) >= KEPT_STRICT:
        _strict.clear()
    _strict[key] = made
    return made


def system_text(compiled: str, config: RunConfig) -> str:
    """The compiled system text, or what the request has in its place; the client's skills go with the compiled one only."""
    if config.override_system is not None:
        return config.override_system
    if not config.client_skills:
        return compiled
    return f"{compiled}\n\n{render_skills(config.client_skills)}"
