"""Conversations on a real SGLang server through everything that happens to them, and a record that stands up to its forward pass.

Tools, parallel calls, answers cut short, cancelled runs, compactions, memory edits, and weights that change in mid-answer.
PERDURE_CONVERSATIONS says how many (make test-all: three, four minutes on two busy cores; fifty took eighteen).
"""

import asyncio
import os
import sys
from array import array
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle, Block, CompactionSettings, ModelSettings, Tool
from perdure.core.events import Event, TextDelta
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.runs import Run, RunConfig
from perdure.core.tokens import TokenCall, bytes_to_ids
from perdure.providers.engines import Places, find_renderer
from perdure.providers.http import Endpoint, Http
from perdure.providers.token_exact import TokenExactModel
from perdure.runs.runner import Runner
from perdure.runs.trajectories import rollouts
from perdure.store import agents, ledger, message_reads
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import find_tool
from perdure.tokens.export import dump_jsonl
from perdure.tokens.verify import verify_bytes
from tests.doubles.models import OneModel
from tests.engines.marked import MarkedSGLang, place

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(3600)]

CONVERSATIONS = int(os.environ.get("PERDURE_CONVERSATIONS", "3"))
AT_ONCE = 6  # more of these prompts would not fit the prefix cache of the server
WINDOW = 1_500
LONGEST = 100
VOCABULARY = 151_936
TOLERANCE = 1e-4
TURNS = (
    "Hello {n}. é🦜 <|im_end|> is text here.",
    "Remember one thing. [[one]]",
    "Remember two things. [[two]]",
    "Tell me all about it. [[long]]",
    "And {n}?",
    "cancel: Never mind. [[long]]",
    "Once more. [[one]]",
    "new weights: Tell me more. [[long]]",
    "A long story. " * 70,
    "Another long story. " * 70,
    "And now?",
    "Goodbye {n}.",
)


class World:
    """Agents on one real server. `interruptions`: the ways in which its weights were changed, in turn."""

    def __init__(self, store: SqliteStore, http: Http, url: str, renderer: Any, tools: tuple[Tool, ...]) -> None:
        self.store = store
        self.http = http
        self.root = Endpoint("sglang", url)
        self.tokenizer = renderer.tokenizer
        self.engine = MarkedSGLang(http, self.root, renderer.tokenizer, renderer.stop_token_ids[0])
        model = TokenExactModel(
            self.engine, renderer, provider_name="sglang", model_name="tiny-qwen3", handle="sglang/tiny-qwen3"
        )
        self.runner = Runner(store, OneModel(model), None)  # type: ignore[arg-type]
        self.tools = tools
        self.seen: Counter[str] = Counter()
        self._version = 0
        self._changing = asyncio.Lock()

    async def new_agent(self) -> Agent:
        now = now_us()
        agent = Agent(
            id=new_id("agent"),
            name="test",
            system="You are a test.",
            model="sglang/tiny-qwen3",
            context_window=WINDOW,
            compaction_settings=CompactionSettings(
                mode="self_compact_sliding_window", train_summaries=True, clip_chars=400
            ),
            model_settings=ModelSettings(temperature=1.0, max_output_tokens=LONGEST, enable_thinking=False),
            created_us=now,
            updated_us=now,
        )
        block = Block(id=new_id("block"), label="human", value="Ada", created_us=now, updated_us=now)
        bundle = AgentBundle(agent=agent, blocks=(block,), tools=self.tools)
        system = first_system_message(bundle)
        await self.store.write(lambda: agents.create_agent(bundle, new_blocks=[block.id], system_message=system))
        return agent

    async def say(self, agent: Agent, text: str) -> None:
        kind, _, words = text.rpartition(": ")
        self.engine.begun[agent.id] = asyncio.Event()
        run_id = await self._submit(agent, words if kind in ("cancel", "new weights") else text)
        acting = asyncio.create_task(self._act(agent, kind, run_id))
        events = [event async for _, batch in self.runner.follow(run_id) for event in batch]
        if self.engine.begun[agent.id].is_set():
            await acting
        else:
            acting.cancel()
        run = await self.runner.run(run_id)
        wanted = {"end_turn", "max_tokens_exceeded"} | ({"cancelled"} if kind == "cancel" else set())
        assert run.stop_reason in wanted, (text, run.stop_reason, run.error)
        self.seen[f"runs ended by {run.stop_reason}"] += 1
        self.seen["turns"] += 1
        await self._check_stream(agent, events, cut=run.stop_reason == "cancelled")

    async def _act(self, agent: Agent, kind: str, run_id: str) -> None:
        """What the turn is about, once its long answer has begun."""
        await self.engine.begun[agent.id].wait()
        if kind == "cancel":
            await self.runner.cancel(run_id)
        elif kind == "new weights":
            await self.change_weights()

    async def _submit(self, agent: Agent, text: str) -> str:
        now = now_us()
        run = Run(
            id=new_id("run"),
            agent_id=agent.id,
            conversation_id=agent.id,
            status="created",
            created_us=now,
            config=RunConfig(include_pings=False, stream_tokens=True),
        )
        message = Message(
            id=new_id("message"),
            role="user",
            created_us=now,
            content=(TextPart(text),),
            agent_id=agent.id,
            conversation_id=agent.id,
            run_id=run.id,
        )
        return (await self.runner.submit(run, (message,), (), wait=True)).run_id

    async def _check_stream(self, agent: Agent, events: list[Event], *, cut: bool) -> None:
        """What was shown piece by piece is the message that was kept, and the message what its ids say. `cut`: the stream was
        cancelled, perhaps when the answer was whole but not all of it was shown."""
        shown: dict[str, str] = {}
        for event in events:
            if isinstance(event, TextDelta):
                shown[event.message_id] = shown.get(event.message_id, "") + event.text
        kept = await self.store.scan(lambda: message_reads.list_messages(agent_id=agent.id, limit=None))
        calls = await self.store.scan(lambda: ledger.calls_of_conversation(agent.id))
        said = {call.assistant_message_id: call for call in calls}
        for message in kept:
            if message.id in shown and message.id in said:
                assert message.text.startswith(shown[message.id]) if cut else shown[message.id] == message.text
                self._check_ids(message, said[message.id])

    def _check_ids(self, message: Message, call: TokenCall) -> None:
        ids = bytes_to_ids(call.completion_ids).tolist()
        stopped = call.finish.type == "stop"
        words = self.tokenizer.decode(ids[:-1] if stopped else ids)
        if not message.tool_calls and "<" not in words:  # no markup of the model's own for the parser to take out
            assert message.text.strip() == words.strip()
            self.seen["streams equal to their ids"] += 1

    async def change_weights(self) -> None:
        """As a trainer does: pause, push, go on. The three ways of pausing in turn."""
        async with self._changing:
            mode = ("abort", "retract", "in_place")[self._version % 3]
            self._version += 1
            await self._post("/pause_generation", {"mode": mode})
            new = {"new_version": f"step-{self._version}", "abort_all_requests": False}
            await self._post("/update_weight_version", new)
            await self._post("/continue_generation", {})
            self.seen[f"weights changed by {mode}"] += 1

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        await self.http.call(self.root, path, msgspec.json.encode(body), retry=False, timeout_s=60)


