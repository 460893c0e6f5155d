"""Bringing the compiled system prompt up to date, in the transaction of the edit that made it stale.

An edit by a person shows in the default conversation at once: its system message is rewritten in place, and only if its
text, apart from the time line, really changed does the token stream break (cause `memory_rewrite`). Other conversations,
and agents beyond the first `AT_ONCE` of a widely shared block, are compiled when they are next used.
"""

from collections.abc import Iterable

import msgspec

from perdure.core.agents import AgentBundle
from perdure.core.archives import Filed
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.memory.compile import compile_system_text, same_but_for_time
from perdure.store.base import Tx
from perdure.store.conversation_reads import counts
from perdure.store.conversations import ConversationState, conversation_state, recompiled
from perdure.store.messages import message_by_id
from perdure.store.private_blocks import conversation_bundle

AT_ONCE = 32


def compile_bundle(bundle: AgentBundle, conversation_id: str, *, said: int, filed: Filed) -> str:
    """`said`: how many messages there are. The default conversation's id is the agent's."""
    return compile_system_text(
        bundle,
        conversation_id=None if conversation_id == bundle.agent.id else conversation_id,
        now_us=now_us(),
        previous_message_count=said,
        archival_count=filed.passages,
        archive_tags=filed.tags,
    )


def first_system_message(bundle: AgentBundle) -> Message:
    """The compiled system message of a new agent's default conversation."""
    agent = bundle.agent
    return system_message(bundle, agent.id, agent.created_us)


def system_message(
    bundle: AgentBundle, conversation_id: str, now: int, *, said: int = 0, filed: Filed = Filed()
) -> Message:
    """The compiled system message a conversation begins with."""
    agent_id = bundle.agent.id
    return Message(
        id=new_id("message"),
        role="system",
        created_us=now,
        content=(TextPart(compile_bundle(bundle, conversation_id, said=said, filed=filed)),),
        agent_id=agent_id,
        conversation_id=conversation_id,
    )


def compiled_text(conversation_id: str) -> Tx[str]:
    """What the system prompt would be now; nothing is changed."""
    state = yield from conversation_state(conversation_id)
    bundle = yield from conversation_bundle(state)
    return (yield from _compile(bundle, state))


def _compile(bundle: AgentBundle, state: ConversationState) -> Tx[str]:
    said, filed = yield from counts(state.agent_id, state.id)
    return compile_bundle(bundle, state.id, said=said, filed=filed)


def recompile(conversation_id: str, why: str, *, touch_time: bool = False) -> Tx[str]:
    """Compile the conversation's system prompt and store it where it differs; answers the text now in force.

    `touch_time`: store it even if only its time line differs.
    """
    state = yield from conversation_state(conversation_id)
    bundle = yield from conversation_bundle(state)
    text = yield from _compile(bundle, state)
    system = yield from _system_message(state)
    if system is not None and not touch_time and same_but_for_time(system.text, text):
        yield from recompiled(conversation_id, None, bundle.agent.revision, "")
        return system.text
    if system is None:
        return text
    changed = msgspec.structs.replace(system, content=(TextPart(text),))
    yield from recompiled(conversation_id, changed, bundle.agent.revision, f"memory_rewrite: {why}")
    return text


def _system_message(state: ConversationState) -> Tx[Message | None]:
    if not state.head_ids:
        return None
    found = yield from message_by_id(state.head_ids[0])
    return found[1] if found is not None and found[1].role == "system" else None


def recompile_agents(agent_ids: Iterable[str], why: str, *, even_appending: bool = False) -> Tx[None]:
    """After an edit that bumped their revisions: the default conversations of the first `AT_ONCE` of them.

    With `memory_rendering` "append" a conversation that has begun keeps its prompt and is told of changed blocks by a
    note; `even_appending` is for edits that no note can tell of, such as a new system prompt.
    """
    for agent_id in list(agent_ids)[:AT_ONCE]:
        state = yield from conversation_state(agent_id)
        if state.seen_blocks is not None and not even_appending:
            continue
        yield from recompile(agent_id, why)
