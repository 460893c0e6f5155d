"""Making and changing conversations: model and settings checked, blocks copied, the prompt compiled, in one transaction."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from perdure.agents.models import choose_model
from perdure.agents.recompile import system_message
from perdure.core.agents import AgentBundle, Block, MemoryRendering, ModelSettings
from perdure.core.conversations import Conversation, ConversationSettings, bundle_in
from perdure.core.errors import Invalid
from perdure.core.ids import new_id, now_us
from perdure.providers.registry import Registry
from perdure.store.agents import agent_bundle, agent_by_id
from perdure.store.archives import filed_by
from perdure.store.base import Store, Tx
from perdure.store.conversation_edits import change_conversation
from perdure.store.conversation_reads import ConversationView, conversation_by_id, conversation_view
from perdure.store.conversations import create_conversation as store_conversation
from perdure.store.private_blocks import add_private_blocks


class ConversationSpec(Struct, frozen=True, kw_only=True):
    """What is asked of a new conversation. None: as the agent has it."""

    agent_id: str
    summary: str | None = None
    description: str | None = None
    isolated_block_labels: tuple[str, ...] = ()
    model: str | None = None
    model_settings: ModelSettings | None = None
    context_window_limit: int | None = None
    memory_rendering: MemoryRendering | None = None
    hidden: bool = False


class ConversationChange(Struct, frozen=True, kw_only=True):
    """UNSET: stays as it is. None of a model, settings or limit: the agent's again."""

    summary: str | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET
    model: str | UnsetType | None = UNSET
    model_settings: ModelSettings | UnsetType | None = UNSET
    context_window: int | UnsetType | None = UNSET
    memory_rendering: MemoryRendering | UnsetType | None = UNSET
    archived: bool | UnsetType = UNSET
    hidden: bool | UnsetType = UNSET
    last_message_us: int | UnsetType | None = UNSET


_SETTINGS = ("description", "model", "model_settings", "context_window", "memory_rendering")


async def create_conversation(store: Store, registry: Registry, spec: ConversationSpec) -> ConversationView:
    """NotFound for an unknown agent or model, Invalid for a label the agent has no block of; nothing is stored then."""
    agent = await store.read(lambda: agent_by_id(spec.agent_id))
    await _check_model(registry, agent.model, spec.model, spec.context_window_limit)
    now = now_us()
    conversation = Conversation(
        id=new_id("conv"),
        agent_id=spec.agent_id,
        summary=spec.summary,
        hidden=spec.hidden,
        created_us=now,
        updated_us=now,
        settings=ConversationSettings(
            description=spec.description,
            model=spec.model,
            model_settings=spec.model_settings,
            context_window=spec.context_window_limit,
            memory_rendering=spec.memory_rendering,
            isolated=tuple(dict.fromkeys(spec.isolated_block_labels)),
        ),
    )
    return await store.write(lambda: _create(conversation))


def _create(conversation: Conversation) -> Tx[ConversationView]:
    bundle = yield from agent_bundle(conversation.agent_id)
    wanted = conversation.settings.isolated
    copies = copied([block for block in bundle.blocks if block.label in wanted], conversation.created_us)
    _check_isolated(bundle, wanted)
    filed = yield from filed_by(conversation.agent_id)
    shown = bundle_in(bundle, conversation.settings, copies)
    system = system_message(shown, conversation.id, conversation.created_us, filed=filed)
    yield from store_conversation(conversation, system, bundle.agent.revision)
    yield from add_private_blocks(conversation.id, copies)
    return (yield from conversation_view(conversation.id))


def copied(blocks: Sequence[Block], now: int) -> tuple[Block, ...]:
    """New blocks that say the same."""
    return tuple(
        msgspec.structs.replace(block, id=new_id("block"), created_us=now, updated_us=now, version=1)
        for block in blocks
    )


def _check_isolated(bundle: AgentBundle, wanted: Sequence[str]) -> None:
    labels = [block.label for block in bundle.blocks]
    if unknown := [label for label in wanted if label not in labels]:
        raise Invalid(
            f"isolated_block_labels: agent {bundle.agent.id} has no block labelled {', '.join(map(repr, unknown))}; "
            f"its blocks are: {', '.join(labels) or 'none'}."
        )


async def update_conversation(
    store: Store, registry: Registry, conversation_id: str, change: ConversationChange
) -> ConversationView:
    """NotFound for an unknown conversation or model; Invalid for a context window the model does not have."""
    if change.model is not UNSET or change.context_window is not UNSET:
        conversation = await store.read(lambda: conversation_by_id(conversation_id))
        own = _changed(conversation, change).settings
        agent = await store.read(lambda: agent_by_id(conversation.agent_id))
        await _check_model(registry, agent.model, own.model, own.context_window)
    return await store.write(lambda: _update(conversation_id, change))


def _update(conversation_id: str, change: ConversationChange) -> Tx[ConversationView]:
    conversation = yield from conversation_by_id(conversation_id)
    yield from change_conversation(_changed(conversation, change))
    return (yield from conversation_view(conversation_id))


def _changed(conversation: Conversation, change: ConversationChange) -> Conversation:
    now = now_us()
    settings = {key: value for key in _SETTINGS if (value := getattr(change, key)) is not UNSET}
    fields: dict[str, Any] = {
        key: value for key in ("summary", "hidden", "last_message_us") if (value := getattr(change, key)) is not UNSET
    }
    if change.archived is not UNSET and change.archived != (conversation.archived_us is not None):
        fields["archived_us"] = now if change.archived else None
    if settings:
        fields["settings"] = msgspec.structs.replace(conversation.settings, **settings)
    return msgspec.structs.replace(conversation, **fields, updated_us=now)


async def _check_model(registry: Registry, agent_model: str, model: str | None, limit: int | None) -> None:
    if model is not None or limit is not None:
        await choose_model(registry, model or agent_model, default=None, context_window_limit=limit)
