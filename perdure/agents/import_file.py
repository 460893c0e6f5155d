"""Taking agents out of a file: tools, blocks and agents with their histories, stored in one transaction.

Nothing is stored unless everything can be. What cannot be taken over as it is in the file is said in the notes.
"""

from collections.abc import Mapping, Sequence

import msgspec

from perdure.agents.edit_blocks import new_block
from perdure.agents.edit_tools import put_tool
from perdure.agents.file_history import compiled_message, context_of
from perdure.agents.file_values import AgentFile, FileAgent, FileGroup, FileTool, Imported, ImportOptions
from perdure.agents.groups import create_group
from perdure.agents.models import ChosenModel, choose_model
from perdure.agents.names import checked_name, made_up_name
from perdure.agents.parts import base_tool_names, check_labels, check_timezone, new_bundle
from perdure.agents.pins import with_pins
from perdure.agents.recompile import first_system_message
from perdure.agents.spec import AgentSpec, BlockSpec
from perdure.core.agents import Block, Tool
from perdure.core.errors import AgentError, Invalid, NotFound
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message
from perdure.core.vault import Vault
from perdure.loop.rules import validate_rules
from perdure.providers.registry import Registry
from perdure.store.agents import create_agent as store_agent
from perdure.store.base import Store, Tx
from perdure.store.blocks import create_block
from perdure.store.tools import find_tool
from perdure.tools.registry import BUILTIN_TOOLS

_KEEPERS = ("sleeptime_agent", "voice_sleeptime_agent")


async def import_file(
    store: Store,
    registry: Registry,
    vault: Vault,
    file: AgentFile,
    options: ImportOptions,
    *,
    default_model: str | None = None,
) -> Imported:
    """Raises Invalid (400) naming the place in the file, with nothing stored."""
    notes = list(file.left_out)
    wanted: list[tuple[FileAgent, AgentSpec, ChosenModel]] = []
    for at, agent in enumerate(file.agents):
        spec = _spec(agent.spec, options, vault, first=at == 0)
        with_place = f"{agent.where}: "
        try:
            checked_name(spec.name or "")
            check_timezone(spec.timezone)
            rules = validate_rules(spec.tool_rules)
            chosen = await _model(registry, agent, spec, default_model, notes)
        except NotFound as error:
            raise Invalid(f"{with_place}{error.message} Name a model that is served in the field `model`.") from error
        except AgentError as error:
            raise Invalid(with_place + error.message) from error
        wanted.append((agent, msgspec.structs.replace(spec, tool_rules=rules), chosen))
    agent_ids, told = await store.write(lambda: _store(file, wanted, options))
    return Imported(tuple(agent_ids), tuple(dict.fromkeys((*notes, *told))))


def _spec(spec: AgentSpec, options: ImportOptions, vault: Vault, *, first: bool) -> AgentSpec:
    """The agent as the importer wants it."""
    name = spec.name if spec.name is not None else made_up_name()
    name = options.name if options.name is not None and first else name + options.copy_suffix
    return msgspec.structs.replace(
        spec,
        name=name,
        model=options.model or spec.model,
        embedding=options.embedding or spec.embedding,
        secrets=vault.seal_all(spec.secrets | options.secrets),
        project_id=options.project_id or spec.project_id,
    )


async def _model(
    registry: Registry, agent: FileAgent, spec: AgentSpec, default_model: str | None, notes: list[str]
) -> ChosenModel:
    """The agent's model; its context window is the file's, as far as the model here can take it."""
    chosen = await choose_model(registry, spec.model, default=default_model, context_window_limit=None)
    window = agent.context_window
    if window is None:
        return chosen
    try:
        return await choose_model(registry, chosen.handle, default=None, context_window_limit=window)
    except Invalid:
        notes.append(
            f"{agent.where}: its context window of {window} tokens became {chosen.context_window}, all that "
            f"{chosen.handle} can take here"
        )
        return chosen


def _store(
    file: AgentFile, wanted: Sequence[tuple[FileAgent, AgentSpec, ChosenModel]], options: ImportOptions
) -> Tx[tuple[list[str], list[str]]]:
    """(the ids of the agents, notes)."""
    now, notes = now_us(), list[str]()
    tools: dict[str, Tool | None] = {}
    for key, tool in file.tools.items():
        tools[key] = yield from _tool(tool, options.override_existing_tools, notes)
    blocks = {key: _block(spec, f"block {spec.label} ({key})", now, notes) for key, spec in file.blocks.items()}
    created: set[str] = set()
    agent_ids: dict[str, str] = {}
    for agent, spec, chosen in wanted:
        own = [
            _block(block, f"{agent.where}.memory_blocks[{at}]", now, notes)
            for at, block in enumerate(spec.memory_blocks)
        ]
        has = (*own, *(blocks[key] for key in agent.block_ids))
        try:
            check_labels(has)
        except AgentError as error:
            raise Invalid(f"{agent.where}.block_ids: {error.message}") from error
        held = yield from _tools_of(agent, spec, tools, notes)
        bundle = new_bundle(spec, chosen, tools=held, blocks=has, rules=spec.tool_rules, now=now)
        system, said, in_context, ids = _history(agent, first_system_message(bundle), options, notes)
        kept = with_pins(bundle.agent.compaction_settings, ids)
        bundle = msgspec.structs.replace(bundle, agent=msgspec.structs.replace(bundle.agent, compaction_settings=kept))
        yield from store_agent(
            bundle,
            new_blocks=frozenset(block.id for block in has if block.id not in created),
            system_message=system,
            first_messages=said,
            in_context=in_context,
        )
        created |= {block.id for block in has}
        agent_ids[agent.id] = bundle.agent.id
        if empty := sorted(key for key, value in spec.secrets.items() if not value):
            notes.append(f"{agent.where}: these secrets have no value yet: {', '.join(empty)}")
    yield from _groups(file, blocks, created, agent_ids)
    return list(agent_ids.values()), notes


