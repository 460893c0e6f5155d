"""Agents, blocks, tools, passages and models with the real SDK."""

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from letta_client import APIStatusError, ConflictError, Letta, NotFoundError, UnprocessableEntityError

from tests.e2e.conftest import ServerProcess

BLOCKS = [{"label": "human", "value": "Ada"}, {"label": "notes", "value": "", "limit": 50, "read_only": True}]
EVERYTHING = ["agent.blocks", "agent.tools", "agent.tags", "agent.secrets", "agent.pending_approval"]


def unique(name: str) -> str:
    return f"{name}_{uuid.uuid4().hex[:8]}"


def source(name: str, body: str = "return sides", argument: str = "sides: int") -> str:
    return f'''
def {name}({argument}):
    """Try something.

    Args:
        {argument.partition(":")[0]} ({argument.partition(":")[2].strip()}): what to try it with
    """
    {body}
'''


@pytest.fixture
def raw(server: ServerProcess) -> Any:
    with httpx.Client(base_url=server.url, timeout=30) as http:
        yield http


def test_an_agent_is_created_with_everything_it_was_given(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(
        name="Ada's helper",
        description="helps",
        memory_blocks=BLOCKS,
        tags=["b", "a"],
        tools=["memory_insert"],
        secrets={"KEY": "value"},
        metadata={"deep": {"er": 1}},
        timezone="Europe/Paris",
        context_window_limit=9000,
        model_settings={"provider_type": "openai", "temperature": 0.3, "max_output_tokens": 77},
        tool_rules=[{"type": "exit_loop", "tool_name": "memory_insert"}],
    )
    for shown in (agent, client.agents.retrieve(agent.id, include=EVERYTHING)):
        assert (shown.name, shown.description, shown.tags) == ("Ada's helper", "helps", ["b", "a"])
        assert [(block.label, block.value) for block in shown.blocks] == [("human", "Ada"), ("notes", "")]
        assert shown.blocks == shown.memory.blocks
        assert (shown.blocks[1].limit, shown.blocks[1].read_only) == (50, True)
        assert [tool.name for tool in shown.tools] == ["memory_insert"]
        assert [(secret.key, secret.value) for secret in shown.secrets] == [("KEY", "value")]
        assert shown.metadata == {"deep": {"er": 1}} and shown.timezone == "Europe/Paris"
        assert (shown.model, shown.llm_config.context_window) == ("openai/gpt-test", 9000)
        assert shown.to_dict()["model_settings"]["temperature"] == 0.3
        assert shown.to_dict()["model_settings"]["max_output_tokens"] == 77
        assert shown.tool_rules[0].type == "exit_loop"
        assert len(shown.message_ids) == 1
        assert shown.pending_approval is None


def test_relations_are_loaded_only_when_asked_for(
    client: Letta, raw: httpx.Client, new_agent: Callable[..., Any]
) -> None:
    agent = new_agent(memory_blocks=BLOCKS, tags=["t"], tools=["memory_insert"], secrets={"K": "v"})
    bare = client.agents.retrieve(agent.id)
    assert (bare.blocks, bare.memory.blocks, bare.tools, bare.tags, bare.secrets) == ([], [], [], [], [])
    some = client.agents.retrieve(agent.id, include=["agent.tools"])
    assert (len(some.tools), some.blocks, some.tags) == (1, [], [])
    listed = next(each for each in client.agents.list(include=["agent.blocks"]) if each.id == agent.id)
    assert (len(listed.blocks), listed.tools) == (2, [])
    old = raw.get(f"/v1/agents/{agent.id}", headers={"user-agent": "letta-client/0.1.200"}).json()
    assert (len(old["blocks"]), len(old["tools"]), old["tags"]) == (2, 1, ["t"])


def test_an_agent_is_changed_listed_and_deleted(client: Letta) -> None:
    tag = unique("tag")
    agent = client.agents.create(model="openai/gpt-test", tags=[tag], include_base_tools=False)
    assert agent.name and agent.tools == []
    changed = client.agents.update(
        agent.id, name="new name", description="now", tags=[tag, "more"], metadata={"a": 1}, hidden=False
    )
    assert (changed.name, changed.description, changed.tags) == ("new name", "now", [tag, "more"])
    assert [each.id for each in client.agents.list(tags=[tag, "more"], match_all_tags=True)] == [agent.id]
    assert [each.id for each in client.agents.list(tags=[tag], name="new name")] == [agent.id]
    assert [each.id for each in client.agents.list(tags=[tag], query_text="EW NA")] == [agent.id]
    assert list(client.agents.list(tags=[tag], name="other")) == []
    assert tag in client.tags.list(query_text=tag)
    assert client.agents.delete(agent.id) == {"message": f"Agent id={agent.id} successfully deleted"}
    with pytest.raises(NotFoundError, match="Agent not found"):
        client.agents.retrieve(agent.id)
    with pytest.raises(NotFoundError):
        client.agents.delete(agent.id)
    assert client.tags.list(query_text=tag) == []


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"model": "openai/none"}, NotFoundError, "gpt-test"),
        ({"model": "nowhere/x"}, NotFoundError, "nowhere"),
        ({"name": "a/b"}, UnprocessableEntityError, "name"),
        ({"tools": ["nope"]}, APIStatusError, "nope"),
        ({"memory_blocks": [BLOCKS[0], BLOCKS[0]]}, ConflictError, "human"),
        ({"tool_rules": [{"type": "odd", "tool_name": "x"}]}, UnprocessableEntityError, "tool_rules"),
        ({"model_settings": {"temperature": "hot"}}, UnprocessableEntityError, "model_settings.temperature"),
        ({"timezone": "Nowhere"}, UnprocessableEntityError, "timezone"),
    ],
)
def test_a_wrong_agent_is_refused_in_words(client: Letta, fields: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        client.agents.create(**{"model": "openai/gpt-test", **fields})


def test_blocks_of_an_agent(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent(memory_blocks=BLOCKS)
    block = client.agents.blocks.retrieve("human", agent_id=agent.id)
    assert (block.value, block.limit, bool(block.description)) == ("Ada", 100_000, True)
    changed = client.agents.blocks.update("human", agent_id=agent.id, value="Grace", description="who")
    assert (changed.id, changed.value, changed.description) == (block.id, "Grace", "who")
    shared = client.blocks.create(label="team/plan", value="sail", tags=["x"])
    attached = client.agents.blocks.attach(shared.id, agent_id=agent.id)
    assert [each.label for each in attached.blocks] == ["human", "notes", "team/plan"]
    assert client.agents.blocks.retrieve("team/plan", agent_id=agent.id).value == "sail"
    assert [each.id for each in client.blocks.agents.list(shared.id)] == [agent.id]
    assert len(client.agents.blocks.detach(shared.id, agent_id=agent.id).blocks) == 2
    assert list(client.blocks.agents.list(shared.id)) == []
    with pytest.raises(NotFoundError, match="its blocks are: human, notes"):
        client.agents.blocks.retrieve("team/plan", agent_id=agent.id)
    double = client.blocks.create(label="human", value="another")
    with pytest.raises(ConflictError, match="human"):
        client.agents.blocks.attach(double.id, agent_id=agent.id)
    assert client.blocks.delete(shared.id) is None
    assert client.blocks.delete(double.id) is None
    with pytest.raises(NotFoundError):
        client.blocks.retrieve(shared.id)


def test_blocks_by_themselves(client: Letta) -> None:
    label = unique("label")
    block = client.blocks.create(label=label, value="v", description="d", metadata={"k": 1}, tags=["x"], limit=10)
    assert client.blocks.retrieve(block.id) == block
    changed = client.blocks.update(block.id, value="w", tags=["y"], limit=20)
    assert (changed.value, changed.tags, changed.limit, changed.description) == ("w", ["y"], 20, "d")
    assert [each.id for each in client.blocks.list(label=label)] == [block.id]
    assert [each.id for each in client.blocks.list(label_search=label[2:])] == [block.id]
    assert list(client.blocks.list(label=label, tags=["x"])) == []
    assert [each.id for each in client.blocks.list(label=label, connected_to_agents_count_eq=[0])] == [block.id]
    with pytest.raises(APIStatusError, match="limit of 20"):
        client.blocks.update(block.id, value="x" * 21)
    client.blocks.delete(block.id)


def test_a_tool_is_created_found_changed_and_deleted(client: Letta) -> None:
    name = unique("tool")
    tool = client.tools.create(source_code=source(name), tags=["dice"])
    assert (tool.name, tool.tool_type, tool.tags) == (name, "custom", ["dice"])
    assert tool.json_schema["parameters"]["required"] == ["sides"]
    assert client.tools.retrieve(tool.id) == tool
    assert [each.id for each in client.tools.list(name=name)] == [tool.id]
    assert [each.id for each in client.tools.list(names=[name, "nope"])] == [tool.id]
    assert [each.id for each in client.tools.list(search=name[2:].upper())] == [tool.id]
    assert list(client.tools.list(name=name, exclude_tool_types=["custom"])) == []
    assert client.tools.upsert(source_code=source(name), description="better").id == tool.id
    renamed = client.tools.update(tool.id, source_code=source(name + "x"))
    assert (renamed.id, renamed.name) == (tool.id, name + "x")
    with pytest.raises(APIStatusError, match="tool_types"):
        client.tools.list(tool_types=["odd"])
    found = client.tools.search(query=name + "x", search_mode="fts")
    assert [hit.tool.id for hit in found] == [tool.id]
    assert client.tools.delete(tool.id) is None
    with pytest.raises(NotFoundError):
        client.tools.retrieve(tool.id)


def test_built_in_tools_are_rows_like_any_other(client: Letta, raw: httpx.Client) -> None:
    names = {tool.name for tool in client.tools.list(return_only_letta_tools=True)}
    assert {"conversation_search", "memory_insert", "memory_replace", "send_message"} <= names
    assert {tool["name"] for tool in raw.post("/v1/tools/add-base-tools").json()} == names
    insert = next(iter(client.tools.list(name="memory_insert")))
    assert insert.json_schema["parameters"]["properties"]["label"]
    with pytest.raises(APIStatusError, match="built-in"):
        client.tools.delete(insert.id)


def test_tools_of_an_agent(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    tool = client.tools.create(source_code=source(unique("tool")))
    assert client.agents.tools.attach(tool.id, agent_id=agent.id) is None
    assert client.agents.tools.attach(tool.id, agent_id=agent.id) is None
    assert [each.id for each in client.agents.tools.list(agent.id)] == [tool.id]
    client.agents.tools.update_approval(tool.name, agent_id=agent.id, body_requires_approval=True)
    client.agents.tools.update_approval(tool.name, agent_id=agent.id, body_requires_approval=True)
    rules = client.agents.retrieve(agent.id).tool_rules
    assert [(rule.type, rule.tool_name) for rule in rules] == [("requires_approval", tool.name)]
    client.agents.tools.update_approval(tool.name, agent_id=agent.id, body_requires_approval=False)
    assert client.agents.retrieve(agent.id).tool_rules == []
    assert client.agents.tools.detach(tool.id, agent_id=agent.id) is None
    assert list(client.agents.tools.list(agent.id)) == []
    client.tools.delete(tool.id)


def test_a_tool_is_run_by_hand(client: Letta, raw: httpx.Client, new_agent: Callable[..., Any]) -> None:
    body = "import os\n    print('out')\n    return {'sides': sides, 'key': os.environ['KEY']}"
    tool = client.tools.create(source_code=source(unique("tool"), body))
    agent = new_agent(tool_ids=[tool.id], tools=["memory_insert"], memory_blocks=[BLOCKS[0]], secrets={"KEY": "v"})
    done = client.agents.tools.run(tool.name, agent_id=agent.id, args={"sides": 3})
    assert (done.status, done.func_return, done.stderr) == ("success", {"sides": 3, "key": "v"}, [])
    assert "".join(done.stdout or []).strip() == "out"
    client.agents.tools.run("memory_insert", agent_id=agent.id, args={"label": "human", "new_string": "Lovelace"})
    assert "Lovelace" in client.agents.blocks.retrieve("human", agent_id=agent.id).value
    with pytest.raises(NotFoundError, match="its tools are"):
        client.agents.tools.run("nope", agent_id=agent.id)
    with pytest.raises(UnprocessableEntityError, match="args"):
        client.agents.tools.run(tool.name, agent_id=agent.id, args={})
    failing = {"source_code": source("boom", "raise ValueError('no')"), "args": {"sides": 1}}
    answer = raw.post("/v1/tools/run", json=failing).json()
    assert (answer["message_type"], answer["status"]) == ("tool_return_message", "error")
    assert "ValueError" in answer["tool_return"]
    client.tools.delete(tool.id)


def test_archival_memory(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    for text, tags in (("the quick brown fox", ["animal"]), ("a slow tortoise", ["animal", "slow"]), ("tea", None)):
        made = client.agents.passages.create(agent.id, text=text, tags=tags)
        assert [passage.text for passage in made] == [text]
    listed = client.agents.passages.list(agent.id)
    assert [passage.text for passage in listed] == ["the quick brown fox", "a slow tortoise", "tea"]
    assert [passage.text for passage in client.agents.passages.list(agent.id, ascending=False, limit=1)] == ["tea"]
    after = client.agents.passages.list(agent.id, after=listed[0].id)
    assert [passage.text for passage in after] == ["a slow tortoise", "tea"]
    found = client.agents.passages.search(agent.id, query="tortoise fox")
    assert (found.count, {hit.content for hit in found.results}) == (2, {"the quick brown fox", "a slow tortoise"})
    tagged = client.agents.passages.search(
        agent.id, query="fox tortoise", tags=["slow", "animal"], tag_match_mode="all"
    )
    assert [hit.content for hit in tagged.results] == ["a slow tortoise"]
    assert client.agents.passages.search(agent.id, query=" ").count == 0
    hits = client.passages.search(query="tortoise", agent_id=agent.id)
    assert [hit.passage.text for hit in hits] == ["a slow tortoise"]
    answer = client.agents.passages.delete(listed[0].id, agent_id=agent.id)
    assert answer == {"message": f"Memory id={listed[0].id} successfully deleted"}
    assert client.agents.passages.search(agent.id, query="fox").count == 0


def test_models(client: Letta) -> None:
    models = client.models.list(provider_name="openai")
    assert [model.handle for model in models] == ["openai/gpt-test"]
    assert models[0].handle in {model.handle for model in client.models.list()}
    assert models[0].max_context_window is None  # nobody says
    assert client.models.list(provider_name="nobody") == []
    embedding = client.models.embeddings.list()  # the embedded one, where it is installed
    assert {model.handle for model in embedding} <= {"wordllama/l2-supercat-256"}


def test_what_there_is_none_of_reads_as_empty(client: Letta, new_agent: Callable[..., Any]) -> None:
    agent = new_agent()
    assert list(client.folders.list()) == client.mcp_servers.list() == []
    assert list(client.agents.folders.list(agent.id)) == []
    assert list(client.agents.files.list(agent.id)) == []


def test_counts(raw: httpx.Client, new_agent: Callable[..., Any]) -> None:
    before = raw.get("/v1/agents/count").json()
    new_agent()
    assert raw.get("/v1/agents/count/").json() == before + 1
    assert raw.get("/v1/tools/count").json() >= 5
    assert isinstance(raw.get("/v1/blocks/count").json(), int)
