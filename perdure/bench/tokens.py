"""What the token record costs: its share of a step's CPU, and the bridge over a long conversation.

The share is measured on real runs against the scripted engine, in this process: the same conversation with the record, and
without it, where a call goes into the stream that the next prompt extends but is not written. The two take turns, step by step,
so that whatever else the machine does meets both.
"""

import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.create import create_agent
from perdure.agents.spec import AgentSpec, BlockSpec
from perdure.bench.bridges import TOKENS, bridge_ms
from perdure.bench.engine import run
from perdure.bench.process import scripted_engine
from perdure.bench.tokenizer import byte_tokenizer_folder
from perdure.core.errors import AgentError
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.model import Chunk, ModelDone, Prompt
from perdure.core.runs import Run, RunConfig
from perdure.providers.base import Model, TokenStream
from perdure.providers.configs import providers_from_env
from perdure.providers.registry import Registry, Resolved
from perdure.providers.token_plan import extend
from perdure.runs.runner import Runner
from perdure.store.migrate import migrate_sqlite
from perdure.store.sqlite import SqliteStore
from perdure.tokens.discovery import load
from perdure.tokens.families import renderer_for
from perdure.tools.sandbox import Sandbox

HANDLE = "sglang/scripted"
MOST_SHARE = 0.03
MOST_BRIDGE_MS = 5.0
ANSWER_TOKENS = 200
STEPS = 600
WARM_UP = 20
CONVERSATION = 10


class Costs(Struct, kw_only=True):
    """CPU of a step in ms, with and without the record; `share`: of the step with it. `bridges_ms`: of each renderer."""

    step_ms: float
    step_without_ms: float
    share: float
    steps: int
    bridges_ms: dict[str, float]

    @property
    def kept(self) -> bool:
        return self.share <= MOST_SHARE and max(self.bridges_ms.values()) <= MOST_BRIDGE_MS


def measure(*, steps: int = STEPS, tokenizer: Path | None = None) -> Costs:
    """`tokenizer`: where a real one is, to measure the bridge with its renderer too."""
    with tempfile.TemporaryDirectory(prefix="perdure-tokens-") as made:
        folder = Path(made)
        place = byte_tokenizer_folder(folder / "tokenizers")
        with scripted_engine("--tokenizer", str(place)) as engine:
            registry = Registry(
                providers_from_env({"SGLANG_BASE_URL": engine.url}), tokenizers_dir=folder / "tokenizers", env={}
            )
            with_ms, without_ms = run(_shares(registry, folder / "bench.db", steps))
        bridges = _bridges([place, *([tokenizer] if tokenizer is not None else [])])
    share = (with_ms - without_ms) / with_ms
    return Costs(step_ms=with_ms, step_without_ms=without_ms, share=share, steps=steps, bridges_ms=bridges)


def _bridges(places: Sequence[Path]) -> dict[str, float]:
    costs: dict[str, float] = {}
    for place in places:
        found = load(place, place.name)
        if found is None:
            raise AgentError(f"There is no tokenizer at {place}.")
        renderer = renderer_for(
            place.name,
            found.tokenizer,
            found.chat_template,
            special=found.special,
            stop_token_ids=found.stop_token_ids,
        )
        costs[f"{renderer.info.name} on {place.name}"] = bridge_ms(renderer, tokens=TOKENS)
    return costs


async def _shares(registry: Registry, path: Path, steps: int) -> tuple[float, float]:
    """Milliseconds of CPU that a step took, with and without the record."""
    migrate_sqlite(path)
    store = SqliteStore(path)
    await ensure_builtin_tools(store)
    measured = _Measured(store, registry)
    await measured.runner.start()
    took: dict[bool, list[float]] = {True: [], False: []}
    try:
        for at in range(-WARM_UP, steps):
            for recorded in (True, False) if at % 2 else (False, True):
                cost = await measured.step(recorded, at)
                if at >= 0:
                    took[recorded].append(cost)
    finally:
        await measured.runner.stop()
        await store.close()
        await registry.close()
    return _undisturbed(took[True]), _undisturbed(took[False])


def _undisturbed(costs: list[float]) -> float:
    """Other work on the machine only ever adds to a cost: the mean of the lower half."""
    kept = sorted(costs)[: max(1, len(costs) // 2)]
    return sum(kept) / len(kept)


class _Measured:
    """Two conversations, one on record and one not; both begin anew, with a new agent, before they get long."""

    def __init__(self, store: SqliteStore, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._models = _Models(registry)
        self.runner = Runner(store, self._models, Sandbox())  # type: ignore[arg-type]
        self._agents: dict[bool, str] = {}

    async def step(self, recorded: bool, at: int) -> float:
        """CPU milliseconds of all threads."""
        self._models.recorded = recorded
        if at % CONVERSATION == 0 or recorded not in self._agents:
            self._agents[recorded] = await self._agent()
            await self._say(self._agents[recorded])
        started = time.process_time_ns()
        await self._say(self._agents[recorded])
        return (time.process_time_ns() - started) / 1e6

    async def _agent(self) -> str:
        spec = AgentSpec(
            name="bench",
            model=HANDLE,
            system="Be brief.",
            include_base_tools=False,
            memory_blocks=(BlockSpec(label="human", value="Ann"),),
        )
        return (await create_agent(self._store, self._registry, spec)).bundle.agent.id

    async def _say(self, agent_id: str) -> None:
        now = now_us()
        run_made = Run(
            id=new_id("run"),
            agent_id=agent_id,
            conversation_id=agent_id,
            status="created",
            created_us=now,
            config=RunConfig(include_pings=False),
        )
        message = Message(
            id=new_id("message"),
            role="user",
            created_us=now,
            content=(TextPart(f"What do you say to that? [[bench tokens={ANSWER_TOKENS}]]"),),
            agent_id=agent_id,
            conversation_id=agent_id,
            run_id=run_made.id,
        )
        await self.runner.submit(run_made, (message,), (), wait=True)
        await self.runner.outcome(run_made.id)
        ended = await self.runner.run(run_made.id)
        if ended.status != "completed":
            raise AgentError(f"A step of the measurement failed: {ended.error}")


class _Models:
    """A registry whose models keep a record where `recorded`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.recorded = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    async def resolve(self, handle: str, **more: Any) -> Resolved:
        found = await self._registry.resolve(handle, **more)
        return found if self.recorded else msgspec.structs.replace(found, model=_WithoutRecord(found.model))


class _WithoutRecord:
    """Takes each call into the stream, as its commit would, and hands on none of it."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def stream(
        self, prompt: Prompt, tokens: TokenStream | None = None
    ) -> AsyncGenerator[Sequence[Chunk | ModelDone], None]:
        async for batch in self._model.stream(prompt, tokens):
            last = batch[-1]
            if isinstance(last, ModelDone) and last.capture is not None:
                if tokens is not None:
                    extend(tokens, last.capture)
                batch = [*batch[:-1], msgspec.structs.replace(last, capture=None)]
            yield batch