def _groups(file: AgentFile, blocks: Mapping[str, Block], created: set[str], agent_ids: Mapping[str, str]) -> Tx[None]:
    """`created`: the ids of the blocks that are stored already."""
    for group in file.groups:
        for key in group.spec.shared_block_ids:
            if blocks[key].id not in created:
                yield from create_block(blocks[key])
                created.add(blocks[key].id)
        keepers = all(agent.spec.agent_type in _KEEPERS for agent in file.agents if agent.id in group.spec.agent_ids)
        yield from _group(group, keepers, agent_ids, {key: block.id for key, block in blocks.items()})


def _group(group: FileGroup, keepers: bool, agents: Mapping[str, str], blocks: Mapping[str, str]) -> Tx[None]:
    """`keepers`: its members are there to look after their manager's memory."""
    spec, manager = group.spec, group.spec.manager
    if manager.manager_agent_id is not None:
        manager = msgspec.structs.replace(manager, manager_agent_id=agents[manager.manager_agent_id])
    made = msgspec.structs.replace(
        spec,
        agent_ids=tuple(agents[agent_id] for agent_id in spec.agent_ids),
        manager=manager,
        shared_block_ids=tuple(blocks[block_id] for block_id in spec.shared_block_ids),
        own_members=keepers and "sleeptime" in manager.manager_type,
    )
    try:
        yield from create_group(made)
    except AgentError as error:
        raise Invalid(f"{group.where}: {error.message}") from error


def _block(spec: BlockSpec, where: str, now: int, notes: list[str]) -> Block:
    """Files come from servers that did not hold blocks to their limits: a value that is longer raises its limit."""
    if len(spec.value) > spec.limit:
        notes.append(
            f"{where}: the block's limit of {spec.limit} was raised to the {len(spec.value)} characters it has"
        )
        spec = msgspec.structs.replace(spec, limit=len(spec.value))
    try:
        return new_block(spec, now)
    except AgentError as error:
        raise Invalid(f"{where}: {error.message}") from error


def _tool(tool: FileTool, override: bool, notes: list[str]) -> Tx[Tool | None]:
    """The server's tool for a tool of the file; None, and a note, if there can be none."""
    found = yield from find_tool(tool.name)
    if tool.spec is None or tool.name in BUILTIN_TOOLS:
        if found is None:
            notes.append(f"tool {tool.name} ({tool.tool_type}) was left out: it cannot be made from a file")
        return found
    if found is not None and not override:
        if found.source_code != tool.spec.source_code:
            notes.append(f"tool {tool.name} is the one this server has, not the one in the file")
        return found
    if found is not None and _same(found, tool):
        return found
    try:
        put = yield from put_tool(tool.spec)
    except AgentError as error:
        raise Invalid(f"tool {tool.name}: {error.message}") from error
    if found is not None:
        notes.append(f"tool {tool.name} of this server was replaced by the one in the file")
    return put


def _same(found: Tool, tool: FileTool) -> bool:
    spec = tool.spec
    assert spec is not None
    return all(
        getattr(found, key) == getattr(spec, key)
        for key in spec.__struct_fields__
        if key not in ("description", "json_schema", "allow_network", "idempotent")
    ) and (spec.json_schema is None or found.json_schema == spec.json_schema)


def _tools_of(
    agent: FileAgent, spec: AgentSpec, tools: Mapping[str, Tool | None], notes: list[str]
) -> Tx[tuple[Tool, ...]]:
    """Those of the file, then those it names as the server's."""
    held = {tool.name: tool for key in agent.tool_ids if (tool := tools[key]) is not None}
    alone = msgspec.structs.replace(
        spec, enable_sleeptime=None
    )  # a file brings no sleeptime agent to leave the memory to
    for name in dict.fromkeys((*base_tool_names(alone), *spec.tools)):
        if name in held:
            continue
        found = yield from find_tool(name)
        if found is None:
            notes.append(f"{agent.where}: this server has no tool {name}; it was left out")
        else:
            held[name] = found
    return tuple(held.values())


def _history(
    agent: FileAgent, system: Message, options: ImportOptions, notes: list[str]
) -> tuple[Message, tuple[Message, ...], tuple[str, ...] | None, dict[str, str]]:
    """(the system message, all others in order, the ids in context, the new id by that in the file). The prompt is compiled
    anew: it names the agent."""
    if options.strip_messages:
        return system, (), None, {}
    old = compiled_message(agent)
    if old is not None:
        system = msgspec.structs.replace(system, created_us=old.created_us or system.created_us)
    context, found = context_of(agent)
    notes += found
    mended = {message.id: message for message in context}
    ids = {message.id: new_id("message") for message in (*agent.messages, *context)}
    order: list[Message] = [mended.pop(item.id, item) for item in agent.messages if item is not old]
    for message in mended.values():  # what was put in to close a call, after the message it follows in the context
        before = context[context.index(message) - 1]
        order.insert(next(at for at, item in enumerate(order) if item.id == before.id) + 1, message)
    said = tuple(
        msgspec.structs.replace(
            item,
            id=ids[item.id],
            agent_id=system.agent_id,
            conversation_id=system.conversation_id,
            created_us=item.created_us or system.created_us,
        )
        for item in order
    )
    return system, said, (system.id, *(ids[message.id] for message in context)), ids
