"""A copy of an agent for one attempt: its blocks copied, its context shared up to a turn, its archives read and not written.

Invariant: nothing the copy does can be noticed by the agent it was made from, or by another copy.
"""

import msgspec

from perdure.agents.conversations import copied
from perdure.agents.fork import shared_context
from perdure.agents.recompile import system_message
from perdure.core.archives import Archive
from perdure.core.ids import new_id, now_us
from perdure.core.rollouts import Attempt, JobSpec
from perdure.store.agents import agent_bundle, create_agent
from perdure.store.archives import archive_by_id, archive_ids_of_agent, attach_archive, create_archive
from perdure.store.base import Tx
from perdure.store.conversation_edits import share_messages
from perdure.store.conversations import begin_context, conversation_state
from perdure.store.rollouts import change_attempt


def fork_agent(spec: JobSpec, attempt: Attempt) -> Tx[Attempt]:
    """Make the attempt's copy of the agent, in the transaction that notes it on the attempt. NotFound."""
    now = now_us()
    bundle = yield from agent_bundle(spec.agent_id)
    source_id = spec.conversation_id or spec.agent_id
    state = yield from conversation_state(source_id)
    shared = yield from shared_context(state, spec.from_message_id)
    agent = msgspec.structs.replace(
        bundle.agent,
        id=new_id("agent"),
        hidden=True,
        memory_rendering=spec.memory_rendering,
        metadata={**bundle.agent.metadata, "rollout_id": attempt.id, "copy_of": bundle.agent.id},
        enable_sleeptime=None,
        created_us=now,
        updated_us=now,
        revision=1,
    )
    blocks = copied(bundle.blocks, now)
    copy = msgspec.structs.replace(bundle, agent=agent, blocks=blocks)
    system = system_message(copy, agent.id, now, said=len(shared))
    yield from create_agent(copy, new_blocks=frozenset(block.id for block in blocks), system_message=system)
    if shared:
        ids = (system.id, *(placed.message.id for placed in shared))
        yield from begin_context(agent.id, ids, compiled_revision=agent.revision, now=now)
        yield from share_messages(agent.id, system.id, [(placed.position, placed.message.id) for placed in shared])
    if archive_ids := (yield from archive_ids_of_agent(spec.agent_id)):
        first = yield from archive_by_id(archive_ids[0])
        own = Archive(
            id=new_id("archive"),
            name=f"{attempt.id}'s archive",
            embedding=first.embedding,
            made_for=agent.id,
            created_us=now,
            updated_us=now,
        )
        yield from create_archive(own)
        for archive_id in (own.id, *archive_ids):
            yield from attach_archive(agent.id, archive_id)
    started = msgspec.structs.replace(attempt, agent_id=agent.id, status="running")
    yield from change_attempt(started, now)
    return started
