"""Compactions in the middle of runs, on a real store: when they come, what they leave, what is on record of them."""

from typing import Any

import msgspec
import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.core.agents import Block, CompactionSettings
from perdure.core.errors import ProviderError
from perdure.core.events import CompactionStarted, Event, RunFailed, RunStopped, Said, Summarised, UsageReported
from perdure.core.ids import new_id
from perdure.core.messages import ToolCall
from perdure.core.model import Prompt
from perdure.providers.scripted import Completion
from perdure.runs.context_use import context_use
from perdure.runs.trajectories import rollouts
from perdure.store.sqlite import SqliteStore
from perdure.store.tools import find_tool
from tests.unit.runs.compaction_world import World, new_world, scripted_engine

TOO_LONG = "This model's maximum context length is 2000 tokens."


def overflow() -> ProviderError:
    return ProviderError(TOO_LONG, kind="context_window_exceeded", status=400)


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def only(events: list[Event], kind: type[Any]) -> Any:
    [found] = [event for event in events if isinstance(event, kind)]
    return found


async def talk(world: World, turns: int) -> None:
    for turn in range(turns):
        await world.send(f"question {turn} {'and so on ' * 30}")


@pytest.fixture
async def world(store: SqliteStore) -> Any:
    made = await new_world(store)
    yield made
    await made.runner.stop()


async def test_nothing_happens_while_there_is_room(world: World) -> None:
    world.said_tokens(1_800)
    events = await world.send("hello")
    assert kinds(events) == ["Said", "RunStopped", "UsageReported", "LogEnded"]


async def test_a_step_that_filled_the_window_is_followed_by_a_compaction(world: World) -> None:
    await talk(world, 5)
    world.said_tokens(1_801)
    world.model.answers = ["answer 5", "They said hello."]
    events = await world.send("question 5")
    assert kinds(events) == ["Said", "CompactionStarted", "Summarised", "RunStopped", "UsageReported", "LogEnded"]
    started = only(events, CompactionStarted)
    assert (started.trigger, started.context_tokens, started.context_window) == ("post_step_context_check", 1801, 2000)
    stats = only(events, Summarised).stats
    assert only(events, Summarised).summary == "They said hello."
    assert (stats.messages_before, stats.messages_after) == (13, 9)
    assert stats.tokens_before == 1801 and stats.tokens_after < 1801
    assert only(events, RunStopped).reason == "end_turn"


async def test_the_context_is_system_prompt_summary_and_tail(world: World) -> None:
    await talk(world, 5)
    world.said_tokens(1_900)
    world.model.answers = ["answer 5", "They said hello."]
    await world.send("question 5")
    context = await world.context()
    assert [message.role for message in context[:3]] == ["system", "summary", "assistant"]
    assert context[1].text.endswith("They said hello.")
    assert [message.text for message in context[-2:]] == ["question 5", "answer 5"]
    world.said_tokens(100)
    await world.send("and now?")
    prompt = world.model.prompts[-1]
    assert [m.id for m in prompt.messages[:-1]] == [m.id for m in context[1:]]
    assert prompt.messages[-1].text == "and now?"


async def test_what_was_summarised_stays_in_the_history(world: World) -> None:
    await talk(world, 5)
    world.said_tokens(1_900)
    await world.send("question 5")
    texts = " ".join(message.text for message in await world.history())
    assert all(f"question {turn}" in texts for turn in range(6))


async def test_a_restarted_server_reads_the_compacted_context(world: World) -> None:
    await talk(world, 5)
    world.said_tokens(1_900)
    await world.send("question 5")
    context = await world.context()
    await world.runner.stop()
    world.runner = world.new_runner()
    world.said_tokens(100)
    await world.send("again")
    assert [m.id for m in world.model.prompts[-1].messages[:-1]] == [m.id for m in context[1:]]
    await world.runner.stop()


async def test_a_refused_prompt_is_compacted_and_sent_again_in_the_same_step(world: World) -> None:
    await talk(world, 5)
    world.model.answers = [overflow(), "the notes", "answer 5"]
    run_id = await world.submit("question 5")
    events = await world.events(run_id)
    assert kinds(events) == ["CompactionStarted", "Summarised", "Said", "RunStopped", "UsageReported", "LogEnded"]
    assert only(events, CompactionStarted).trigger == "context_window_exceeded"
    assert only(events, UsageReported).step_count == 1
    assert world.model.prompts[-1].messages[-1].text == "question 5"
    assert [step.call_type for step in await world.steps(run_id)] == ["summarization", "agent_step"]


