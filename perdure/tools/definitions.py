"""The built-in tools as data: what the model is shown of each, and of what kind it is. `builtin.py` runs them."""

from typing import Any, Literal

from msgspec import Struct

BuiltinType = Literal["letta_core", "letta_memory_core", "letta_sleeptime_core", "letta_multi_agent_core"]


class Definition(Struct, frozen=True, kw_only=True):
    """`properties` is the JSON schema of each argument; the names in `required` must be given."""

    name: str
    tool_type: BuiltinType
    description: str
    properties: dict[str, dict[str, Any]]
    required: tuple[str, ...] = ()
    enable_parallel_execution: bool = False

    @property
    def tags(self) -> tuple[str, ...]:
        return (self.tool_type,)

    @property
    def parameters(self) -> dict[str, Any]:
        return {"type": "object", "properties": self.properties, "required": list(self.required)}

    @property
    def json_schema(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.description, "parameters": self.parameters}


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


def _number(description: str) -> dict[str, Any]:
    return {"type": "integer", "description": description}


def _texts(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string", **more}, "description": description}


_LABEL = _text("The label of the memory block to edit.")
_START = "Only what is from this time on: an ISO 8601 date or time (in your own timezone if none is given)."
_END = "Only what is up to this time, included. A date alone means the end of that day."

_MEMORY = [
    Definition(
        name="core_memory_append",
        tool_type="letta_memory_core",
        description="Add text to the end of a memory block, on a new line.",
        properties={"label": _LABEL, "content": _text("The text to add.")},
        required=("label", "content"),
    ),
    Definition(
        name="core_memory_replace",
        tool_type="letta_memory_core",
        description="Replace text in a memory block, everywhere it occurs. To delete the text, replace it by nothing.",
        properties={
            "label": _LABEL,
            "old_content": _text("The text to replace, exactly as it stands in the block."),
            "new_content": _text("The text to put in its place; may be empty."),
        },
        required=("label", "old_content", "new_content"),
    ),
    Definition(
        name="memory",
        tool_type="letta_memory_core",
        description=(
            "Manage your memory blocks like files, by paths of the form /memories/<label>. Commands: create (path, "
            "description, file_text) makes a new block; str_replace (path, old_string, new_string) replaces text that "
            "occurs exactly once; insert (path, insert_line, insert_text) puts lines in; delete (path) removes a block "
            "from your memory; rename (old_path, new_path) gives a block another label, or (path, description) another "
            "description."
        ),
        properties={
            "command": _text("What to do.", enum=["create", "str_replace", "insert", "delete", "rename"]),
            "path": _text(
                "The block, as /memories/<label>. For all commands; rename may use old_path and new_path instead."
            ),
            "file_text": _text("create: the first value of the new block."),
            "description": _text("create, rename: what belongs in the block."),
            "old_string": _text("str_replace: the text to replace, exactly as it stands in the block."),
            "new_string": _text("str_replace: the text to put in its place; may be empty."),
            "insert_line": _number("insert: the line to insert after; 0: before the first line; left out: at the end."),
            "insert_text": _text("insert: the text to put in."),
            "old_path": _text("rename: the block's path now."),
            "new_path": _text("rename: the block's new path."),
        },
        required=("command",),
    ),
    Definition(
        name="memory_apply_patch",
        tool_type="letta_memory_core",
        description=(
            "Change memory blocks by a patch. For one block write a unified diff of its value: lines beginning with a "
            "space stay, with - go, with + come; @@ separates hunks. For several blocks write sections, each beginning "
            'with "*** Add Block: <label>", "*** Delete Block: <label>" or "*** Update Block: <label>" (followed by a '
            'diff, and "*** Move to: <label>" to rename it). Either the whole patch is applied or nothing.'
        ),
        properties={
            "label": _text("The block that a single diff is for; not used where the patch names its blocks itself."),
            "patch": _text("The patch."),
        },
        required=("label", "patch"),
    ),
]

_SLEEPTIME = [
    Definition(
        name="memory_replace",
        tool_type="letta_sleeptime_core",
        description="Replace text in a memory block. The old text must occur there exactly once.",
        properties={
            "label": _LABEL,
            "old_string": _text(
                "The text to replace, exactly as it stands in the block, spaces and line ends included."
            ),
            "new_string": _text("The text to put in its place; may be empty."),
        },
        required=("label", "old_string", "new_string"),
    ),
    Definition(
        name="memory_insert",
        tool_type="letta_sleeptime_core",
        description="Put text into a memory block as new lines.",
        properties={
            "label": _LABEL,
            "new_string": _text("The text to put in."),
            "insert_line": _number("The line to insert after; 0: before the first line; -1 (default): at the end."),
        },
        required=("label", "new_string"),
    ),
    Definition(
        name="memory_rethink",
        tool_type="letta_sleeptime_core",
        description="Write a memory block anew: its whole value is replaced. Keep what is still true.",
        properties={"label": _LABEL, "new_memory": _text("The block's whole new value.")},
        required=("label", "new_memory"),
    ),
    Definition(
        name="memory_finish_edits",
        tool_type="letta_sleeptime_core",
        description="Say that you are done with editing memory.",
        properties={},
    ),
]

_CORE = [
    Definition(
        name="send_message",
        tool_type="letta_core",
        description="Send a message to the person you talk to.",
        properties={"message": _text("The message.")},
        required=("message",),
    ),
    Definition(
        name="conversation_search",
        tool_type="letta_core",
        description=(
            "Search earlier messages of your conversations, by words and meaning, by who said them and by time. "
            "Without a query the newest that fit are returned."
        ),
        properties={
            "query": _text("What to look for."),
            "roles": _texts("Only messages of these.", enum=["assistant", "user"]),
            "limit": _number("How many to return at most; default 5."),
            "start_date": _text(_START),
            "end_date": _text(_END),
        },
        enable_parallel_execution=True,
    ),
    Definition(
        name="archival_memory_insert",
        tool_type="letta_core",
        description=(
            "File something in archival memory, to be found again by archival_memory_search. "
            "Write it so that it can be understood alone."
        ),
        properties={
            "content": _text("What to remember."),
            "tags": _texts("Words to file it under."),
        },
        required=("content",),
    ),
    Definition(
        name="archival_memory_search",
        tool_type="letta_core",
        description="Search archival memory by words and meaning. Tags and times narrow the search.",
        properties={
            "query": _text("What to look for."),
            "tags": _texts("Only what is filed under these."),
            "tag_match_mode": _text(
                "Whether one of the tags is enough (any, default) or all are needed.", enum=["any", "all"]
            ),
            "top_k": _number("How many to return at most; default 5."),
            "start_datetime": _text(_START),
            "end_datetime": _text(_END),
        },
        required=("query",),
        enable_parallel_execution=True,
    ),
]

_OTHER_AGENT = _text("The id of the agent, agent-...")

_MULTI_AGENT = [
    Definition(
        name="send_message_to_agent_and_wait_for_reply",
        tool_type="letta_multi_agent_core",
        description="Send a message to another agent and get its answer.",
        properties={"message": _text("The message."), "other_agent_id": _OTHER_AGENT},
        required=("message", "other_agent_id"),
        enable_parallel_execution=True,
    ),
    Definition(
        name="send_message_to_agents_matching_tags",
        tool_type="letta_multi_agent_core",
        description=(
            "Send a message to all agents with certain tags and get their answers. You yourself are left out. "
            "Who can be reached has every tag of match_all and, unless it is empty, at least one of match_some."
        ),
        properties={
            "message": _text("The message."),
            "match_all": _texts("Tags an agent must all have; may be empty."),
            "match_some": _texts("Tags of which an agent must have at least one; may be empty."),
        },
        required=("message", "match_all", "match_some"),
        enable_parallel_execution=True,
    ),
    Definition(
        name="send_message_to_agent_async",
        tool_type="letta_multi_agent_core",
        description="Send a message to another agent without waiting: what it says to it does not come back to you.",
        properties={"message": _text("The message."), "other_agent_id": _OTHER_AGENT},
        required=("message", "other_agent_id"),
    ),
]

_GROUP = [
    Definition(
        name="send_message_to_all_agents_in_group",
        tool_type="letta_multi_agent_core",
        description="Send a message to all members of your group and get what they say.",
        properties={"message": _text("The message.")},
        required=("message",),
    ),
    Definition(
        name="choose_next_participant",
        tool_type="letta_multi_agent_core",
        description=(
            "Let a member of your group speak next, and get what it says. It is told what the others said since it spoke "
            "last. When the discussion is done, answer instead."
        ),
        properties={
            "next_speaker_agent_id": _text("The id of the member, agent-..."),
            "message": _text("What you say first, to it and to all who speak later; may be left out."),
        },
        required=("next_speaker_agent_id",),
    ),
]

BUILTIN_TOOLS: dict[str, Definition] = {
    definition.name: definition for definition in (*_CORE, *_MEMORY, *_SLEEPTIME, *_MULTI_AGENT, *_GROUP)
}
