"""Forking a conversation: a new one that goes on from where another stands, or stood.

What was said before is shared, not copied: messages are immutable. The fork has its own compiled system message, and copies of
its own of the blocks that are the other's own. A fork never begins with a tool call that nobody answered.
"""

from collections.abc import Sequence

import msgspec

from perdure.agents.conversations import copied
from perdure.agents.recompile import system_message
from perdure.core.conversations import Conversation, bundle_in
from perdure.core.errors import NotFound
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message
from perdure.store.agents import agent_bundle
from perdure.store.archives import filed_by
from perdure.store.base import Tx
from perdure.store.conversation_edits import share_messages
from perdure.store.conversation_reads import ConversationView, contexts, conversation_by_id, conversation_view
from perdure.store.conversations import ConversationState, conversation_state, create_conversation
from perdure.store.message_reads import Placed, history_of, placed_messages
from perdure.store.private_blocks import add_private_blocks, private_blocks


def fork_conversation(source_id: str, *, message_id: str | None = None, hidden: bool = False) -> Tx[ConversationView]:
    """`message_id`: the last message the fork is to have. NotFound for a conversation or message that is not there."""
    source = yield from conversation_by_id(source_id)
    state = yield from conversation_state(source_id)
    shared = yield from shared_context(state, message_id)
    now = now_us()
    last_id = shared[-1].message.id if shared else None
    forked = Conversation(
        id=new_id("conv"),
        agent_id=source.agent_id,
        settings=msgspec.structs.replace(source.settings, forked_from=(source_id, last_id)),
        summary=source.summary,
        hidden=hidden,
        created_us=now,
        updated_us=now,
    )
    bundle = yield from agent_bundle(source.agent_id)
    copies = copied((yield from private_blocks(source_id)), now)
    filed = yield from filed_by(source.agent_id)
    shown = bundle_in(bundle, forked.settings, copies)
    system = system_message(shown, forked.id, now, said=len(shared), filed=filed)
    yield from create_conversation(
        forked,
        system,
        bundle.agent.revision,
        shared_ids=tuple(placed.message.id for placed in shared),
        segment_id=state.segment_id,
        break_cause=f"fork: from {source_id} at {last_id or 'its beginning'}",
    )
    yield from share_messages(forked.id, system.id, [(placed.position, placed.message.id) for placed in shared])
    yield from add_private_blocks(forked.id, copies)
    return (yield from conversation_view(forked.id))


def shared_context(state: ConversationState, message_id: str | None) -> Tx[Sequence[Placed]]:
    """The messages to go on from, without the other's system message: its context, up to `message_id`."""
    ids = (yield from contexts([state.id]))[state.id]
    context = yield from placed_messages(state.id, ids)
    if context and context[0].message.role == "system" and context[0].message.id in state.head_ids:
        if message_id == context[0].message.id:
            return ()
        context = context[1:]
    context = [placed for placed in context if not placed.message.hidden]
    if message_id is None:
        return whole(context, len(context))
    at = _index(context, message_id)
    if at is None:  # it has left the context since: go back to how it was then
        history = [placed for placed in (yield from history_of(state.id)) if placed.message.role != "system"]
        at = _index(history, message_id)
        if at is None:
            raise NotFound(f"message_id: conversation {state.id} has no message {message_id}")
        begin = max((n for n in range(at + 1) if _is_summary(history[n].message)), default=0)
        context, at = history[begin:], at - begin
    return whole(context, at + 1)


def _index(placed: Sequence[Placed], message_id: str) -> int | None:
    return next((at for at, each in enumerate(placed) if each.message.id == message_id), None)


def _is_summary(message: Message) -> bool:
    return message.role == "summary" or message.compaction is not None


def whole(context: Sequence[Placed], end: int) -> Sequence[Placed]:
    """`context[:end]`, longer or else shorter where that would leave a tool call without its return."""
    waiting: set[str] = set()
    complete = 0
    for at, placed in enumerate(context, 1):
        waiting.update(call.id for call in placed.message.tool_calls)
        waiting.difference_update(answer.tool_call_id for answer in placed.message.tool_returns)
        if not waiting:
            complete = at
            if at >= end:
                break
    return context[:complete]
