"""An agent on a real store, with a played text model or a scripted engine of token ids, and a small context window."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle, Block, CompactionSettings, Tool
from perdure.core.errors import ProviderError
from perdure.core.events import Event
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.model import Chunk, ModelDone, Prompt
from perdure.core.runs import Run, RunConfig, Step, Usage
from perdure.loop.cuts import message_length
from perdure.providers.base import TokenStream
from perdure.providers.scripted import ScriptedEngine
from perdure.providers.token_exact import TokenExactModel
from perdure.runs.runner import Runner
from perdure.runs.trajectories import rollouts
from perdure.store import agents, ledger, message_reads, steps
from perdure.store.conversations import conversation_state
from perdure.store.messages import context_messages
from perdure.store.sqlite import SqliteStore
from perdure.tokens.export import dump_jsonl
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.verify import verify_bytes
from perdure.tokens.verify_report import Report
from tests.doubles.models import OneModel, PlayedModel
from tests.doubles.tokenizers import small_tokenizer

STOP = small_tokenizer().special_id("<|im_end|>")


def engine_model(engine: ScriptedEngine, window: int | None = None) -> TokenExactModel:
    return TokenExactModel(
        engine,
        Qwen3Renderer(small_tokenizer()),
        provider_name="test",
        model_name="small",
        handle="test/small",
        context_window=window,
    )


def scripted_engine(**options: Any) -> ScriptedEngine:
    assert STOP is not None
    return ScriptedEngine(small_tokenizer(), stop_token_id=STOP, **options)


class CountedModel(PlayedModel):
    """Counts a token for every `chars` characters, and refuses what does not fit `window`, as a real provider does."""

    def __init__(self) -> None:
        super().__init__()
        self.chars: int | None = None
        self.window = 0

    async def stream(
        self, prompt: Prompt, tokens: TokenStream | None = None
    ) -> AsyncIterator[Sequence[Chunk | ModelDone]]:
        if self.chars is not None:
            count = (len(prompt.system) + sum(map(message_length, prompt.messages))) // self.chars
            if count >= self.window:
                raise ProviderError("This model's maximum context length is exceeded.", kind="context_window_exceeded")
            self.usage = Usage(count, 5, count + 5)
        async for batch in super().stream(prompt, tokens):
            yield batch


class World:
    """`model` answers, unless `engine` is given: then its token ids do."""

    def __init__(self, store: SqliteStore, agent: Agent, engine: ScriptedEngine | None) -> None:
        self.store = store
        self.agent = agent
        self.model = CountedModel()
        self.engine = engine
        self.registry = OneModel(self.model if engine is None else engine_model(engine))  # type: ignore[arg-type]
        self.runner = self.new_runner()

    def new_runner(self) -> Runner:
        return Runner(self.store, self.registry, None)  # type: ignore[arg-type]

    def said_tokens(self, tokens: int) -> None:
        """What the played model's provider counts from now on."""
        self.model.usage = Usage(tokens - 5, 5, tokens)

    async def submit(self, text: str | None, **config: Any) -> str:
        now = now_us()
        run = Run(
            id=new_id("run"),
            agent_id=self.agent.id,
            conversation_id=self.agent.id,
            status="created",
            created_us=now,
            config=RunConfig(**{"include_pings": False, **config}),
        )
        message = Message(
            id=new_id("message"),
            role="user",
            created_us=now,
            content=(TextPart(text or ""),),
            agent_id=self.agent.id,
            conversation_id=self.agent.id,
            run_id=run.id,
        )
        inputs = (message,) if text is not None else ()
        return (await self.runner.submit(run, inputs, (), wait=True)).run_id

    async def events(self, run_id: str) -> list[Event]:
        return [event async for _, batch in self.runner.follow(run_id) for event in batch]

    async def send(self, text: str, **config: Any) -> list[Event]:
        return await self.events(await self.submit(text, **config))

    async def compact(self, settings: CompactionSettings | None = None) -> list[Event]:
        return await self.events(await self.submit(None, compact_only=True, compaction=settings))

    async def context(self) -> list[Message]:
        """As the next run would find it, the system message first."""

        def tx() -> Any:
            state = yield from conversation_state(self.agent.id)
            return (yield from context_messages(state.id, state.head_ids, state.tail_from))

        return await self.store.scan(tx)

    async def shape(self) -> list[str]:
        """The context as "role: text"."""
        return [f"{m.role}: {m.text or [c.name for c in m.tool_calls]}" for m in await self.context()]

    async def history(self) -> list[Message]:
        return await self.store.scan(lambda: message_reads.list_messages(agent_id=self.agent.id, limit=None))

    async def steps(self, run_id: str) -> list[Step]:
        return await self.store.read(lambda: steps.steps_of_run(run_id))

    async def causes(self) -> list[tuple[str, bool]]:
        """Each segment's cause, and whether it is a summary's own."""
        found = await self.store.read(lambda: ledger.segments_of_conversation(self.agent.id))
        return [(each.cause, "call_type" in each.settings) for each in found]

    async def verified(self) -> Report:
        made = [rollout async for rollout in rollouts(self.store, agent_id=self.agent.id)]
        return verify_bytes(dump_jsonl(made), tokenizer=small_tokenizer())

    def prompt_texts(self) -> list[str]:
        """What the engine was asked, decoded."""
        assert self.engine is not None
        return [small_tokenizer().decode(list(request.ids)) for request in self.engine.requests]


async def new_world(
    store: SqliteStore,
    *,
    engine: ScriptedEngine | None = None,
    window: int = 2_000,
    system: str = "You are a test.",
    tools: tuple[Tool, ...] = (),
    blocks: tuple[Block, ...] = (),
    change: Callable[[Agent], Agent] = lambda agent: agent,
    **settings: Any,
) -> World:
    now = now_us()
    agent = Agent(
        id=new_id("agent"),
        name="test",
        system=system,
        model="test/small",
        context_window=window,
        compaction_settings=CompactionSettings(**settings),
        created_us=now,
        updated_us=now,
    )
    bundle = AgentBundle(agent=change(agent), tools=tools, blocks=blocks)
    first = first_system_message(bundle)
    await store.write(
        lambda: agents.create_agent(bundle, new_blocks=[block.id for block in blocks], system_message=first)
    )
    world = World(store, bundle.agent, engine)
    await world.runner.start()
    return world