async def test_the_call_for_a_summary_counts_and_is_on_record(world: World) -> None:
    await talk(world, 5)
    world.model.answers = [overflow(), "the notes", "answer 5"]
    run_id = await world.submit("question 5")
    used = only(await world.events(run_id), UsageReported)
    assert (used.usage.prompt_tokens, used.usage.completion_tokens, used.step_count) == (20, 10, 1)
    summary = (await world.steps(run_id))[0]
    assert (summary.call_type, summary.status, summary.usage.total_tokens) == ("summarization", "success", 15)
    message = next(message for message in await world.history() if message.role == "summary")
    assert (message.step_id, message.run_id) == (summary.id, run_id)


async def test_a_prompt_that_never_fits_ends_the_run_after_three_tries(world: World) -> None:
    await talk(world, 5)
    world.model.answers = [overflow(), "notes 1", overflow(), "notes 2", overflow(), "notes 3", overflow(), "never"]
    events = await world.send("question 5")
    assert kinds(events).count("Summarised") <= 3
    assert only(events, RunStopped).reason == "llm_api_error"
    assert len(world.model.prompts) < 5 + 8
    world.model.answers = ["fine again"]
    assert only(await world.send("short"), Said).text == "fine again"


async def test_every_retry_leaves_less(world: World) -> None:
    await talk(world, 9)
    world.model.answers = [overflow(), "notes 1", overflow(), "notes 2", "answer"]
    events = await world.send("question 9")
    first, second = [event.stats for event in events if isinstance(event, Summarised)]
    assert first.messages_after > second.messages_after == 3
    assert [line.partition(":")[0] for line in await world.shape()] == ["system", "summary", "user", "assistant"]


async def test_a_system_prompt_too_long_by_itself_is_said_to_be_so(store: SqliteStore) -> None:
    world = await new_world(store, system="Remember everything. " * 400)
    world.model.answers = [overflow()]
    events = await world.send("hi")
    assert only(events, RunStopped).reason == "context_window_overflow_in_system_prompt"
    failed = only(events, RunFailed)
    assert failed.error_type == "context_window_overflow_in_system_prompt"
    assert "system prompt" in failed.message and "2000" in failed.message
    assert len(world.model.prompts) == 1
    await world.runner.stop()


async def test_a_message_too_long_by_itself_is_said_to_be_so(world: World) -> None:
    world.model.answers = [overflow()]
    events = await world.send("word " * 3_000)
    assert only(events, RunStopped).reason == "llm_api_error"
    assert "newest messages" in only(events, RunFailed).message
    world.model.answers = ["still here"]
    await world.send("short")


async def test_a_summary_too_long_is_clipped(store: SqliteStore) -> None:
    world = await new_world(store, clip_chars=40)
    await talk(world, 5)
    world.said_tokens(1_900)
    world.model.answers = ["answer", "blah " * 1_000]
    events = await world.send("question 5")
    summary = only(events, Summarised).summary
    assert len(summary) == 40 and summary.endswith("[…cut]")
    await world.runner.stop()


async def test_several_compactions_in_a_row_carry_the_notes_over(world: World) -> None:
    world.model.chars, world.model.window = 2, 2_000
    compactions = 0
    for turn in range(40):
        events = await world.send(f"question {turn} {'and so on ' * 20}")
        assert only(events, RunStopped).reason == "end_turn"
        if "Summarised" in kinds(events):
            compactions += 1
            shown = world.model.prompts[-1].messages[-1].text
            assert compactions == 1 or "[earlier notes] ok" in shown
        context = await world.context()
        assert [message.role for message in context].count("summary") <= 1
        assert len(context) < 34
    assert compactions >= 4


async def test_compaction_does_not_come_back_after_every_step(store: SqliteStore) -> None:
    """A long system prompt keeps the window nearly full: what little is said meanwhile is not worth a summary each time."""
    world = await new_world(store, system="Remember everything. " * 130)
    world.model.chars, world.model.window = 2, 2_000
    world.model.default = "fine"
    compacted = [kinds(await world.send(f"question {turn} {'x' * 60}")).count("Summarised") for turn in range(20)]
    assert 1 <= sum(compacted) <= 4
    await world.runner.stop()


