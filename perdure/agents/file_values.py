"""An agent file as values, whatever its format: agents with their messages, blocks and tools under the file's own ids.

Invariant: every id an agent refers to is one of the file's. What the file holds that has no place here is named in `left_out`.
"""

from msgspec import Struct

from perdure.agents.edit_tools import ToolSpec
from perdure.agents.groups import GroupSpec
from perdure.agents.spec import AgentSpec, BlockSpec
from perdure.core.agents import AgentBundle
from perdure.core.messages import Message


class FileTool(Struct, frozen=True, kw_only=True):
    """`spec`: how to make it; None for one that is the server's own, or of a kind that cannot be made from a file."""

    name: str
    tool_type: str
    spec: ToolSpec | None = None


class FileAgent(Struct, frozen=True, kw_only=True):
    """`where`: its place in the file, for errors; `id`: the file's own. `messages`: all of its history, in order, their ids those
    of the file.

    `in_context`: the ids of those in its context, the compiled system message first. `context_window`: as it was.
    """

    where: str
    id: str
    spec: AgentSpec
    context_window: int | None = None
    block_ids: tuple[str, ...] = ()
    tool_ids: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    in_context: tuple[str, ...] = ()


class FileGroup(Struct, frozen=True, kw_only=True):
    """`spec`: with the ids of the file, all of which are in it."""

    where: str
    id: str
    spec: GroupSpec


class AgentFile(Struct, frozen=True, kw_only=True):
    """`blocks`, `tools`: by the file's own ids. `left_out`: what could not be taken, in words for the person who imports it."""

    agents: tuple[FileAgent, ...]
    blocks: dict[str, BlockSpec]
    tools: dict[str, FileTool]
    groups: tuple[FileGroup, ...] = ()
    left_out: tuple[str, ...] = ()


class ImportOptions(Struct, frozen=True, kw_only=True):
    """`name`: of the first agent; without one, `copy_suffix` goes behind the names in the file. `secrets` win over the file's."""

    override_existing_tools: bool = True
    strip_messages: bool = False
    secrets: dict[str, str] = {}
    name: str | None = None
    copy_suffix: str = ""
    model: str | None = None
    embedding: str | None = None
    project_id: str | None = None


class Imported(Struct, frozen=True):
    """`notes`: what was not taken over as it stands in the file, in words."""

    agent_ids: tuple[str, ...]
    notes: tuple[str, ...]


class ExportedAgent(Struct, frozen=True, kw_only=True):
    """One agent as it is to be written: `messages` in order, and the ids of those in its context, in theirs."""

    bundle: AgentBundle
    messages: tuple[Message, ...] = ()
    in_context: tuple[str, ...] = ()
