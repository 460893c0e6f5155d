"""Real runs on a token engine leave rollouts that verify: steps, tool calls, memory edits, truncated answers, cuts."""

import asyncio
from array import array
from collections.abc import AsyncIterator

import msgspec
import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.conversations import ConversationSpec, create_conversation
from perdure.agents.edit_tools import attach_tool, set_approval
from perdure.agents.fork import fork_conversation
from perdure.agents.recompile import first_system_message
from perdure.core.agents import Agent, AgentBundle, Block
from perdure.core.errors import Invalid, NotFound
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Approval, Message, TextPart
from perdure.core.runs import Run, RunConfig
from perdure.providers.scripted import Completion, ScriptedEngine
from perdure.providers.token_exact import TokenExactModel, restore
from perdure.providers.token_plan import common_prefix
from perdure.runs.runner import Runner
from perdure.runs.trajectories import rollouts, rollouts_of_either, status_of
from perdure.runs.turns import stored_turns
from perdure.store import agents, ledger
from perdure.store.conversations import conversation_state
from perdure.store.message_reads import list_messages
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import find_tool
from perdure.tokens.export import dump_jsonl
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.verify import verify_bytes
from perdure.tokens.verify_report import Report
from tests.doubles.models import OneModel
from tests.doubles.tokenizers import small_tokenizer

ARGUMENTS = '{"label": "human", "new_string": "likes \\"tea\\"\\n☕"}'
INSERT = f'<tool_call>\n{{"name": "memory_insert", "arguments": {ARGUMENTS}}}\n</tool_call>'


class World:
    """One agent on a scripted engine."""

    def __init__(self, store: SqliteStore, agent: Agent) -> None:
        self.store = store
        self.agent = agent
        tokenizer = small_tokenizer()
        stop = tokenizer.special_id("<|im_end|>")
        assert stop is not None
        self.engine = ScriptedEngine(tokenizer, stop_token_id=stop)
        self.tokenizer = tokenizer
        model = TokenExactModel(
            self.engine, Qwen3Renderer(tokenizer), provider_name="sglang", model_name="m", handle="sglang/m"
        )
        self.registry = OneModel(model)
        self.runner = Runner(store, self.registry, None)  # type: ignore[arg-type]

    async def send(self, text: str, conversation_id: str | None = None) -> str:
        said = Message(id=new_id("message"), role="user", created_us=0, content=(TextPart(text),))
        return await self.submit(said, conversation_id)

    async def submit(self, message: Message, conversation_id: str | None = None) -> str:
        now, agent_id = now_us(), self.agent.id
        conversation_id = conversation_id or agent_id
        run = Run(
            id=new_id("run"), agent_id=agent_id, conversation_id=conversation_id, status="created", created_us=now,
            config=RunConfig(include_pings=False),
        )  # fmt: skip
        message = msgspec.structs.replace(
            message, created_us=now, agent_id=agent_id, conversation_id=conversation_id, run_id=run.id
        )
        submitted = await self.runner.submit(run, (message,), (), wait=True)
        async for _ in self.runner.follow(submitted.run_id):
            pass
        return submitted.run_id

    async def export(self, **wanted: str) -> bytes:
        return dump_jsonl([rollout async for rollout in rollouts(self.store, **wanted)])

    def verified(self, data: bytes) -> Report:
        """By a forward pass over the ids alone, as an engine does it."""
        size = self.tokenizer.info.vocab_size
        lm_logprob = _model(size)

        def score(handle: str, ids: list[int], start: int) -> list[float]:
            context = array("i", ids)
            return [lm_logprob(context[:at], context[at]) for at in range(start, len(context))]

        return verify_bytes(data, tokenizer=self.tokenizer, score=score, tolerance=1e-5)


def _model(size: int):
    from perdure.providers.scripted import HashModel

    return HashModel(size).logprob


@pytest.fixture
async def world(store: SqliteStore) -> AsyncIterator[World]:
    await ensure_builtin_tools(store)
    tool = await store.read(lambda: find_tool("memory_insert"))
    assert tool is not None
    now = now_us()
    agent = Agent(id=new_id("agent"), name="test", system="You are a test.", model="sglang/m", created_us=now)
    block = Block(id=new_id("block"), label="human", value="Ada", created_us=now, updated_us=now)
    bundle = AgentBundle(agent=agent, blocks=(block,), tools=(tool,))
    system = first_system_message(bundle)
    await store.write(lambda: agents.create_agent(bundle, new_blocks=[block.id], system_message=system))
    made = World(store, agent)
    await made.runner.start()
    yield made
    await made.runner.stop()