async def test_thinking_that_is_not_sent_again_does_not_count(world: World) -> None:
    await talk(world, 5)
    world.model.usage = msgspec.structs.replace(
        world.model.usage, prompt_tokens=1_000, completion_tokens=950, total_tokens=1_950, reasoning_tokens=900
    )
    assert "CompactionStarted" not in kinds(await world.send("think"))


async def test_an_assumed_window_starts_no_compaction(store: SqliteStore) -> None:
    world = await new_world(
        store,
        window=32_768,
        change=lambda agent: msgspec.structs.replace(agent, extra={"model": {"assumed_window": True}}),
    )
    await talk(world, 3)
    world.said_tokens(60_000)
    assert "CompactionStarted" not in kinds(await world.send("a model with a longer window than anybody told us"))
    world.model.answers = [overflow(), "notes", "answer"]
    assert "Summarised" in kinds(await world.send("until it refuses"))
    await world.runner.stop()


async def test_a_failed_summary_leaves_a_fitting_conversation_alone(world: World) -> None:
    await talk(world, 5)
    before = await world.shape()
    world.said_tokens(1_900)
    world.model.answers = ["answer", ProviderError("No such key.", kind="llm_authentication", status=401)]
    run_id = await world.submit("question 5")
    events = await world.events(run_id)
    assert only(events, RunStopped).reason == "end_turn"
    assert (await world.shape())[: len(before)] == before
    failed = [step for step in await world.steps(run_id) if step.call_type == "summarization"]
    assert [(step.status, step.error_type) for step in failed] == [("failed", "llm_authentication")]


async def test_a_failed_summary_of_a_prompt_that_does_not_fit_is_the_runs_error(world: World) -> None:
    await talk(world, 5)
    world.model.answers = [overflow(), ProviderError("No such key.", kind="llm_authentication", status=401)]
    events = await world.send("question 5")
    failed = only(events, RunFailed)
    assert failed.error_type == "llm_authentication" and "could not be summarised" in failed.message
    world.model.answers = ["back"]
    assert only(await world.send("hello"), Said).text == "back"


async def test_an_empty_summary_is_asked_for_in_another_way(world: World) -> None:
    await talk(world, 5)
    world.model.answers = [overflow(), "   ", "everything so far", "answer"]
    events = await world.send("question 5")
    assert only(events, Summarised).summary == "everything so far"
    assert only(events, Summarised).stats.messages_after == 3


async def test_a_transcript_too_long_for_the_summarizer_is_shortened(world: World) -> None:
    for turn in range(5):
        await world.send(f"question {turn} " + "x" * 500)
    world.model.answers = [overflow(), overflow(), "the notes", "answer"]
    events = await world.send("question 5")
    assert only(events, Summarised).summary == "the notes"
    longer, shorter = [prompt.messages[-1].text for prompt in world.model.prompts[-3:-1]]
    assert len(shorter) < len(longer)


@pytest.mark.parametrize("mode", ["all", "self_compact_all"])
async def test_everything_is_summarised_but_what_waits_for_an_answer(store: SqliteStore, mode: str) -> None:
    world = await new_world(store, mode=mode)
    await talk(world, 3)
    world.model.answers = [overflow(), "all of it", "answer"]
    await world.send("question 3")
    assert [line.partition(":")[0] for line in await world.shape()] == ["system", "summary", "user", "assistant"]
    assert world.model.prompts[-1].messages[-1].text == "question 3"
    await world.runner.stop()


async def test_the_agents_own_model_summarises_in_its_own_context(store: SqliteStore) -> None:
    world = await new_world(store, mode="self_compact_all")
    await talk(world, 3)
    world.said_tokens(1_900)
    world.model.answers = ["answer", "my notes"]
    await world.send("question 3")
    asked: Prompt = world.model.prompts[-1]
    assert asked.system == world.model.prompts[0].system
    assert [message.text[:10] for message in asked.messages[:2]] == ["question 0", "ok"]
    assert asked.messages[-1].role == "user" and asked.tool_choice == "none"
    await world.runner.stop()


async def test_self_compaction_falls_back_to_a_part_and_then_to_a_transcript(store: SqliteStore) -> None:
    world = await new_world(store, mode="self_compact_all")
    await talk(world, 5)
    world.model.answers = [overflow(), overflow(), overflow(), "from the transcript", "answer"]
    events = await world.send("question 5")
    assert only(events, Summarised).summary == "from the transcript"
    whole, part, transcript = world.model.prompts[-4:-1]
    assert len(whole.messages) > len(part.messages) > len(transcript.messages) == 1
    await world.runner.stop()


