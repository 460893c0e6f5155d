"""Runs a step's tool calls and answers each of them once, in call order.

Whatever goes wrong with a call is an answer to the model, never an exception: bad arguments, an unknown tool, a refused call, a
tool that fails. Memory edits of one step build on each other and are returned as effects, to be committed with the step. Tools
that act outside of the step (custom ones, messages to other agents) are on record before they run, and never run twice unawares.
"""

import asyncio
import logging
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from perdure.core.agents import AgentBundle, Block, Tool
from perdure.core.begun import unknown
from perdure.core.effects import ToolOutcome
from perdure.core.errors import Invalid, ToolError
from perdure.core.messages import ToolCall, ToolReturn
from perdure.providers.web import Web
from perdure.tools.base import Journal, MemorySearch, Peers, ToolContext
from perdure.tools.builtin import BuiltinTools
from perdure.tools.content import content_of, unusable
from perdure.tools.definitions import BUILTIN_TOOLS
from perdure.tools.multi_agent import TOOLS as PEER_TOOLS
from perdure.tools.registry import arguments_of, truncated
from perdure.tools.sandbox import Sandbox
from perdure.tools.schema import check_arguments
from perdure.tools.strict import without_nulls

log = logging.getLogger(__name__)

OpenSecrets = Callable[[Mapping[str, str]], dict[str, str]]

LEGACY_AGENT_TYPES = ("memgpt_agent", "memgpt_v2_agent", "split_thread_agent")


