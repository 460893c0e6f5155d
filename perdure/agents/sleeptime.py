"""The sleeptime agent: made with its primary, it shares the primary's blocks and looks after them between its turns."""

from msgspec import Struct

from perdure.agents.edit_blocks import new_block
from perdure.agents.models import ChosenModel
from perdure.agents.parts import linked, new_bundle, own_rules
from perdure.agents.recompile import first_system_message
from perdure.agents.spec import AgentSpec, BlockSpec
from perdure.core.agents import AgentBundle
from perdure.core.groups import DEFAULT_BUFFER, DEFAULT_FREQUENCY, Group
from perdure.core.ids import new_id
from perdure.store.agents import create_agent as store_agent
from perdure.store.base import Store, Tx
from perdure.store.groups import create_group

MEMORY_PERSONA_FOR = "How I look after this memory."
MEMORY_PERSONA = """\
I look after the memory of an agent while it rests. I read what was said since I last looked, keep what will matter later,
correct what has changed, and leave the rest alone. I write short, true sentences with dates, each in the block it belongs in."""


class Sleeper(Struct, frozen=True, kw_only=True):
    """A sleeptime agent about to be made with its primary."""

    bundle: AgentBundle
    new_blocks: frozenset[str]
    group: Group


def wants_sleeptime(spec: AgentSpec) -> bool:
    return bool(spec.enable_sleeptime) and spec.agent_type not in ("sleeptime_agent", "voice_sleeptime_agent")


async def sleeptime_of(store: Store, spec: AgentSpec, chosen: ChosenModel, primary: AgentBundle) -> Sleeper:
    """The agent that looks after the primary's blocks while it rests, with a block of its own for how it goes about it."""
    voice = spec.agent_type == "voice_convo_agent"
    own = AgentSpec(
        name=f"{primary.agent.name}-sleeptime",
        agent_type="voice_sleeptime_agent" if voice else "sleeptime_agent",
        embedding=spec.embedding,
        model_settings=spec.model_settings,
        timezone=spec.timezone,
        project_id=spec.project_id,
        hidden=spec.hidden,
        extra=spec.extra,
    )
    tools, _ = await store.read(lambda: linked(own))
    now = primary.agent.created_us
    persona = new_block(BlockSpec(label="memory_persona", value=MEMORY_PERSONA, description=MEMORY_PERSONA_FOR), now)
    has_one = any(block.label == persona.label for block in primary.blocks)
    blocks = primary.blocks if has_one else (*primary.blocks, persona)
    bundle = new_bundle(own, chosen, tools=tools, blocks=blocks, rules=own_rules(own, tools), now=now)
    group = Group(
        id=new_id("group"),
        manager_type="voice_sleeptime" if voice else "sleeptime",
        agent_ids=(bundle.agent.id,),
        description=f"{primary.agent.name} and the agent that looks after its memory",
        manager_agent_id=primary.agent.id,
        frequency=None if voice else DEFAULT_FREQUENCY,
        min_buffer=DEFAULT_BUFFER[0] if voice else None,
        max_buffer=DEFAULT_BUFFER[1] if voice else None,
        own_members=True,
        project_id=spec.project_id,
        hidden=spec.hidden,
        created_us=now,
        updated_us=now,
    )
    return Sleeper(bundle=bundle, new_blocks=frozenset(() if has_one else (persona.id,)), group=group)


def store_sleeper(sleeper: Sleeper) -> Tx[None]:
    yield from store_agent(
        sleeper.bundle, new_blocks=sleeper.new_blocks, system_message=first_system_message(sleeper.bundle)
    )
    yield from create_group(sleeper.group)
