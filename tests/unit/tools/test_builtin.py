"""The built-in tools as a step runs them: answers, effects, and that nothing they do wrong gets out as an exception."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from perdure.core.agents import Block, Tool
from perdure.core.messages import ToolCall, ToolReturn
from perdure.memory.blocks import BlockEdit
from perdure.tools.base import MessageHit, PassageHit, PassageInsert, PeerAnswer, ToolContext, ToolRunner
from perdure.tools.builtin import EDITS, MAX_PASSAGE_CHARS, BuiltinTools
from perdure.tools.definitions import BUILTIN_TOOLS

AT_US = round(datetime(2026, 3, 31, 12, tzinfo=UTC).timestamp() * 1_000_000)


class FakeSearch:
    """Answers from lists and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.passages: list[PassageHit] = []
        self.messages: list[MessageHit] = []

    async def search_passages(self, *asked: Any) -> Sequence[PassageHit]:
        self.asked.append(asked)
        return self.passages

    async def search_messages(self, *asked: Any) -> Sequence[MessageHit]:
        self.asked.append(asked)
        return self.messages


class FakePeers:
    """Every agent says what it was asked."""

    async def ask(self, agent_id: str, message: str) -> PeerAnswer:
        return PeerAnswer(agent_id=agent_id, said=(message,))

    async def ask_tagged(self, message: str, *tags: Sequence[str]) -> Sequence[PeerAnswer]:
        return [PeerAnswer(agent_id="agent-2", said=(message,)), PeerAnswer(agent_id="agent-3", error="gone")]

    async def tell(self, agent_id: str, message: str) -> None:
        return None

    async def ask_group(self, message: str) -> Sequence[PeerAnswer]:
        return [PeerAnswer(agent_id="agent-2")]

    async def ask_member(self, agent_id: str, message: str | None) -> PeerAnswer:
        return PeerAnswer(agent_id=agent_id, said=(message or "",))


def context(search: Any = None, **blocks: str) -> ToolContext:
    return ToolContext(
        agent_id="agent-1",
        conversation_id="agent-1",
        run_id="run-1",
        step_id="step-1",
        search=search or FakeSearch(),
        peers=FakePeers(),
        timezone="Europe/Berlin",
        blocks={label: Block(id=f"block-{label}", label=label, value=value) for label, value in blocks.items()},
    )


async def run(name: str, ctx: ToolContext, return_char_limit: int = 50_000, **args: Any) -> ToolReturn:
    runner: ToolRunner = BuiltinTools()
    tool = Tool(id="tool-1", name=name, tool_type="letta_core", return_char_limit=return_char_limit)
    return await runner.run(ToolCall("call-1", name, "{}"), tool, args, ctx)


async def test_edits_of_one_step_build_on_each_other():
    ctx = context(human="Name: Ada")
    first = await run("memory_insert", ctx, label="human", new_string="Likes tea")
    second = await run("memory_replace", ctx, label="human", old_string="tea", new_string="milk")
    assert first == ToolReturn("call-1", "memory_insert", "success", "Name: Ada\nLikes tea")
    assert second.content == "Name: Ada\nLikes milk"
    assert [(e.kind, e.base_version, e.block.value) for e in ctx.effects if isinstance(e, BlockEdit)] == [
        ("update", 1, "Name: Ada\nLikes tea"),
        ("update", 2, "Name: Ada\nLikes milk"),
    ]
    assert ctx.blocks["human"].value == "Name: Ada\nLikes milk"


async def test_a_refused_edit_leaves_no_effect():
    ctx = context(human="Ada")
    answer = await run("memory_replace", ctx, label="human", old_string="Bob", new_string="x")
    assert answer.status == "error"
    assert "was not found" in str(answer.content)
    assert ctx.effects == []
    assert ctx.blocks["human"].value == "Ada"


async def test_a_long_block_is_returned_whole():
    ctx = context(human="x" * 900)
    answer = await run("core_memory_append", ctx, 100, label="human", content="y")
    assert answer.content == "x" * 900 + "\ny"


ARGUMENTS: dict[str, dict[str, Any]] = {
    "core_memory_append": {"label": "human", "content": "x"},
    "core_memory_replace": {"label": "human", "old_content": "Ada", "new_content": "Bob"},
    "memory": {"command": "create", "path": "/memories/a/b", "file_text": "v"},
    "memory_apply_patch": {"label": "human", "patch": "-Ada\n+Bob"},
    "memory_insert": {"label": "human", "new_string": "x", "insert_line": 0},
    "memory_replace": {"label": "human", "old_string": "Ada", "new_string": "Bob"},
    "memory_rethink": {"label": "human", "new_memory": "Bob"},
    "memory_finish_edits": {},
    "send_message": {"message": "Hello"},
    "archival_memory_insert": {"content": "x", "tags": ["t"]},
    "archival_memory_search": {"query": "x"},
    "conversation_search": {},
    "send_message_to_agent_and_wait_for_reply": {"message": "x", "other_agent_id": "agent-2"},
    "send_message_to_agents_matching_tags": {"message": "x", "match_all": ["t"], "match_some": []},
    "send_message_to_agent_async": {"message": "x", "other_agent_id": "agent-2"},
    "send_message_to_all_agents_in_group": {"message": "x"},
    "choose_next_participant": {"next_speaker_agent_id": "agent-2"},
}


def test_every_tool_is_tried_here():
    assert set(ARGUMENTS) == set(BUILTIN_TOOLS)


@pytest.mark.parametrize("name", BUILTIN_TOOLS)
async def test_every_tool_answers(name: str):
    ctx = context(human="Ada")
    answer = await run(name, ctx, **ARGUMENTS[name])
    assert (answer.status, answer.tool_call_id, answer.name) == ("success", "call-1", name)
    assert answer.content
    assert bool(ctx.effects) == (name in EDITS or name == "archival_memory_insert")


