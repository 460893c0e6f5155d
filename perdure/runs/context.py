"""What a run starts from: the agent, its compiled prompt, the context and the token stream, loaded once and then kept.

Kept values are checked, never trusted: the agent against its revision, the context against its version and the fence of the
conversation's last lease, which only this process may have held since.
"""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from perdure.core.agents import AgentBundle
from perdure.core.approvals import is_answer
from perdure.core.conversations import ConversationSettings, bundle_in
from perdure.core.history import history
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.runs import Run
from perdure.core.traces import TraceBase
from perdure.core.weighed import Weighed, weight_of
from perdure.memory.compile import compile_system_text, same_but_for_time
from perdure.memory.notes import blocks_note
from perdure.providers.base import TokenStream
from perdure.providers.token_exact import restore
from perdure.store import agents, conversations, ledger, messages
from perdure.store.base import Store, TxFactory
from perdure.store.commits import StepCommit
from perdure.store.conversation_reads import counts
from perdure.store.conversations import ConversationState
from perdure.store.private_blocks import private_blocks
from perdure.store.submissions import Accepted

CACHE_BYTES = 128 << 20
AGENTS = 0.25  # their share of it
AGENT_BYTES, TOOL_BYTES = 4000, 3000  # of one without blocks and tools; of a tool beside its source

Versions = tuple[tuple[str, int], ...]


@dataclass(slots=True, kw_only=True)
class Context:
    """One conversation as of the end of the last run on it here. `messages` exclude the system message.

    `bundle`: the agent as it is in this conversation. `private`: which of its own blocks the prompt was compiled with.
    `answer`: what was said to the approval request that `messages` end with, until that is carried out.
    `weighed`: (how many messages, the last of them, their weight) when it was weighed last. `storing`: what was changed of the
    prompt is being stored; the run's next commit comes after it. `trace_base`: what the next request is kept against.
    """

    conversation_id: str
    version: int
    fence: int
    system: Message | None
    messages: list[Message]
    tokens: TokenStream | None
    bundle: AgentBundle
    own: ConversationSettings
    seen_blocks: dict[str, str] | None = None
    private: Versions | None = None
    answer: Message | None = None
    weighed: tuple[int, Message | None, int] = (0, None, 0)
    storing: list[Awaitable[object]] = field(default_factory=list)
    trace_base: TraceBase | None = None

    def weigh(self) -> int:
        """About how many bytes it takes. Messages are weighed once, unless others took their places meanwhile."""
        messages, (count, last, weight) = self.messages, self.weighed
        if count > len(messages) or (count and messages[count - 1] is not last):
            count = weight = 0
        weight += weight_of(messages[count:])
        self.weighed = (len(messages), messages[-1] if messages else None, weight)
        if self.trace_base is not None:
            weight += sum(map(len, self.trace_base.parts))
        tokens = self.tokens
        return weight if tokens is None else weight + tokens.ids.itemsize * len(tokens.ids)