async def test_prompt_and_acknowledgement_are_the_agents(store: SqliteStore) -> None:
    world = await new_world(store, prompt="Only names, please.", prompt_acknowledgement=True)
    await talk(world, 4)
    world.said_tokens(1_900)
    await world.send("question 4")
    asked = world.model.prompts[-1]
    assert [message.role for message in asked.messages] == ["user", "assistant", "user"]
    assert asked.messages[0].text == "Only names, please."
    assert "question 0" in asked.messages[2].text
    await world.runner.stop()


async def test_memory_is_compiled_at_the_compaction(store: SqliteStore) -> None:
    await ensure_builtin_tools(store)
    tool = await store.read(lambda: find_tool("memory_insert"))
    assert tool is not None
    block = Block(id=new_id("block"), label="human", value="Ada")
    world = await new_world(store, tools=(tool,), blocks=(block,))
    arguments = msgspec.json.encode({"label": "human", "new_string": "loves tea"}).decode()
    await talk(world, 4)
    world.model.answers = [ToolCall("c1", "memory_insert", arguments), overflow(), "notes", "done"]
    await world.send("remember")
    assert "loves tea" not in world.model.prompts[-3].system
    assert "loves tea" in world.model.prompts[-1].system
    assert "loves tea" in (await world.context())[0].text
    await world.runner.stop()


async def test_a_call_and_its_answer_stay_together(store: SqliteStore) -> None:
    await ensure_builtin_tools(store)
    tool = await store.read(lambda: find_tool("memory_insert"))
    assert tool is not None
    world = await new_world(store, tools=(tool,), blocks=(Block(id=new_id("block"), label="human", value=""),))
    for turn in range(4):
        arguments = msgspec.json.encode({"label": "human", "new_string": f"fact {turn}"}).decode()
        world.model.answers = [ToolCall("call_1", "memory_insert", arguments), "noted"]
        await world.send(f"remember {turn}")
    arguments = msgspec.json.encode({"label": "human", "new_string": "fact 4"}).decode()
    world.model.answers = [ToolCall("call_1", "memory_insert", arguments), overflow(), "notes", "done"]
    await world.send("remember 4")
    waiting = 0
    for message in world.model.prompts[-1].messages:
        waiting += len(message.tool_calls) - len(message.tool_returns)
        assert waiting in (0, 1)
    assert waiting == 0 and world.model.prompts[-1].messages[-1].role == "tool"
    await world.runner.stop()


async def test_compaction_can_be_asked_for(world: World) -> None:
    await talk(world, 5)
    world.model.answers = ["the notes"]
    events = await world.compact()
    assert kinds(events) == ["CompactionStarted", "Summarised", "RunStopped", "UsageReported", "LogEnded"]
    stats = only(events, Summarised).stats
    assert (stats.trigger, stats.messages_before, stats.messages_after) == ("manual", 11, 9)
    assert len(await world.context()) == 9


async def test_settings_given_with_the_request_win(world: World) -> None:
    await talk(world, 5)
    world.model.answers = ["the notes"]
    events = await world.compact(CompactionSettings(mode="all"))
    assert only(events, Summarised).stats.messages_after == 2


async def test_a_compaction_that_would_not_shrink_is_refused(world: World) -> None:
    await world.send("only this")
    await world.compact(CompactionSettings(mode="all"))
    events = await world.compact(CompactionSettings(mode="all"))
    assert only(events, RunFailed).error_type == "invalid"
    assert "not compacted" in only(events, RunFailed).message


# -- engines that take and give token ids


async def exact_world(store: SqliteStore, window: int = 1_000, **settings: Any) -> World:
    return await new_world(store, engine=scripted_engine(default="a short answer"), window=window, **settings)


async def test_an_exact_prompt_is_compacted_before_it_is_sent(store: SqliteStore) -> None:
    world = await exact_world(store)
    for turn in range(40):
        events = await world.send(f"question {turn}: " + "the quick brown fox " * 3)
        if "CompactionStarted" in kinds(events):
            break
    started = only(events, CompactionStarted)
    assert started.trigger in ("pre_step_context_check", "post_step_context_check")
    assert world.engine is not None
    assert all(len(request.ids) <= 900 for request in world.engine.requests)
    assert only(events, Summarised).stats.tokens_after < started.context_tokens
    await world.runner.stop()


