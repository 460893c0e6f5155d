"""Property: whatever an agent is and whatever was said, exported and imported it is exported the same again."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from perdure.api.agentfile.messages import MessageReader, file_message
from perdure.core.messages import (
    Approval,
    CompactionStats,
    HiddenReasoningPart,
    ImagePart,
    Message,
    Parked,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolReturn,
)
from tests.unit.api.test_agent_files import exported, imported, timeless

_text = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
_packed_look = st.sampled_from(
    ['{"type": "user_message", "message": "x"}', '{"status": "OK", "message": {"a": 1}}', '{"status": "Failed"}', "{"]
)
_said = st.one_of(_text, _packed_look)
_name = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
_time = st.integers(1_600_000_000_000_000, 1_900_000_000_000_000)
_image = st.one_of(
    st.builds(ImagePart, url=st.just("https://pictures.test/1.png")),
    st.builds(
        ImagePart, media_type=st.just("image/png"), data=st.just("iVBORw0KGgo="), detail=st.sampled_from([None, "low"])
    ),
)
_thought = st.one_of(
    st.builds(ReasoningPart, _text, st.booleans(), st.sampled_from([None, "sig"])),
    st.builds(HiddenReasoningPart, st.sampled_from([None, "opaque"])),
)
_parts = st.lists(st.one_of(st.builds(TextPart, _said, st.sampled_from([None, "sig"])), _thought), max_size=3).map(
    tuple
)
_signature = st.sampled_from([None, "sig"])
_place = st.sampled_from([None, 0, 2])
_calls = st.lists(st.builds(ToolCall, _name, _name, _said, _signature, _place), max_size=2).map(tuple)
_logs = st.one_of(st.none(), st.lists(_text, min_size=1, max_size=2).map(tuple))
_returns = st.lists(
    st.builds(
        ToolReturn,
        _name,
        _name,
        st.sampled_from(["success", "error"]),
        st.one_of(_said, st.lists(st.one_of(st.builds(TextPart, _text), _image), min_size=1, max_size=2).map(tuple)),
        _logs,
        _logs,
        st.booleans(),
    ),
    min_size=1,
    max_size=2,
).map(tuple)
_ids = {"id": st.just("message-1"), "created_us": _time}
_messages = st.one_of(
    st.builds(
        Message,
        role=st.sampled_from(["user", "summary", "system"]),
        content=st.lists(st.one_of(st.builds(TextPart, _said), _image), min_size=1, max_size=2).map(tuple),
        otid=st.one_of(st.none(), _name),
        name=st.one_of(st.none(), _name),
        sender_id=st.one_of(st.none(), _name),
        hidden=st.booleans(),
        **_ids,
    ),
    st.builds(
        Message,
        role=st.just("assistant"),
        content=_parts,
        tool_calls=_calls,
        calls_at=st.one_of(st.none(), st.integers(0, 3)),
        model=st.sampled_from([None, "openai/small"]),
        interrupted=st.sampled_from([None, "cancelled", "retried"]),
        **_ids,
    ),
    st.builds(Message, role=st.just("tool"), tool_returns=_returns, **_ids),
    st.builds(
        Message,
        role=st.just("approval"),
        content=_parts,
        tool_calls=_calls,
        parked=st.one_of(
            st.none(), st.builds(Parked, order=st.just(("a", "b")), called=st.just((("t", "r"),)), note=_text)
        ),
        **_ids,
    ),
    st.builds(
        Message,
        role=st.just("summary"),
        content=st.just((TextPart("before"),)),
        compaction=st.just(CompactionStats("t", 9, 5, 2, 100)),
        is_err=st.sampled_from([None, True]),
        **_ids,
    ),
    st.builds(
        Message,
        role=st.just("approval"),
        approvals=st.lists(
            st.builds(
                Approval,
                _name,
                st.booleans(),
                st.one_of(st.none(), _text),
                st.sampled_from([None, "{}"]),
                st.booleans(),
            ),
            max_size=2,
        ).map(tuple),
        tool_returns=st.one_of(st.just(()), _returns),
        **_ids,
    ),
)


@settings(max_examples=300)
@given(_messages)
@example(
    Message(
        id="message-1", role="tool", created_us=1, tool_returns=(ToolReturn("c", "t", "error", '{"status": "OK"}'),)
    )
)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    written = json.loads(json.dumps(file_message(message, agent_id="agent-0", timezone="Asia/Tokyo")))
    read = MessageReader(packs_users=False).message(written, "message-1", "here")
    assert read == message


def test_every_field_of_a_message_is_written_or_is_the_servers_own() -> None:
    """A field that is new has to find its place in a file, and in the strategies above."""
    written = {
        "id",
        "role",
        "created_us",
        "content",
        "tool_calls",
        "tool_returns",
        "approvals",
        "otid",
        "name",
        "sender_id",
    }
    written |= {"group_id", "batch_item_id", "model", "hidden", "calls_at", "is_err", "parked", "compaction", "legacy"}
    written |= {"interrupted"}
    own = {"agent_id", "conversation_id", "run_id", "step_id", "evicted"}
    assert set(Message.__struct_fields__) == written | own


_label = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
_agents = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["openai/small"]),
        "name": st.from_regex(r"[A-Za-z0-9 _'-]{0,10}[a-z]", fullmatch=True),
        "system": st.one_of(_text, st.just("Before {CORE_MEMORY} after")),
        "agent_type": st.sampled_from(["letta_v1_agent", "memgpt_agent", "react_agent", "workflow_agent"]),
        "description": st.one_of(st.none(), _text),
        "metadata": st.dictionaries(
            _label, st.one_of(_text, st.integers(-5, 5), st.lists(_text, max_size=2)), max_size=2
        ),
        "tags": st.lists(_label, max_size=3, unique=True),
        "secrets": st.dictionaries(_label, st.just(""), max_size=2),
        "timezone": st.sampled_from(["UTC", "America/New_York"]),
        "context_window_limit": st.integers(100, 8192),
        "memory_rendering": st.sampled_from(["append", "recompile"]),
        "thinking_retention": st.sampled_from(["all", "tool_cycle"]),
        "hidden": st.sampled_from([None, True, False]),
        "include_base_tools": st.booleans(),
        "memory_blocks": st.lists(
            st.fixed_dictionaries(
                {"label": _label, "value": _text},
                optional={"limit": st.integers(20, 99), "description": _text, "read_only": st.booleans()},
            ),
            max_size=3,
            unique_by=lambda block: block["label"],
        ),
        "tool_rules": st.lists(
            st.one_of(
                st.builds(lambda name: {"type": "exit_loop", "tool_name": name}, _name),
                st.builds(
                    lambda a, b: {"type": "constrain_child_tools", "tool_name": a, "children": [b]}, _name, _name
                ),
                st.builds(
                    lambda a, n: {"type": "max_count_per_step", "tool_name": a, "max_count_limit": n}, _name, st.just(2)
                ),
            ),
            max_size=2,
        ),
        "model_settings": st.fixed_dictionaries(
            {"provider_type": st.just("openai")},
            optional={
                "temperature": st.floats(0, 2),
                "max_output_tokens": st.integers(1, 999),
                "parallel_tool_calls": st.booleans(),
                "reasoning": st.just({"reasoning_effort": "low"}),
                "response_format": st.just({"type": "json_object"}),
                "stop": st.just(["END"]),
                "seed": st.integers(0, 9),
                "unheard_of": st.just({"kept": True}),
            },
        ),
    },
    optional={
        "max_tokens": st.integers(1, 99),
        "parallel_tool_calls": st.booleans(),
        "response_format": st.just({"type": "text"}),
        "compaction_settings": st.just({"mode": "all"}),
        "initial_message_sequence": st.lists(
            st.builds(lambda said: {"role": "user", "content": said or "-"}, _said), max_size=3
        ),
    },
)


@pytest.mark.parametrize("legacy", [False, True])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=_agents)
async def test_an_agent_is_exported_the_same_after_an_import(http: httpx.AsyncClient, body: Any, legacy: bool) -> None:
    made = await http.post("/v1/agents/", json=body)
    assert made.status_code == 200, made.text
    first = await exported(http, made.json()["id"], use_legacy_format=legacy)
    again, notes = await imported(http, first, append_copy_suffix="false")
    assert [note for note in notes if "secrets" not in note] == []
    assert timeless(await exported(http, again, use_legacy_format=legacy)) == timeless(first)
