"""Copies of agents for rollouts: the state a job begins with, one of it for each attempt, stand-ins for who an attempt talks to.

Invariant: nothing a copy does can be noticed by the agent it was made from, or by another copy; and all copies of one state are
shown the same prompt, whose ids and time are those of the state.
"""

from collections.abc import Sequence

import msgspec

from perdure.agents.conversations import copied
from perdure.agents.fork import shared_context
from perdure.agents.recompile import system_message
from perdure.core.agents import AgentBundle, ShownAs, shown_as, shown_id, with_shown_as
from perdure.core.archives import Archive
from perdure.core.errors import NotFound
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.rollouts import Attempt, Job, JobSpec
from perdure.memory.compile import same_but_for_time
from perdure.store import rollouts as rollout_store
from perdure.store.agents import agent_by_id, create_agent
from perdure.store.archives import archive_by_id, archive_ids_of_agent, attach_archive, create_archive, filed_by
from perdure.store.base import Store, Tx
from perdure.store.conversation_edits import share_messages
from perdure.store.conversations import ConversationState, begin_context, conversation_state, recompiled
from perdure.store.groups import create_group
from perdure.store.message_reads import Placed
from perdure.store.messages import message_by_id
from perdure.store.private_blocks import conversation_bundle


def base_of(spec: JobSpec, job_id: str, now: int) -> Tx[str]:
    """Keep the agent as it is for all attempts of a job to begin with. NotFound for a message it does not have."""
    state = yield from conversation_state(spec.conversation_id or spec.agent_id)
    shared = yield from shared_context(state, spec.from_message_id)
    bundle = yield from _of_rollouts(state, spec, {"job_id": job_id}, now)
    system = yield from _system_message(bundle, state, len(shared), now)
    yield from _store(bundle, state, system, shared, own_archive=None)
    return bundle.agent.id


def fork_agent(job: Job, attempt: Attempt) -> Tx[Attempt]:
    """Make the attempt's copy of the agent, in the transaction that notes it on the attempt. NotFound."""
    now = now_us()
    spec = job.spec
    if spec.base_id is None:
        raise NotFound(f"Rollout job {job.id} has no state to begin with: it was accepted by an older server.")
    agent_id = yield from _copy(spec.base_id, spec, attempt, now)
    started = msgspec.structs.replace(attempt, agent_id=agent_id, status="running")
    yield from rollout_store.change_attempt(started, now)
    return started


async def stand_in(store: Store, rollout_id: str, agent_id: str) -> str:
    """Who an attempt reaches instead of another agent: a copy of its own, made when it is first spoken to. NotFound."""
    found = await store.read(lambda: rollout_store.copy_in(rollout_id, agent_id))
    return found or await store.write(lambda: _stand_in(rollout_id, agent_id))


def _stand_in(rollout_id: str, agent_id: str) -> Tx[str]:
    found = yield from rollout_store.copy_in(rollout_id, agent_id)
    if found is not None:
        return found
    attempt = yield from rollout_store.attempt_by_id(rollout_id)
    job = yield from rollout_store.job_by_id(attempt.job_id)
    return (yield from _copy(agent_id, job.spec, attempt, job.created_us))


def _copy(source_id: str, spec: JobSpec, attempt: Attempt, now: int) -> Tx[str]:
    """The copy of an agent in an attempt: the one there is, or a new one."""
    state = yield from conversation_state(source_id)
    shared = yield from shared_context(state, None)
    bundle = yield from _of_rollouts(state, spec, {"job_id": attempt.job_id, "rollout_id": attempt.id}, now)
    agent = bundle.agent
    if not (yield from rollout_store.add_copy(attempt.id, shown_id(agent), agent.id)):
        there = yield from rollout_store.copy_in(attempt.id, shown_id(agent))
        assert there is not None
        return there
    as_is = source_id == spec.base_id
    system = yield from _system_message(bundle, state, len(shared), now, as_is=as_is)
    yield from _store(bundle, state, system, shared, own_archive=f"{attempt.id}'s archive")
    return agent.id


def _of_rollouts(state: ConversationState, spec: JobSpec, made_for: dict[str, str], now: int) -> Tx[AgentBundle]:
    """The agent as it is in the conversation, under a new id. Without tags: nobody is to find it by them."""
    bundle = yield from conversation_bundle(state)
    source = bundle.agent
    agent = msgspec.structs.replace(
        source,
        id=new_id("agent"),
        hidden=True,
        memory_rendering=spec.memory_rendering,
        metadata={**source.metadata, "copy_of": shown_id(source), **made_for},
        enable_sleeptime=None,
        created_us=now,
        updated_us=now,
        revision=1,
    )
    if shown_as(agent) is None:
        own = None if state.id == source.id else state.id
        agent = with_shown_as(agent, ShownAs(agent_id=source.id, conversation_id=own, at_us=now))
    return msgspec.structs.replace(bundle, agent=agent, blocks=copied(bundle.blocks, now), tags=())


def _system_message(
    bundle: AgentBundle, state: ConversationState, said: int, now: int, *, as_is: bool = False
) -> Tx[Message]:
    """What the copy begins with: the source's text where that still holds (`as_is`: anyway), so that they share a prefix."""
    filed = yield from filed_by(state.agent_id)
    fresh = system_message(bundle, bundle.agent.id, now, said=said, filed=filed)
    found = (yield from message_by_id(state.head_ids[0])) if state.head_ids else None
    if found is None or found[1].role != "system":
        return fresh
    if not as_is and not same_but_for_time(found[1].text, fresh.text):
        return fresh
    return msgspec.structs.replace(fresh, content=(TextPart(found[1].text),))


def _store(
    bundle: AgentBundle,
    state: ConversationState,
    system: Message,
    shared: Sequence[Placed],
    *,
    own_archive: str | None,
) -> Tx[None]:
    """Store the copy. It reads the source's archives; `own_archive`: the name of the one that takes what it files."""
    agent = bundle.agent
    yield from create_agent(bundle, new_blocks={block.id for block in bundle.blocks}, system_message=system)
    if shared:
        ids = (system.id, *(placed.message.id for placed in shared))
        yield from begin_context(agent.id, ids, compiled_revision=agent.revision, now=agent.created_us)
        yield from share_messages(agent.id, system.id, [(placed.position, placed.message.id) for placed in shared])
    archive_ids = yield from archive_ids_of_agent(state.agent_id)
    if archive_ids and own_archive is not None:
        first = yield from archive_by_id(archive_ids[0])
        own = Archive(
            id=new_id("archive"),
            name=own_archive,
            embedding=first.embedding,
            made_for=agent.id,
            created_us=agent.created_us,
            updated_us=agent.created_us,
        )
        yield from create_archive(own)
        archive_ids.insert(0, own.id)
    for archive_id in archive_ids:
        yield from attach_archive(agent.id, archive_id)
    if bundle.group is not None and not bundle.group.rests:
        led = msgspec.structs.replace(
            bundle.group, id=new_id("group"), manager_agent_id=agent.id, own_members=False, hidden=True
        )
        yield from create_group(led)
        changed = yield from agent_by_id(agent.id)
        yield from recompiled(agent.id, None, changed.revision, "")
