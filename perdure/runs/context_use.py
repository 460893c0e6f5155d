"""What fills a conversation's context window, part by part, as its next prompt would have it.

Invariant: the parts add up to the total, and the answer says how it was counted.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from perdure.core.agents import AgentBundle
from perdure.core.errors import AgentError
from perdure.core.history import history
from perdure.core.messages import Message
from perdure.core.model import Prompt, ToolSpec
from perdure.loop.cuts import Sizes
from perdure.loop.offer import tool_specs
from perdure.loop.pins import pinned_positions
from perdure.loop.sizes import counted, fixed_length, shared_sizes
from perdure.memory.compile import memory_sections
from perdure.providers.base import CountsTokens, Model
from perdure.providers.registry import Registry
from perdure.store.base import Query, Store, Tx
from perdure.store.conversation_reads import counts
from perdure.store.conversations import conversation_state
from perdure.store.messages import context_messages
from perdure.store.private_blocks import conversation_bundle

Source = Literal["tokenizer", "provider", "estimate"]


class Part(Struct, frozen=True):
    text: str
    tokens: int


class ContextUse(Struct, frozen=True, kw_only=True):
    """Tokens by part. `system`: the system prompt without its memory; `core_memory`, `tool_rules` and `metadata` stand in it.

    `template`: what the chat template adds around them. `pinned_ids`: the messages that no compaction takes away, which take
    `pinned_tokens` of the messages' own. `source`: counted by the model's own "tokenizer"; shared out by length of
    what the "provider" counted last; or an "estimate" by length alone.
    """

    bundle: AgentBundle
    messages: list[Message]
    tools: list[ToolSpec]
    window: int
    said: int
    archived: int
    system: Part
    core_memory: Part
    tool_rules: Part
    metadata: Part
    summary: Part | None
    definitions_tokens: int
    messages_tokens: int
    template_tokens: int
    pinned_ids: tuple[str, ...]
    pinned_tokens: int
    source: Source

    @property
    def total(self) -> int:
        parts = (self.system, self.core_memory, self.tool_rules, self.metadata, self.summary)
        counts = sum(part.tokens for part in parts if part is not None)
        return counts + self.definitions_tokens + self.messages_tokens + self.template_tokens


class _Read(Struct, frozen=True):
    bundle: AgentBundle
    context: list[Message]
    said: int
    archived: int
    last_tokens: int | None


def _read(conversation_id: str) -> Tx[_Read]:
    state = yield from conversation_state(conversation_id)
    bundle = yield from conversation_bundle(state)
    context = yield from context_messages(state.id, state.head_ids, state.tail_from)
    said, filed = yield from counts(state.agent_id, state.id)
    last = yield Query("last_context_tokens", {"agent_id": state.agent_id, "conversation_id": state.id})
    return _Read(bundle, context, said, filed.passages, last[0][0] if last else None)


async def context_use(store: Store, registry: Registry, conversation_id: str) -> ContextUse:
    """NotFound for an unknown conversation. A model that cannot be reached is no reason not to answer."""
    read = await store.scan(lambda: _read(conversation_id))
    agent = read.bundle.agent
    try:
        model = (await registry.resolve(agent.model, settings=agent.model_settings)).model
    except AgentError:
        model = None
    return await _accounted(read, model)


async def _accounted(read: _Read, model: Model | None) -> ContextUse:
    context, agent = read.context, read.bundle.agent
    system = context[0] if context and context[0].role == "system" else None
    system_text, said = (system.text, context[1:]) if system is not None else ("", context)
    messages = history(said).messages
    specs = tool_specs(read.bundle.tools, (), strict=agent.model_settings.strict)
    memory, rules, metadata = (_found(part, system_text) for part in memory_sections(read.bundle, system_text))
    prompt = Prompt(
        model=agent.model,
        system=system_text,
        messages=messages,
        tools=specs,
        settings=agent.model_settings,
        system_message_id=system.id if system is not None else "",
        thinking_retention=agent.thinking_retention,
    )
    exact = await counted(model, prompt) if model is not None else None
    if exact is not None and isinstance(model, CountsTokens):
        parts = [Part(text, model.count_text(text)) for text in (memory, rules, metadata)]
        fixed, tools, template = exact.system, exact.tools, exact.template
        each, source = [exact.messages[message.id] for message in messages], "tokenizer"
    else:
        sizes = shared_sizes(fixed_length(system_text, specs), messages, read.last_tokens)
        rate = sizes.fixed / max(1, fixed_length(system_text, specs))
        parts = [Part(text, round(len(text) * rate)) for text in (memory, rules, metadata)]
        fixed, tools, each = _rounded(sizes, round(len(system_text) * rate))
        template, source = 0, "provider" if sizes.basis == "shared" else "estimate"
    return _use(read, specs, messages, each, parts, system_text, (fixed, tools, template), source)


def _rounded(sizes: Sizes, system: int) -> tuple[int, int, list[int]]:
    """(system, tools, each message) as whole tokens."""
    return system, max(0, round(sizes.fixed) - system), [round(size) for size in sizes.each]


def _use(
    read: _Read,
    specs: list[ToolSpec],
    messages: Sequence[Message],
    each: Sequence[int],
    parts: Sequence[Part],
    system_text: str,
    counts: tuple[int, int, int],
    source: Source,
) -> ContextUse:
    fixed, tools, template = counts
    memory, rules, metadata = parts
    own = system_text
    for part in parts:
        own = own.replace(part.text, "", 1) if part.text else own
    summary = messages[0] if messages and messages[0].role == "summary" else None
    compaction = read.bundle.agent.compaction_settings
    pinned = sorted(pinned_positions(messages, compaction.pinned_message_ids if compaction is not None else ()))
    return ContextUse(
        bundle=read.bundle,
        messages=read.context,
        tools=specs,
        window=read.bundle.agent.context_window,
        said=read.said,
        archived=read.archived,
        system=Part(own.strip(), max(0, fixed - sum(part.tokens for part in parts))),
        core_memory=memory,
        tool_rules=rules,
        metadata=metadata,
        summary=Part(summary.text, each[0]) if summary is not None else None,
        definitions_tokens=tools,
        messages_tokens=sum(each) - (each[0] if summary is not None else 0),
        template_tokens=template,
        pinned_ids=tuple(messages[at].id for at in pinned),
        pinned_tokens=sum(each[at] for at in pinned),
        source=source,
    )


def _found(part: str, system_text: str) -> str:
    """A section as the compiled text has it; "" where it is not in it (it has changed since)."""
    return part if part and part in system_text else ""