@pytest.mark.parametrize("mode", ["sliding_window", "all", "self_compact_all", "self_compact_sliding_window"])
async def test_the_trajectory_still_verifies(store: SqliteStore, mode: str) -> None:
    world = await exact_world(store, mode=mode)
    for turn in range(60):
        events = await world.send(f"question {turn}: " + "the quick brown fox " * 3)
        assert only(events, RunStopped).reason == "end_turn"
    causes = await world.causes()
    assert causes[0] == ("root", False)
    assert sum(cause == "compaction" and not own for cause, own in causes) >= 2
    report = await world.verified()
    assert report.violations == [] and report.drift == 0
    await world.runner.stop()


async def test_calls_for_summaries_are_marked_and_train_nothing(store: SqliteStore) -> None:
    world = await exact_world(store)
    for turn in range(40):
        await world.send(f"question {turn}: " + "the quick brown fox " * 3)
    [record] = [rollout async for rollout in rollouts(store, agent_id=world.agent.id)]
    marked = [call for call in record["calls"] if call.get("call_type") == "summarization"]
    assert marked and not any(call["trainable"] for call in marked)
    assert all(call["trainable"] for call in record["calls"] if call not in marked)
    indices = [segment["index"] for segment in record["segments"]]
    assert indices == sorted(set(indices))
    await world.runner.stop()


async def test_an_agents_own_summaries_train_if_it_is_wanted(store: SqliteStore) -> None:
    world = await exact_world(store, mode="self_compact_all", train_summaries=True)
    for turn in range(40):
        await world.send(f"question {turn}: " + "the quick brown fox " * 3)
    [record] = [rollout async for rollout in rollouts(store, agent_id=world.agent.id)]
    marked = [call for call in record["calls"] if call.get("call_type") == "summarization"]
    assert marked and all(call["trainable"] for call in marked)
    await world.runner.stop()


async def test_the_trajectory_verifies_across_a_restart(store: SqliteStore) -> None:
    world = await exact_world(store)
    for turn in range(45):
        await world.send(f"question {turn}: " + "the quick brown fox " * 3)
        if turn % 5 == 4:
            await world.runner.stop()
            world.runner = world.new_runner()
    report = await world.verified()
    assert report.violations == []
    indices = [cause for cause, _ in await world.causes()]
    assert "history_edit" not in indices
    await world.runner.stop()


async def test_an_exact_system_prompt_too_long_is_said_to_be_so(store: SqliteStore) -> None:
    world = await exact_world(store, system="Remember everything, always. " * 60)
    events = await world.send("hi")
    assert only(events, RunStopped).reason == "context_window_overflow_in_system_prompt"
    assert world.engine is not None and world.engine.requests == []
    await world.runner.stop()


async def test_a_huge_tool_answer_is_survived(store: SqliteStore) -> None:
    world = await exact_world(store, window=2_000)
    assert world.engine is not None
    world.engine.completions.append(Completion(text="word " * 300))
    await world.send("talk much")
    world.engine.completions.clear()
    for turn in range(6):
        events = await world.send(f"more {turn} " + "x" * 200)
        assert only(events, RunStopped).reason == "end_turn"
    assert (await world.verified()).violations == []
    await world.runner.stop()


async def test_a_summary_reaches_the_model_as_a_turn_its_template_knows(store: SqliteStore) -> None:
    world = await exact_world(store)
    for turn in range(40):
        await world.send(f"question {turn}: " + "the quick brown fox " * 3)
    shown = world.prompt_texts()[-1]
    assert "<|im_start|>user\nThe earlier messages of this conversation" in shown
    assert "<|im_start|>summary" not in shown
    await world.runner.stop()


async def test_what_fills_the_window_is_counted_by_the_models_tokenizer(store: SqliteStore) -> None:
    world = await exact_world(store, blocks=(Block(id=new_id("block"), label="human", value="Ada"),))
    assert world.engine is not None
    for turn in range(30):
        await world.send(f"question {turn}: " + "the quick brown fox " * 3)
        use = await context_use(store, world.registry, world.agent.id)  # type: ignore[arg-type]
        assert use.source == "tokenizer"
        if use.summary is None:  # the last prompt, its answer, and the template's opening of the next one
            assert 0 < use.total - len(world.engine.requests[-1].ids) < 40
    assert use.summary is not None and use.core_memory.tokens > 0 and use.messages_tokens > 0
    await world.runner.stop()
