"""Making an agent: model, blocks, tools, rules and its compiled default conversation, stored in one transaction, and with it
the agent that looks after its memory, where one is wanted."""

from collections.abc import Sequence

import msgspec

from perdure.agents.boot import boot_sequence
from perdure.agents.edit_blocks import new_block
from perdure.agents.models import check_summarizer, choose_model
from perdure.agents.names import checked_name, made_up_name
from perdure.agents.parts import check_labels, check_timezone, linked, new_bundle, own_rules
from perdure.agents.pins import no_pins
from perdure.agents.recompile import first_system_message
from perdure.agents.sleeptime import sleeptime_of, store_sleeper, wants_sleeptime
from perdure.agents.spec import AgentSpec
from perdure.core.ids import now_us
from perdure.core.messages import Message
from perdure.core.weighed import weight_of
from perdure.providers.registry import Registry
from perdure.store.agents import AgentView
from perdure.store.agents import create_agent as store_agent
from perdure.store.base import LARGE, Store, Tx


async def create_agent(
    store: Store,
    registry: Registry,
    spec: AgentSpec,
    *,
    default_model: str | None = None,
    first_messages: Sequence[Message] | None = None,
) -> AgentView:
    """Raises Invalid, NotFound or Conflict, with nothing stored. `first_messages` begin the default conversation;
    None: as those of an agent of its type begin."""
    name = checked_name(spec.name) if spec.name is not None else made_up_name()
    check_timezone(spec.timezone)
    no_pins(spec.compaction_settings)
    chosen = await choose_model(
        registry, spec.model, default=default_model, context_window_limit=spec.context_window_limit
    )
    await check_summarizer(registry, spec.compaction_settings)
    tools, blocks = await store.read(lambda: linked(spec))
    now = now_us()
    made = tuple(
        new_block(block, now, field=f"memory_blocks[{at}].value") for at, block in enumerate(spec.memory_blocks)
    )
    check_labels((*made, *blocks))
    bundle = new_bundle(
        msgspec.structs.replace(spec, name=name),
        chosen,
        tools=tools,
        blocks=(*made, *blocks),
        rules=own_rules(spec, tools),
        now=now,
    )
    agent = bundle.agent
    system = first_system_message(bundle)
    said = (
        boot_sequence(agent, bundle.tools)
        if first_messages is None
        else tuple(
            msgspec.structs.replace(message, agent_id=agent.id, conversation_id=agent.id, run_id=None)
            for message in first_messages
        )
    )
    new_ids = frozenset(block.id for block in made)
    sleeper = await store.read(lambda: sleeptime_of(spec, chosen, bundle)) if wants_sleeptime(spec) else None
    if sleeper is not None:
        bundle = msgspec.structs.replace(bundle, group=sleeper.group)

    def tx() -> Tx[None]:
        yield from store_agent(bundle, new_blocks=new_ids, system_message=system, first_messages=said)
        if sleeper is not None:
            yield from store_sleeper(sleeper)

    await store.write(tx, quick=weight_of(said) < LARGE)
    return AgentView(bundle=bundle, message_ids=(system.id, *(message.id for message in said)))