async def test_a_conversation_with_tools_and_memory_edits_verifies_whole(world: World) -> None:
    world.engine.completions.extend(
        [
            Completion(text=f"<think>\nhm\n</think>\n\n{INSERT}", versions=(("7", 9), ("8", 200))),
            Completion(text="Noted \"tea\" <b>&amp;</b> 'ünïcode' ☕\n"),
            Completion(text="Cut", finish="length"),
            Completion(text="<think>\nagain\n</think>\n\nBye."),
        ]
    )
    runs = [await world.send(text) for text in ("I like tea ☕", "  And?\n<|im_end|>", "bye")]
    data = await world.export(agent_id=world.agent.id)
    report = world.verified(data)
    assert report.violations == []
    assert (report.rollouts, report.calls, report.drift) == (1, 4, 0)
    # the edited block is compiled into the next request's prompt: a declared new segment
    assert report.segments == 2
    assert report.trainable_tokens == report.sampled_tokens > 100
    assert report.logprobs is not None and report.logprobs.tokens == report.sampled_tokens
    assert {"X1", "X3", "X4", "S1", "P4", "L5"} <= set(report.checked)
    assert await world.export(agent_id=world.agent.id) == data
    for run_id in runs:
        alone = world.verified(await world.export(run_id=run_id))
        assert alone.violations == []


async def test_a_forks_first_segment_names_the_fork_and_what_it_shares(world: World) -> None:
    await world.send("I like tea")
    await world.send("And rain")
    store, source = world.store, world.agent.id
    first, _, answer, *_ = (await store.read(lambda: agents.agent_view(source))).message_ids
    forked = (await store.write(lambda: fork_conversation(source, message_id=answer))).conversation.id
    await world.send("What do I like?", source)
    await world.send("Begin", forked)
    await world.send("Go on", forked)
    (parent,) = await store.read(lambda: ledger.segments_of_conversation(source))
    (segment,) = await store.read(lambda: ledger.segments_of_conversation(forked))
    assert (segment.index, segment.cause, segment.cause_detail) == (0, "fork", f"from {source} at {answer}")
    assert segment.parent_segment_id == parent.id
    streams = [await store.read(lambda held=held: ledger.segment_with_calls(held.id)) for held in (parent, segment)]
    one, other = (restore(*stored).ids for stored in streams if stored is not None)
    assert segment.parent_offset == common_prefix(one, other) > 0
    report = world.verified(await world.export(conversation_id=forked))
    assert report.violations == [] and (report.calls, report.segments) == (2, 1)
    both = world.verified(await world.export(agent_id=source))
    assert both.violations == [] and (both.rollouts, both.calls) == (2, 5)
    (rollout,) = [rollout async for rollout in rollouts(store, conversation_id=forked)]
    said = {message["id"]: message.get("text") for message in rollout["messages"]}
    assert "I like tea" in said.values() and first not in said


async def test_a_new_conversation_starts_afresh(world: World) -> None:
    await world.send("I like tea")
    spec = ConversationSpec(agent_id=world.agent.id)
    made = await create_conversation(world.store, OneModel(None), spec)  # type: ignore[arg-type]
    await world.send("Hello", made.conversation.id)
    (segment,) = await world.store.read(lambda: ledger.segments_of_conversation(made.conversation.id))
    assert (segment.cause, segment.parent_segment_id, segment.parent_offset) == ("root", None, 0)


async def test_a_run_is_told_by_its_id(world: World) -> None:
    run_id = await world.send("hello")
    await world.send("more")
    for wanted, calls in ((run_id, 1), (world.agent.id, 2)):
        made = [rollout async for rollout in rollouts_of_either(world.store, wanted)]
        assert [len(rollout["calls"]) for rollout in made] == [calls]
        assert made[0]["status"] == "completed"


async def test_what_is_unknown_or_unclear_is_an_error(world: World) -> None:
    with pytest.raises(NotFound):
        await world.export(agent_id="agent-00000000-0000-4000-8000-000000000000")
    with pytest.raises(NotFound):
        await world.export(run_id="run-00000000-0000-4000-8000-000000000000")
    with pytest.raises(Invalid, match="exactly one"):
        await world.export()
    with pytest.raises(Invalid, match="begins with"):
        [rollout async for rollout in rollouts_of_either(world.store, "something")]