class Contexts:
    """`cache_bytes`: about how much memory may be taken by conversations and agents that are not needed at the moment."""

    def __init__(self, store: Store, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._kept: Weighed[str, Context] = Weighed(round((1 - AGENTS) * cache_bytes))
        self._bundles: Weighed[str, AgentBundle] = Weighed(round(AGENTS * cache_bytes))

    def forget(self, conversation_id: str) -> None:
        self._kept.pop(conversation_id)

    def rest(self, conversation_id: str) -> None:
        """A run on it has ended, and it has grown."""
        if (context := self._kept.get(conversation_id)) is not None:
            self._kept.put(conversation_id, context, context.weigh())

    def learn(self, run: Run, commit: StepCommit) -> None:
        """What a step changed of its agent's blocks need not be read again, unless others change the agent meanwhile: then its
        revision will be another."""
        bundle = self._bundles.get(run.agent_id)
        if bundle is None or not commit.blocks or any(write.kind != "update" for write in commit.blocks):
            return
        blocks = {block.id: block for block in bundle.blocks}
        edits = [write for write in commit.blocks if write.block.id in blocks]  # the others are the conversation's own
        for write in edits:
            blocks[write.block.id] = msgspec.structs.replace(
                write.block, version=write.base_version + 1, updated_us=commit.now
            )
        agent = bundle.agent
        agent = msgspec.structs.replace(agent, revision=agent.revision + len(edits), updated_us=commit.now)
        known = msgspec.structs.replace(bundle, agent=agent, blocks=tuple(blocks.values()))
        self._bundles.put(run.agent_id, known, _weight_of_agent(known))

    async def load(
        self,
        accepted: Accepted,
        inputs: tuple[Message, ...] | None,
        durable: Awaitable[Any] | None = None,
        *,
        as_it_was: bool = False,
    ) -> Context:
        """The context for a run that holds its lease. `inputs`: the messages its submission stored (None: read all again).

        `durable` completes once everything up to the submission can be read; what is kept here needs no reading. `as_it_was`:
        the prompt is not brought up to date, as the run goes on in the middle of a step that was begun with it.
        """
        state, lease = accepted.state, accepted.lease
        assert state is not None and lease is not None
        bundle, private = await self._bundle(state), None
        if state.id != state.agent_id:
            bundle, private = await self._in_conversation(bundle, state.id, state.settings)
        context = self._kept.get(state.id)
        if (
            context is not None
            and inputs is not None
            and context.version == state.context_version
            and context.fence == lease.fence - 1
        ):
            if is_answer(inputs):
                context.answer = inputs[0]
            else:
                context.messages.extend(inputs)
        else:
            if durable is not None:
                await durable
            context = await self._read(state, bundle, inputs or ())
            self._kept.put(state.id, context, context.weigh())
        context.fence = lease.fence
        context.bundle, context.own = bundle, state.settings
        if state.break_cause is not None and context.tokens is not None:
            cause, _, detail = state.break_cause.partition(": ")
            context.tokens.break_cause = (cause, detail)
        if as_it_was:
            return context
        stale = state.compiled_revision != bundle.agent.revision or context.private != private
        appending = bundle.agent.memory_rendering == "append"
        if appending and context.seen_blocks is not None:
            if context.answer is not None:
                return context  # a note has no place between calls and their returns; the next request brings it
            if stale:
                await self._note_changes(context, state)
        elif stale:
            await self._recompile(context, state)
        context.private = private
        if appending and context.seen_blocks is None:
            self.remember_blocks(context)
        return context

    def remember_blocks(self, context: Context) -> None:
        """What the conversation has been shown of its blocks is what they hold now."""
        bundle = context.bundle
        context.seen_blocks = seen = {block.label: block.value for block in bundle.blocks}
        self._store_prompt(
            context, lambda: conversations.noted_blocks(context.conversation_id, bundle.agent.revision, dict(seen))
        )

    def _store_prompt(self, context: Context, tx: TxFactory[None]) -> None:
        context.storing.append(self._store.begin_write(tx, lazy=True).executed)

    async def _bundle(self, state: ConversationState) -> AgentBundle:
        bundle = self._bundles.get(state.agent_id)
        if bundle is not None and bundle.agent.revision == state.agent_revision:
            return bundle
        bundle = await self._store.read(lambda: agents.agent_bundle(state.agent_id), executed=True)
        self._bundles.put(state.agent_id, bundle, _weight_of_agent(bundle))
        return bundle

    async def _in_conversation(
        self, bundle: AgentBundle, conversation_id: str, own: ConversationSettings
    ) -> tuple[AgentBundle, Versions | None]:
        """With the conversation's own model, settings and blocks, and the versions of these blocks where it isolates any."""
        if not own.isolated:
            return bundle_in(bundle, own), None
        private = await self._store.read(lambda: private_blocks(conversation_id))
        return bundle_in(bundle, own, private), tuple((block.id, block.version) for block in private)

    async def compiled_anew(self, context: Context) -> tuple[Message, AgentBundle, Versions | None]:
        """The system message as it would be compiled at this moment, and what it was compiled of; nothing is changed."""
        agent_id, conversation_id = context.bundle.agent.id, context.conversation_id
        bundle = await self._store.read(lambda: agents.agent_bundle(agent_id))
        private = None
        if conversation_id != agent_id:
            bundle, private = await self._in_conversation(bundle, conversation_id, context.own)
        text = await self.compile(bundle, None if conversation_id == agent_id else conversation_id)
        return system_message(text, agent_id, conversation_id, replacing=context.system), bundle, private

    async def _read(self, state: ConversationState, bundle: AgentBundle, inputs: tuple[Message, ...]) -> Context:
        found = await self._store.scan(lambda: messages.context_messages(state.id, state.head_ids, state.tail_from))
        system = found[0] if found and found[0].role == "system" and found[0].id in state.head_ids else None
        said = found[1:] if system is not None else found
        known = {message.id for message in said}
        thread = history([*said, *(message for message in inputs if message.id not in known)])
        tokens = TokenStream()
        if state.segment_id is not None:
            segment_id = state.segment_id
            stored = await self._store.scan(lambda: ledger.segment_with_calls(segment_id))
            if stored is not None:
                tokens = restore(*stored)
        tokens.last_index = await self._store.read(lambda: ledger.last_segment_index(state.id))
        return Context(
            conversation_id=state.id,
            version=state.context_version,
            fence=state.fence,
            system=system,
            messages=thread.messages,
            tokens=tokens,
            bundle=bundle,
            own=state.settings,
            seen_blocks=state.seen_blocks,
            answer=thread.answer,
        )

    async def _recompile(self, context: Context, state: ConversationState) -> None:
        """The agent changed since its prompt was compiled: compile it again; a new text begins a new segment."""
        bundle, system = context.bundle, context.system
        agent = bundle.agent
        text = await self.compile(bundle, None if state.id == agent.id else state.id)
        if system is not None and same_but_for_time(system.text, text):
            self._store_prompt(context, lambda: conversations.recompiled(state.id, None, agent.revision, ""))
            return
        context.system = changed = system_message(text, agent.id, state.id, replacing=system)
        detail = "the compiled system prompt changed"
        if context.tokens is not None and context.tokens.segment is not None and context.tokens.break_cause is None:
            context.tokens.break_cause = ("memory_rewrite", detail)
        context.version += 1
        self._store_prompt(
            context, lambda: conversations.recompiled(state.id, changed, agent.revision, f"memory_rewrite: {detail}")
        )

    async def _note_changes(self, context: Context, state: ConversationState) -> None:
        """Append rendering: tell the model what changed in its blocks since it last saw them, in one note."""
        seen = context.seen_blocks or {}
        note = blocks_note(seen, {block.label: block.value for block in context.bundle.blocks})
        self.remember_blocks(context)
        if note is None:
            return
        message = Message(
            id=new_id("message"),
            role="system",
            created_us=now_us(),
            content=(TextPart(note),),
            agent_id=context.bundle.agent.id,
            conversation_id=state.id,
            hidden=True,
        )
        context.messages.append(message)
        await self._store.begin_write(lambda: messages.insert_messages((message,)), lazy=True).executed

    async def compile(self, bundle: AgentBundle, conversation_id: str | None) -> str:
        agent_id = bundle.agent.id
        # with the messages of the run itself: the count is to be the same whenever it is taken
        said, filed = await self._store.read(lambda: counts(agent_id, conversation_id or agent_id), executed=True)
        return compile_system_text(
            bundle,
            conversation_id=conversation_id,
            now_us=now_us(),
            previous_message_count=said,
            archival_count=filed.passages,
            archive_tags=filed.tags,
        )


def system_message(text: str, agent_id: str, conversation_id: str, *, replacing: Message | None = None) -> Message:
    """The compiled system message; it keeps its id and time when it replaces an earlier one."""
    if replacing is not None:
        return msgspec.structs.replace(replacing, content=(TextPart(text),))
    return Message(
        id=new_id("message"),
        role="system",
        created_us=now_us(),
        content=(TextPart(text),),
        agent_id=agent_id,
        conversation_id=conversation_id,
    )


def _weight_of_agent(bundle: AgentBundle) -> int:
    values = sum(len(block.value) for block in bundle.blocks) + len(bundle.agent.system or "")
    return AGENT_BYTES + values + sum(TOOL_BYTES + len(tool.source_code or "") for tool in bundle.tools)