@pytest.mark.parametrize("name", BUILTIN_TOOLS)
async def test_null_means_left_out(name: str):
    optional = dict.fromkeys(BUILTIN_TOOLS[name].properties)
    assert (await run(name, context(human="Ada"), **(optional | ARGUMENTS[name]))).status == "success"


@pytest.mark.parametrize("name", [name for name, tool in BUILTIN_TOOLS.items() if tool.required])
async def test_missing_arguments_are_named(name: str):
    answer = await run(name, context())
    assert (answer.status, answer.content) == ("error", f"{name} needs {', '.join(BUILTIN_TOOLS[name].required)}.")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"label": "human", "new_string": 3}, "new_string must be a string, not 3."),
        ({"label": "human", "new_string": "x", "insert_line": "2"}, 'insert_line must be an integer, not "2".'),
        ({"label": "human", "new_string": "x", "insert_line": True}, "insert_line must be an integer, not true."),
        (
            {"label": "human", "new_string": "x", "line": 2},
            "memory_insert has no argument 'line'. Its arguments: label,",
        ),
    ],
)
async def test_wrong_arguments_are_named(args: dict[str, Any], message: str):
    answer = await run("memory_insert", context(human="Ada"), **args)
    assert answer.status == "error"
    assert str(answer.content).startswith(message)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("conversation_search", {"roles": "user"}, 'roles must be a list of strings, not "user".'),
        ("conversation_search", {"roles": ["boss"]}, "roles must be one of assistant, user, not 'boss'."),
        ("conversation_search", {"limit": 0}, "limit is 0; it must be between 1 and 100."),
        ("conversation_search", {"end_date": "soon"}, "end_date is 'soon'; write a date"),
        ("archival_memory_search", {"query": " "}, "query is empty"),
        ("archival_memory_search", {"query": "x", "tag_match_mode": "some"}, "tag_match_mode must be one of any, all"),
        ("archival_memory_insert", {"content": "\n"}, "content is empty"),
        ("archival_memory_insert", {"content": "x" * (MAX_PASSAGE_CHARS + 2)}, "content has 32770 characters, 2 more"),
    ],
)
async def test_arguments_that_make_no_sense_are_answered(name: str, args: dict[str, Any], message: str):
    ctx = context()
    answer = await run(name, ctx, **args)
    assert answer.status == "error"
    assert str(answer.content).startswith(message)
    assert ctx.effects == []


async def test_a_passage_is_an_effect_with_its_text_unchanged():
    ctx = context()
    answer = await run("archival_memory_insert", ctx, content="\tcode\r\n  x ", tags=["a", " b ", "a", ""])
    (passage,) = ctx.effects
    assert isinstance(passage, PassageInsert)
    assert (passage.text, passage.tags, passage.created_us) == ("\tcode\r\n  x ", ("a", "b"), None)
    assert passage.id.startswith("passage-")
    assert answer.content == f"Filed in archival memory as {passage.id}. Tags: a, b."


async def test_archival_search_passes_on_what_it_was_asked_and_shows_what_was_found():
    search = FakeSearch()
    search.passages = [PassageHit(id="passage-1", text="Zürich\t", tags=("t",), created_us=AT_US, relevance=0.123456)]
    answer = await run(
        "archival_memory_search",
        context(search),
        query="city",
        tags=["t"],
        tag_match_mode="all",
        top_k=3,
        start_datetime="2026-03-31",
        end_datetime="2026-03-31",
    )
    (asked,) = search.asked
    day_us = 86_400_000_000
    assert asked[:4] == ("city", ("t",), "all", 3)
    assert asked[5] - asked[4] == day_us - 1
    assert "Zürich" in str(answer.content)
    assert json.loads(str(answer.content)) == {
        "message": "1 passage found.",
        "results": [
            {
                "id": "passage-1",
                "timestamp": "2026-03-31T14:00:00+02:00",
                "content": "Zürich\t",
                "tags": ["t"],
                "relevance": 0.1235,
            }
        ],
    }


async def test_conversation_search_shows_what_was_said_but_no_tool_returns():
    search = FakeSearch()
    search.messages = [
        MessageHit(id="message-1", role="user", text="hello", created_us=AT_US),
        MessageHit(id="message-2", role="tool", text="secret", created_us=AT_US),
        MessageHit(id="message-3", role="assistant", text="y" * 5000, created_us=AT_US),
    ]
    answer = await run("conversation_search", context(search), query=" ", roles=["user", "assistant"], limit=7)
    assert search.asked == [(None, ("user", "assistant"), 7, None, None)]
    found = json.loads(str(answer.content))
    assert found["message"] == "2 messages found."
    assert [result["id"] for result in found["results"]] == ["message-1", "message-3"]
    assert found["results"][1]["content"].endswith(
        "[NOTE: this return was cut: it has 5000 characters, the limit is 2000]"
    )


async def test_finding_nothing_is_said():
    answer = await run("conversation_search", context(), query="x")
    assert json.loads(str(answer.content)) == {"message": "No messages found.", "results": []}


async def test_a_search_that_breaks_is_answered():
    class Broken(FakeSearch):
        async def search_messages(self, *asked: Any) -> Sequence[MessageHit]:
            raise RuntimeError("the index is gone " * 200)

    answer = await run("conversation_search", context(Broken()), query="x")
    assert answer.status == "error"
    text = str(answer.content)
    assert text.startswith("Error executing function conversation_search: RuntimeError: the index is gone")
    assert len(text) < 1_100


async def test_a_tool_that_is_not_built_in_is_answered():
    answer = await run("roll_dice", context())
    assert (answer.status, answer.content) == ("error", "roll_dice is not a tool this server can run.")