async def test_a_conversation_without_tokens_gives_nothing(world: World) -> None:
    assert await world.export(agent_id=world.agent.id) == b""


@pytest.mark.parametrize(
    ("status", "reason", "wanted"),
    [
        ("completed", "end_turn", "completed"),
        ("completed", "max_steps", "truncated"),
        ("failed", "max_tokens_exceeded", "truncated"),
        ("failed", "llm_api_error", "failed"),
        ("cancelled", "cancelled", "aborted"),
        ("running", None, "incomplete"),
    ],
)
def test_a_runs_end_is_the_rollouts(status: str, reason: str | None, wanted: str) -> None:
    assert status_of(status, reason) == wanted


async def test_a_step_that_waited_for_approval_verifies_and_its_segment_goes_on(world: World) -> None:
    """Also where another process carries the answer out: what the model wrote is one turn, however it is stored."""
    search = '<tool_call>\n{"name": "conversation_search", "arguments": {"query": "tea"}}\n</tool_call>'
    found = await world.store.read(lambda: find_tool("conversation_search"))
    assert found is not None
    await world.store.write(lambda: attach_tool(world.agent.id, found.id))
    await world.store.write(lambda: set_approval(world.agent.id, "memory_insert", True))
    asked = Completion(text=f"<think>\nhm\n</think>\n\nLet me.\n{search}\n{INSERT}\n{INSERT}")
    world.engine.completions.extend([asked, Completion(text="Noted."), Completion(text="Bye.")])
    run_id = await world.send("I like tea")
    pending = (await world.store.read(lambda: conversation_state(world.agent.id))).pending
    assert pending is not None and [call.asks for call in pending.calls] == [False, True, True]
    await world.runner.stop()
    world.runner = Runner(world.store, world.registry, None)  # type: ignore[arg-type]
    await world.runner.start()
    answers = tuple(Approval(call_id, approve) for call_id, approve in zip(pending.asked, (True, False), strict=True))
    resumed = await world.submit(Message(id=new_id("message"), role="approval", created_us=0, approvals=answers))
    report = world.verified(await world.export(agent_id=world.agent.id))
    assert report.violations == []
    assert (report.rollouts, report.calls, report.segments) == (1, 2, 1)
    first, second = (request.ids for request in world.engine.requests)
    assert second[: len(first)] == first
    turns = [await world.store.read(lambda held=held: stored_turns(held)) for held in (run_id, resumed)]
    assert [(turn["role"], turn["tool_name"]) for turn in turns[1]] == [
        ("tool", "conversation_search"),
        ("tool", "memory_insert"),
        ("tool", "memory_insert"),
        ("assistant", None),
    ]
    assert [turn["content"].strip() for turn in turns[0]] == ["Let me."]
    await world.send("bye")
    report = world.verified(await world.export(agent_id=world.agent.id))
    assert report.violations == []
    assert (report.calls, report.segments) == (3, 2)  # the block was edited


async def test_a_cancelled_answer_is_on_record_up_to_where_it_came_and_is_not_trained(world: World) -> None:
    """And the next prompt goes on behind the ids that the engine sampled."""
    text = "A long answer that nobody waits for to its end, word after word after word. " * 20
    world.engine.completions.extend([Completion(text=text, pause_s=0.02, batch=4), Completion(text="Done.")])
    sending = asyncio.ensure_future(world.send("Talk."))
    while not world.engine.requests:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    await world.runner.cancel(next(iter(world.runner._jobs)))
    await sending
    await world.send("Go on.")
    (rollout,) = [one async for one in rollouts(world.store, agent_id=world.agent.id)]
    cut, whole = rollout["calls"]
    assert (cut["finish"]["type"], cut["trainable"], whole["trainable"]) == ("abort", False, True)
    assert len(rollout["segments"]) == 1 and whole["bridge"] == "bridge"
    said = await world.store.scan(lambda: list_messages(agent_id=world.agent.id, limit=None))
    (kept,) = [message for message in said if message.interrupted]
    assert kept.text and text.startswith(kept.text.rstrip("\ufffd"))
    seen = world.engine.requests[0].ids
    assert world.engine.requests[1].ids[: len(seen)] == seen
    assert len(world.engine.requests[1].ids) > len(seen) + cut["length"]
    assert world.verified(await world.export(agent_id=world.agent.id)).violations == []
