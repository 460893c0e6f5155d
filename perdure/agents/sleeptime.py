"""The sleeptime agent: made with its primary or for it later, it shares the primary's blocks and looks after them between its
turns."""

from msgspec import Struct

from perdure.agents.edit_blocks import new_block
from perdure.agents.models import ChosenModel
from perdure.agents.parts import linked, new_bundle, own_rules
from perdure.agents.recompile import first_system_message
from perdure.agents.spec import AgentSpec, BlockSpec
from perdure.core.agents import Agent, AgentBundle
from perdure.core.groups import DEFAULT_BUFFER, DEFAULT_FREQUENCY, Group
from perdure.core.ids import new_id, now_us
from perdure.store.agents import agent_bundle, delete_agent
from perdure.store.agents import create_agent as store_agent
from perdure.store.base import Tx
from perdure.store.groups import create_group, delete_group, group_of_manager

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


def sleeptime_of(spec: AgentSpec, chosen: ChosenModel, primary: AgentBundle) -> Tx[Sleeper]:
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
    tools, _ = yield from linked(own)
    now = now_us()
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


def set_sleeptime(agent: Agent) -> Tx[None]:
    """What a change of `enable_sleeptime` means: an agent that looks after this one's memory comes, or goes with its group.

    Conflict if the agent manages a group of another kind. A group that it has already stays.
    """
    group = yield from group_of_manager(agent.id)
    has_one = group is not None and group.rests
    spec = _as_spec(agent)
    if wants_sleeptime(spec) and not has_one:
        facts = agent.extra.get("model") or {}
        chosen = ChosenModel(agent.model, agent.context_window, facts)
        bundle = yield from agent_bundle(agent.id)
        yield from store_sleeper((yield from sleeptime_of(spec, chosen, bundle)))
    elif not agent.enable_sleeptime and group is not None and has_one:
        yield from delete_group(group.id, now_us())
        for member in group.agent_ids if group.own_members else ():
            yield from delete_agent(member)


def _as_spec(agent: Agent) -> AgentSpec:
    """What its sleeptime agent takes over from it."""
    return AgentSpec(
        agent_type=agent.agent_type,
        embedding=agent.embedding,
        model_settings=agent.model_settings,
        timezone=agent.timezone,
        enable_sleeptime=agent.enable_sleeptime,
        project_id=agent.project_id,
        hidden=agent.hidden,
        extra=agent.extra,
    )
