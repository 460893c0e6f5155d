"""Puts together what a run's loop works on: the agent as the request wants it, its model, its tools, its context."""

from collections.abc import Callable, Sequence

import msgspec

from perdure.core.agents import Agent, AgentBundle, ModelSettings
from perdure.core.batches import Via
from perdure.core.errors import AgentError
from perdure.core.runs import Run, RunConfig
from perdure.loop.legacy import legacy_agent, legacy_of, legacy_specs, legacy_tools
from perdure.loop.offer import system_text, tool_specs
from perdure.loop.parking import asking_names
from perdure.loop.shown import speech_of
from perdure.loop.turn import Turn
from perdure.providers.base import Model, ModelInfo
from perdure.providers.batched import KeptAnswer
from perdure.providers.registry import Registry, Resolved
from perdure.providers.web import Web
from perdure.runs.context import Context
from perdure.runs.search import Searcher, StoreSearch
from perdure.tools.base import Peers
from perdure.tools.builtin import BuiltinTools
from perdure.tools.executor import Executor, OpenSecrets
from perdure.tools.sandbox import Sandbox


class Turns:
    """`peers`: how the tools of a run reach other agents."""

    def __init__(
        self,
        registry: Registry,
        sandbox: Sandbox,
        web: Web,
        searcher: Searcher,
        *,
        peers: Callable[[Run, AgentBundle], Peers],
        open_secrets: OpenSecrets,
    ) -> None:
        self._registry = registry
        self._sandbox = sandbox
        self._web = web
        self._searcher = searcher
        self._peers = peers
        self._open_secrets = open_secrets
        self._builtin = BuiltinTools()

    async def turn(self, run: Run, context: Context, kept: Sequence[KeptAnswer] = ()) -> tuple[Turn, Executor]:
        """What the loop works on, and the tools of it. AgentError: the run cannot go on.

        `kept`: what the provider's batches have answered to the run so far.
        """
        bundle, config = context.bundle, run.config
        agent = with_overrides(bundle.agent, config)
        legacy = legacy_of(agent, bundle.tools, speech_of(config))
        if legacy is not None:
            tools = legacy_tools(bundle.tools, agent.model_settings.response_format)
            bundle, agent = msgspec.structs.replace(bundle, tools=tools), legacy_agent(agent)
        handle = config.override_model or agent.model
        resolved = await self._registry.resolve(
            handle, settings=agent.model_settings, require_exact=config.return_token_ids
        )
        executor = Executor(
            bundle,
            builtin=self._builtin,
            sandbox=self._sandbox,
            web=self._web,
            search=StoreSearch(self._searcher, agent.id),
            peers=self._peers(run, bundle),
            run_id=run.id,
            conversation_id=run.conversation_id,
            open_secrets=self._open_secrets,
        )
        system = context.system
        if system is None:
            raise AgentError(f"Conversation {run.conversation_id} has no system message. Reset its messages.")
        specs = tool_specs(bundle.tools, config.client_tools, strict=agent.model_settings.strict)
        client_tools = frozenset(tool.name for tool in config.client_tools)
        if legacy is not None:
            specs = legacy_specs(specs, legacy, agent.tool_rules, client_tools)
        turn = Turn(
            run=run,
            agent=agent,
            tools={tool.name: tool for tool in bundle.tools},
            specs=specs,
            system=system,
            system_text=system_text(system.text, config),
            context=context.messages,
            model=await self._batched(run, resolved, kept, agent.model_settings) or resolved.model,
            model_handle=handle,
            model_name=resolved.name,
            provider_name=resolved.provider_name,
            endpoint=resolved.endpoint,
            executor=executor,
            blocks=executor.blocks,
            tokens=context.tokens,
            window=known_window(agent, resolved.info, given=context.own.context_window),
            step_count=run.step_count,
            asks=asking_names(agent.tool_rules, (tool.name for tool in bundle.tools), config.client_tools),
            client_tools=client_tools,
            answer=context.answer,
            legacy=legacy,
            at_once=resolved.model,
            attempts=max(0, len({answer.at for answer in kept}) - 1),
        )
        return turn, executor

    async def _batched(
        self, run: Run, resolved: Resolved, kept: Sequence[KeptAnswer], settings: ModelSettings
    ) -> Model | None:
        via = via_of(run)
        return None if via == "queue" else await self._registry.batched(resolved, via, kept, settings)


def via_of(run: Run) -> Via:
    """How the run's model calls are made: only those of a batch may have another way."""
    return run.metadata.get("via", "queue") if run.metadata is not None else "queue"


def as_agent_wants(run: Run, settings: ModelSettings) -> Run:
    """What an agent's settings ask of all its runs counts as asked by the request."""
    if not (settings.return_token_ids or settings.return_logprobs):
        return run
    config = msgspec.structs.replace(
        run.config,
        return_token_ids=run.config.return_token_ids or settings.return_token_ids,
        return_logprobs=run.config.return_logprobs or settings.return_logprobs,
        top_logprobs=run.config.top_logprobs if run.config.top_logprobs is not None else settings.top_logprobs,
    )
    return msgspec.structs.replace(run, config=config)


def with_overrides(agent: Agent, config: RunConfig) -> Agent:
    """The agent as this run is to have it."""
    if config.first_tools:
        first = ({"type": "run_first", "tool_name": name, "args": None} for name in config.first_tools)
        agent = msgspec.structs.replace(agent, tool_rules=(*agent.tool_rules, *first))
    if config.override_settings is None:
        return agent
    settings = msgspec.convert(msgspec.to_builtins(agent.model_settings) | config.override_settings, ModelSettings)
    return msgspec.structs.replace(agent, model_settings=settings)


def known_window(agent: Agent, info: ModelInfo | None, *, given: int | None) -> int | None:
    """The context window in tokens, within the model's own. `given`: the conversation's. None where it was only assumed."""
    told = info.context_window if info is not None else None
    if told is None and given is None and agent.extra.get("model", {}).get("assumed_window"):
        return None
    return agent.context_window if told is None else min(agent.context_window, told)