@pytest.fixture
async def world(store: SqliteStore, http: Http, sglang_url: str) -> AsyncIterator[World]:
    await ensure_builtin_tools(store)
    tool = await store.read(lambda: find_tool("memory_insert"))
    assert tool is not None
    info = msgspec.json.decode(await http.call(Endpoint("sglang", sglang_url), "/model_info", method="GET"))
    renderer = await find_renderer("tiny-qwen3", None, info["tokenizer_path"], Places())
    made = World(store, http, sglang_url, renderer, (tool,))
    await made.runner.start()
    yield made
    await made.runner.stop()
    await made.engine.close()


async def test_conversations_through_everything_stand_up_to_the_engines_forward_pass(world: World) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def converse(number: int) -> Agent:
        async with room:
            agent = await world.new_agent()
            for text in TURNS:
                await world.say(agent, text.format(n=number))
            return agent

    made = await asyncio.gather(*(converse(number) for number in range(CONVERSATIONS)))
    worst = [await check_record(world, agent) for agent in made]
    seen = world.seen
    sys.stdout.write("\n" + "".join(f"{name}: {count}\n" for name, count in sorted(seen.items())))
    sys.stdout.write(f"largest difference of {seen['ids recomputed']} logprobs: {max(worst):.2e}\n")
    assert max(worst) <= TOLERANCE
    assert seen["turns"] == CONVERSATIONS * len(TURNS) and seen["runs ended by cancelled"] >= CONVERSATIONS * 0.8
    for wanted in ("compaction", "memory_rewrite"):
        assert seen[f"segments by {wanted}"] >= CONVERSATIONS
    assert seen["answers cut short"] >= CONVERSATIONS and seen["answers with two calls"] >= CONVERSATIONS
    assert seen["weights changed by abort"] and seen["calls in several attempts"]
    assert seen["calls with several versions"] >= seen["calls in several attempts"] * 0.5


async def check_record(world: World, agent: Agent) -> float:
    """Everything verifies, and what the model chose itself has the logprobs of one forward pass a segment."""
    exported = [rollout async for rollout in rollouts(world.store, agent_id=agent.id)]
    report = verify_bytes(dump_jsonl(exported), tokenizer=world.tokenizer)
    assert report.ok and report.drift == 0, report.violations
    [record] = exported
    seen, worst = world.seen, 0.0
    for segment in record["segments"]:
        seen[f"segments by {segment['cause']}"] += 1
        ids = array("i", segment["token_ids"])
        own = [at for at, mask in enumerate(segment["loss_mask"]) if mask]
        if not own:
            continue
        scored = await world.engine.score("tiny-qwen3", ids, own[0], VOCABULARY)
        for at in own:
            if place(ids[: at + 1]) not in world.engine.forced:
                worst = max(worst, abs(scored[at - own[0]] - segment["logprobs"][at]))
                seen["ids recomputed"] += 1
    for call in record["calls"]:
        seen["calls"] += 1
        seen["answers cut short"] += call["finish"]["type"] == "length"
        seen["answers with two calls"] += len(call["parse"].get("tool_calls") or ()) == 2
        seen["calls in several attempts"] += len(call["attempts"]) > 1
        seen["calls with several versions"] += len(call["weight_versions"]) > 1
        seen["retractions"] += call["retractions"] or 0
    return worst
