"""Running a tool because a person asks for it, without a model: an agent's tool with its memory, or a bare source."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from perdure.agents.edit_tools import attached_tool
from perdure.agents.recompile import recompile_agents
from perdure.core.agents import AgentBundle, Tool
from perdure.core.archives import Passage
from perdure.core.errors import Invalid
from perdure.core.ids import new_id, now_us
from perdure.core.messages import TextPart, ToolCall, ToolReturn
from perdure.core.vault import Vault
from perdure.runs.search import Searcher, StoreSearch
from perdure.store import agents as agent_store
from perdure.store import blocks as block_store
from perdure.store.base import Store, Tx
from perdure.store.passages import file_for_agent
from perdure.tools.base import PassageInsert
from perdure.tools.builtin import BuiltinTools
from perdure.tools.executor import Executor
from perdure.tools.sandbox import Sandbox, SandboxResult
from perdure.tools.schema import check_arguments, schema_from_source


class ToolResult(Struct, frozen=True, kw_only=True):
    """`value`: what the function returned, as JSON can have it; None when it failed."""

    status: Literal["success", "error"]
    value: Any = None
    stdout: list[str] = []
    stderr: list[str] = []


async def run_tool_of_agent(
    store: Store,
    sandbox: Sandbox,
    vault: Vault,
    agent_id: str,
    tool_name: str,
    args: Mapping[str, Any],
    *,
    searcher: Searcher | None = None,
) -> ToolResult:
    """NotFound if the agent has no such tool; Invalid if the arguments do not fit it."""
    tool = await store.read(lambda: attached_tool(agent_id, tool_name))
    _check(tool, args)
    bundle = await store.read(lambda: agent_store.agent_bundle(agent_id))
    if tool.tool_type == "custom":
        return _result(await _run_custom(sandbox, vault, bundle, tool, args))
    return await _run_builtin(store, sandbox, searcher or Searcher(store), bundle, tool, args)


def _check(tool: Tool, args: Mapping[str, Any]) -> None:
    wrong = check_arguments(tool.json_schema.get("parameters", {}), dict(args))
    if wrong is not None:
        raise Invalid(f"args: {wrong}", status=422)


async def _run_custom(
    sandbox: Sandbox, vault: Vault, bundle: AgentBundle, tool: Tool, args: Mapping[str, Any]
) -> SandboxResult:
    if tool.source_type != "python" or not tool.source_code:
        raise Invalid(f"Tool {tool.name} has no Python source this server could run.")
    return await sandbox.run(
        source=tool.source_code,
        function=tool.name,
        args=dict(args),
        env={
            **vault.open_all(bundle.agent.secrets),
            "LETTA_AGENT_ID": bundle.agent.id,
            "LETTA_TOOL_ID": tool.id,
            "LETTA_PROJECT_ID": bundle.agent.project_id or "",
        },
        allow_network=tool.allow_network,
        return_char_limit=tool.return_char_limit,
        pip_requirements=tool.pip_requirements,
    )


async def _run_builtin(
    store: Store, sandbox: Sandbox, searcher: Searcher, bundle: AgentBundle, tool: Tool, args: Mapping[str, Any]
) -> ToolResult:
    agent_id = bundle.agent.id
    executor = Executor(
        bundle,
        builtin=BuiltinTools(),
        sandbox=sandbox,
        search=StoreSearch(searcher, agent_id),
        run_id="",
        conversation_id=agent_id,
    )
    call = ToolCall(new_id("call"), tool.name, json.dumps(dict(args)))
    outcome = await executor.execute([call], refused={}, prefilled={}, step_id="", keep={})
    if outcome.effects:
        await store.write(lambda: _apply(agent_id, outcome.effects))
        searcher.filed()
    return _builtin_result(outcome.returns[0])


def _apply(agent_id: str, effects: Sequence[Any]) -> Tx[None]:
    """What a run's worker commits with a step, for a call outside of any run. StaleBlock if a block changed meanwhile."""
    now = now_us()
    touched = {agent_id}
    for effect in effects:
        if isinstance(effect, PassageInsert):
            passage = Passage(id=effect.id, text=effect.text, tags=effect.tags, created_us=effect.created_us or 0)
            yield from file_for_agent(agent_id, [passage], now)
        elif effect.kind == "create":
            yield from block_store.create_block(effect.block)
            yield from block_store.attach_block(agent_id, effect.block)
        elif effect.kind == "detach":
            yield from block_store.detach_block(agent_id, effect.block.id)
        else:
            based_on = msgspec.structs.replace(effect.block, version=effect.base_version, updated_us=now)
            yield from block_store.replace_block(based_on)
            touched.update((yield from block_store.agents_of_block(effect.block.id)))
    for touched_id in touched:
        yield from agent_store.bump_agent(touched_id, now)
    yield from recompile_agents(sorted(touched), "a memory tool was run by hand")


async def run_source(
    sandbox: Sandbox,
    source_code: str,
    args: Mapping[str, Any],
    *,
    name: str | None,
    env: Mapping[str, str],
    pip_requirements: list[dict[str, Any]],
) -> tuple[str, SandboxResult]:
    """Run a function that is no stored tool, by default the last one: (its name, what came of it)."""
    function = str(schema_from_source(source_code, name, args_json_schema={"type": "object", "properties": {}})["name"])
    result = await sandbox.run(
        source=source_code, function=function, args=dict(args), env=dict(env), pip_requirements=pip_requirements
    )
    return function, result


def _result(result: SandboxResult) -> ToolResult:
    if result.status == "error":
        told = [result.error] if result.error and not any(result.error in text for text in result.stderr) else []
        return ToolResult(status="error", stdout=result.stdout, stderr=[*result.stderr, *told])
    return ToolResult(status="success", value=_value(result), stdout=result.stdout, stderr=result.stderr)


def _value(result: SandboxResult) -> Any:
    """JSON where the tool returned some and nothing of it was cut away, else text."""
    if result.is_json:
        try:
            return json.loads(result.value)
        except ValueError:
            return result.value
    return result.value


def _builtin_result(answer: ToolReturn) -> ToolResult:
    text = answer.content
    if not isinstance(text, str):
        text = "\n".join(part.text for part in text if isinstance(part, TextPart))
    if answer.status == "error":
        return ToolResult(status="error", stdout=list(answer.stdout or ()), stderr=[*(answer.stderr or ()), text])
    return ToolResult(status="success", value=text, stdout=list(answer.stdout or ()), stderr=list(answer.stderr or ()))