class Executor:
    """The tools of one run. `blocks` are the agent's blocks when the step begins; the caller renews them.

    `journal`: told of calls that end while others of their step go on. `returned`: call id -> what the calls of the step under
    way have come to, those that act outside of it.
    """

    def __init__(
        self,
        bundle: AgentBundle,
        *,
        builtin: BuiltinTools,
        sandbox: Sandbox,
        search: MemorySearch,
        run_id: str,
        conversation_id: str,
        web: Web | None = None,
        peers: Peers | None = None,
        open_secrets: OpenSecrets = dict,
    ) -> None:
        self._agent = bundle.agent
        self._tools = {tool.name: tool for tool in bundle.tools}
        self.blocks: dict[str, Block] = {block.label: block for block in bundle.blocks}
        self._builtin = builtin
        self._sandbox = sandbox
        self._web = web or Web()
        self._search = search
        self._peers = peers
        self._run_id = run_id
        self._conversation_id = conversation_id
        self._open_secrets = open_secrets
        self.journal: Journal | None = None
        self.returned: dict[str, ToolReturn] = {}
        self._step_id = ""

    def acts_outside(self, calls: Sequence[ToolCall], but: Container[str]) -> bool:
        """Whether any of the calls, leaving out those in `but`, can have effects that are not the step's own."""
        return any(call.id not in but and self._is_outside(call.name) for call in calls)

    def recalled(
        self, calls: Sequence[ToolCall], refused: Container[str], returns: Mapping[str, ToolReturn]
    ) -> dict[str, ToolReturn]:
        """Answers to the calls of a step that was interrupted, but for those that are to be run (again): what a call returned,
        and an error for one whose outcome nobody knows."""
        found = dict(returns)
        for call in calls:
            if call.id in found or call.id in refused or not self._is_outside(call.name):
                continue
            if not self._tools[call.name].idempotent:
                found[call.id] = unknown(call)
        return found

    def _is_outside(self, name: str) -> bool:
        tool = self._tools.get(name)
        return tool is not None and (tool.tool_type == "custom" or not acts_inside(name))

    async def execute(
        self,
        calls: Sequence[ToolCall],
        *,
        refused: Mapping[str, str],
        prefilled: Mapping[str, Mapping[str, Any]],
        step_id: str,
        keep: Mapping[str, ToolReturn],
    ) -> ToolOutcome:
        context = self._context(step_id)
        if step_id != self._step_id:
            self._step_id, self.returned = step_id, {}
        answers: dict[int, ToolReturn] = {}
        together: list[int] = []
        for at, call in enumerate(calls):
            if call.id in keep:
                answers[at] = keep[call.id]
            elif call.id in refused:
                answers[at] = _error(call, refused[call.id], ran=False)
            elif (tool := self._tools.get(call.name)) is not None and tool.enable_parallel_execution:
                together.append(at)
        if together:
            done = await asyncio.gather(
                *(self._noted(calls[at], prefilled, context, alone=len(calls) == 1) for at in together)
            )
            answers.update(zip(together, done, strict=True))
        for at, call in enumerate(calls):
            if at not in answers:
                answers[at] = await self._noted(call, prefilled, context, alone=at + 1 == len(calls))
        return ToolOutcome(tuple(answers[at] for at in range(len(calls))), tuple(context.effects))

    def _context(self, step_id: str) -> ToolContext:
        return ToolContext(
            agent_id=self._agent.id,
            conversation_id=self._conversation_id,
            run_id=self._run_id,
            step_id=step_id,
            timezone=self._agent.timezone,
            blocks=dict(self.blocks),
            effects=[],
            search=self._search,
            peers=self._peers,
            secrets=self._agent.secrets,
            context_window=self._agent.context_window,
        )

    async def _noted(
        self, call: ToolCall, prefilled: Mapping[str, Mapping[str, Any]], context: ToolContext, *, alone: bool
    ) -> ToolReturn:
        """`alone`: no other call of the step follows, so the step's own commit is the receipt."""
        answer = await self._run(call, prefilled, context)
        if self._is_outside(call.name):
            self.returned[call.id] = answer
            if self.journal is not None and not alone:
                self.journal.returned(context.step_id, answer)
        return answer

    async def _run(
        self, call: ToolCall, prefilled: Mapping[str, Mapping[str, Any]], context: ToolContext
    ) -> ToolReturn:
        tool = self._tools.get(call.name)
        if tool is None:
            names = ", ".join(sorted(self._tools)) or "none"
            return _error(call, f"Tool not found: {call.name}. Tools you can call: {names}.")
        try:
            schema = tool.json_schema.get("parameters", {})
            arguments = arguments_of(
                call, legacy=self._agent.agent_type in LEGACY_AGENT_TYPES, own=schema.get("properties") or ()
            )
            arguments.update(prefilled.get(call.id, {}))
            arguments = without_nulls(schema, arguments)
            if (wrong := check_arguments(schema, arguments)) is not None:
                raise ToolError(f"Error executing function {call.name}: ArgumentError: {wrong}")
        except ToolError as error:
            return _error(call, error.message)
        if tool.tool_type == "custom":
            return await self._run_custom(call, tool, arguments, context)
        return await self._builtin.run(call, tool, arguments, context)

    async def _run_custom(
        self, call: ToolCall, tool: Tool, arguments: dict[str, Any], context: ToolContext
    ) -> ToolReturn:
        if tool.source_type != "python" or not tool.source_code:
            return _error(call, f"Tool {call.name} has no Python source this server could run.")
        result = await self._sandbox.run(
            source=tool.source_code,
            function=tool.name,
            args=arguments,
            env={
                **self._open_secrets(context.secrets),
                "LETTA_AGENT_ID": context.agent_id,
                "LETTA_TOOL_ID": tool.id,
                "LETTA_PROJECT_ID": self._agent.project_id or "",
            },
            allow_network=tool.allow_network,
            return_char_limit=tool.return_char_limit,
            pip_requirements=tool.pip_requirements,
        )
        text = result.value if result.status == "success" else (result.error or "The tool failed.")
        try:
            content = await content_of(text, is_json=result.is_json, web=self._web)
        except Invalid as error:
            return _error(call, unusable(call.name, error))
        return ToolReturn(
            tool_call_id=call.id,
            name=call.name,
            status=result.status,
            content=truncated(content, tool.return_char_limit) if isinstance(content, str) else content,
            stdout=tuple(result.stdout) or None,
            stderr=tuple(result.stderr) or None,
        )


def acts_inside(name: str) -> bool:
    """Whether all that a built-in tool does is committed with its step, or nothing but a look."""
    return name in BUILTIN_TOOLS and name not in PEER_TOOLS


def _error(call: ToolCall, text: str, *, ran: bool = True) -> ToolReturn:
    return ToolReturn(tool_call_id=call.id, name=call.name, status="error", content=text, ran=ran)
