"""Conversations between the wire and our values, and which one a path means.

`default` with an agent id, or the agent's id itself, means the agent's own history.
"""

from typing import Any

from msgspec import Struct

from perdure.agents.conversations import ConversationChange, ConversationSpec
from perdure.api.model_settings import model_settings
from perdure.api.resources import MINE
from perdure.api.to_wire import iso
from perdure.api.wire.conversations import CreateConversation, UpdateConversation
from perdure.core.errors import Invalid
from perdure.core.ids import matches
from perdure.store.agents import check_agent
from perdure.store.approvals import parked_run
from perdure.store.base import Tx
from perdure.store.conversation_reads import ConversationView, conversation_by_id
from perdure.store.runs import active_runs


class Place(Struct, frozen=True):
    """Where something is said."""

    agent_id: str
    conversation_id: str

    @property
    def is_default(self) -> bool:
        return self.agent_id == self.conversation_id


def checked_conversation_id(value: str, agent_id: str | None = None) -> str:
    """The conversation a path's last part means. Invalid (422) for what cannot be one."""
    if value == "default":
        if agent_id is None:
            raise Invalid("agent_id: conversation `default` needs the id of its agent", status=422)
        if not matches("agent", agent_id):
            raise Invalid(f"agent_id: {agent_id!r} should match pattern 'agent-{{uuid4}}'", status=422)
        return agent_id
    if not (matches("conv", value) or matches("agent", value)):
        raise Invalid(
            f"conversation_id: {value!r} should be `default` or match pattern 'conv-{{uuid4}}'",
            status=422,
            examples=["default", "conv-123e4567-e89b-42d3-8456-426614174000"],
        )
    return value


def own_conversation_id(value: str) -> str:
    """As `checked_conversation_id`, for what cannot be done to an agent's own history."""
    if value == "default" or matches("agent", value):
        raise Invalid(
            "conversation_id: an agent's own history is changed through the agent itself "
            "(/v1/agents/{agent_id}, /v1/agents/{agent_id}/reset-messages)."
        )
    return checked_conversation_id(value)


def place_of(conversation_id: str) -> Tx[Place]:
    """NotFound for a conversation or agent that is not there."""
    if conversation_id.startswith("agent-"):
        yield from check_agent(conversation_id)
        return Place(conversation_id, conversation_id)
    conversation = yield from conversation_by_id(conversation_id)
    return Place(conversation.agent_id, conversation_id)


def cancellable_runs(conversation_id: str) -> Tx[list[str]]:
    """The runs that have not ended, and the one that stopped to wait for an approval."""
    active = yield from active_runs(conversation_id=conversation_id)
    parked = yield from parked_run(conversation_id)
    return [*(run_id for run_id, _, _ in active), *([parked] if parked is not None else ())]


def conversation_spec(agent_id: str, body: CreateConversation) -> ConversationSpec:
    if not matches("agent", agent_id):
        raise Invalid(
            f"agent_id: {agent_id!r} should match pattern 'agent-{{uuid4}}'",
            status=422,
            examples=["agent-123e4567-e89b-42d3-8456-426614174000"],
        )
    return ConversationSpec(
        agent_id=agent_id,
        summary=body.summary,
        description=body.description,
        isolated_block_labels=tuple(body.isolated_block_labels or ()),
        model=body.model,
        model_settings=model_settings(body.model_settings) if body.model_settings is not None else None,
        context_window_limit=body.context_window_limit,
        memory_rendering=body.memory_rendering,
        hidden=bool(body.hidden),
    )


def conversation_change(body: UpdateConversation) -> ConversationChange:
    given = body.model_fields_set
    values: dict[str, Any] = {
        name: getattr(body, name) for name in ("summary", "description", "model", "memory_rendering") if name in given
    }
    if "model_settings" in given:
        said = body.model_settings
        values["model_settings"] = model_settings(said) if said is not None else None
    if "context_window_limit" in given:
        values["context_window"] = body.context_window_limit
    if "last_message_at" in given:
        at = body.last_message_at
        values["last_message_us"] = round(at.timestamp() * 1e6) if at is not None else None
    for name in ("archived", "hidden"):
        if (value := getattr(body, name)) is not None:
            values[name] = value
    return ConversationChange(**values)


def conversation_json(view: ConversationView) -> dict[str, Any]:
    conversation = view.conversation
    own = conversation.settings
    return {
        "id": conversation.id,
        "agent_id": conversation.agent_id,
        "summary": conversation.summary,
        "description": own.description,
        "in_context_message_ids": list(view.message_ids),
        "isolated_block_ids": list(view.private_block_ids),
        "model": own.model,
        "model_settings": own.model_settings.raw if own.model_settings is not None else None,
        "context_window_limit": own.context_window,
        "memory_rendering": own.memory_rendering,
        "hidden": conversation.hidden,
        "archived": conversation.archived_us is not None,
        "archived_at": iso(conversation.archived_us),
        "last_message_at": iso(conversation.last_message_us),
        "created_at": iso(conversation.created_us),
        "updated_at": iso(conversation.updated_us),
        **MINE,
    }
