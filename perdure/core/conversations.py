"""Conversations: threads of messages with one agent, and what each has of its own.

An agent's own history is its default conversation, whose id is the agent's.
"""

import msgspec
from msgspec import Struct

from perdure.core.agents import Agent, AgentBundle, Block, MemoryRendering, ModelSettings


class ConversationSettings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a conversation says for itself; None: as its agent has it.

    `isolated`: the labels whose blocks it has copies of, fixed when it is made. It never sees the agent's own blocks of
    these labels, even after it has renamed or removed its copy. `forked_from`: (conversation id, last message id).
    """

    description: str | None = None
    model: str | None = None
    model_settings: ModelSettings | None = None
    context_window: int | None = None
    memory_rendering: MemoryRendering | None = None
    isolated: tuple[str, ...] = ()
    forked_from: tuple[str, str | None] | None = None


class Conversation(Struct, frozen=True, kw_only=True):
    """A conversation as people see it. What its runs need is `store.conversations.ConversationState`."""

    id: str
    agent_id: str
    settings: ConversationSettings = ConversationSettings()
    summary: str | None = None
    hidden: bool = False
    archived_us: int | None = None
    created_us: int = 0
    updated_us: int = 0
    last_message_us: int | None = None
    last_run_us: int | None = None


def bundle_in(bundle: AgentBundle, own: ConversationSettings, private: tuple[Block, ...] = ()) -> AgentBundle:
    """The agent as it is in a conversation: with its model and settings there, and its `private` blocks there."""
    agent = agent_in(bundle.agent, own)
    blocks = blocks_in(bundle.blocks, own.isolated, private) if own.isolated else bundle.blocks
    if agent is bundle.agent and blocks is bundle.blocks:
        return bundle
    return msgspec.structs.replace(bundle, agent=agent, blocks=blocks)


def agent_in(agent: Agent, own: ConversationSettings) -> Agent:
    if (own.model, own.model_settings, own.context_window, own.memory_rendering) == (None, None, None, None):
        return agent
    settings = agent.model_settings
    return msgspec.structs.replace(
        agent,
        model=own.model or agent.model,
        model_settings=settings_over(settings, own.model_settings) if own.model_settings is not None else settings,
        context_window=own.context_window or agent.context_window,
        memory_rendering=own.memory_rendering or agent.memory_rendering,
    )


def settings_over(under: ModelSettings, over: ModelSettings) -> ModelSettings:
    """What `over` says wins, even where it says what the default is; the rest is `under`'s."""
    nothing = ModelSettings()
    said = {
        name: value
        for name in ModelSettings.__struct_fields__
        if name != "raw" and ((value := getattr(over, name)) != getattr(nothing, name) or name in over.raw)
    }
    return msgspec.structs.replace(under, **said, raw={**under.raw, **over.raw})


def blocks_in(blocks: tuple[Block, ...], isolated: tuple[str, ...], private: tuple[Block, ...]) -> tuple[Block, ...]:
    """The agent's blocks with the conversation's copies in their places; what was renamed or added comes last."""
    own = {block.label: block for block in private}
    seen: list[Block] = []
    for block in blocks:
        if block.label in own:
            seen.append(own.pop(block.label))
        elif block.label not in isolated:
            seen.append(block)
    return (*seen, *own.values())
