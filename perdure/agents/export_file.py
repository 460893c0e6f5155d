"""Reading an agent for a file: what it is and all that was said in one of its conversations."""

from perdure.agents.file_values import ExportedAgent
from perdure.core.errors import NotFound
from perdure.core.messages import Message
from perdure.store.agents import agent_bundle, check_agent
from perdure.store.base import Tx
from perdure.store.conversations import conversation_state
from perdure.store.message_reads import list_messages
from perdure.store.messages import context_messages


def export_agents(agent_id: str, conversation_id: str | None, *, with_messages: bool) -> Tx[list[ExportedAgent]]:
    """The agent, and the members of the group it manages, with what was said in their own conversations."""
    first = yield from export_agent(agent_id, conversation_id, with_messages=with_messages)
    found = [first]
    for member in first.bundle.group.agent_ids if first.bundle.group is not None else ():
        found.append((yield from export_agent(member, None, with_messages=with_messages)))
    return found


def export_agent(agent_id: str, conversation_id: str | None, *, with_messages: bool) -> Tx[ExportedAgent]:
    """`conversation_id` None: the agent's own. NotFound for an agent or conversation that is not there, or not its own."""
    yield from check_agent(agent_id)
    bundle = yield from agent_bundle(agent_id)
    state = yield from conversation_state(conversation_id or agent_id)
    if state.agent_id != agent_id:
        raise NotFound(f"Conversation {conversation_id} is not one of agent {agent_id}")
    if not with_messages:
        return ExportedAgent(bundle=bundle)
    context = yield from context_messages(state.id, state.head_ids, state.tail_from)
    said = yield from list_messages(conversation_id=state.id, limit=None)
    own = {message.id for message in said}
    elsewhere: list[Message] = [message for message in context if message.id not in own]
    return ExportedAgent(
        bundle=bundle, messages=(*elsewhere, *said), in_context=tuple(message.id for message in context)
    )
