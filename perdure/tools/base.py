"""The seam between a step and the tools it runs: what a tool is given, and what it leaves to be committed.

A tool never writes to a store. What it changes goes into `ToolContext.effects` and is committed with the step, or
not at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from msgspec import Struct

from perdure.core.agents import Block, Tool
from perdure.core.begun import Begun
from perdure.core.messages import ToolCall, ToolReturn
from perdure.memory.blocks import BlockEdit

TagMatch = Literal["any", "all"]


class PassageInsert(Struct, frozen=True, kw_only=True):
    """A passage to be put into the agent's archival memory. `created_us` None: the time of the commit."""

    id: str
    text: str
    tags: tuple[str, ...] = ()
    created_us: int | None = None


Effect = BlockEdit | PassageInsert


class PassageHit(Struct, frozen=True, kw_only=True):
    """A passage found. `relevance`: higher is better, on a scale of the search's own; None where it has none."""

    id: str
    text: str
    tags: tuple[str, ...] = ()
    created_us: int = 0
    relevance: float | None = None


class MessageHit(Struct, frozen=True, kw_only=True):
    """An earlier message found; `text` is what was said in it."""

    id: str
    role: str
    text: str
    created_us: int


class MemorySearch(Protocol):
    """What an agent can look up. `start` and `end` are microseconds since the epoch, both included; None: no bound."""

    async def search_passages(
        self, query: str, tags: Sequence[str], tag_match_mode: TagMatch, top_k: int, start: int | None, end: int | None
    ) -> Sequence[PassageHit]:
        """The agent's passages, the most relevant first, at most `top_k`. No tags: any."""
        ...

    async def search_messages(
        self, query: str | None, roles: Sequence[str], limit: int, start: int | None, end: int | None
    ) -> Sequence[MessageHit]:
        """Messages of the agent, at most `limit`; without a query the newest. Leaves out tool returns, system messages
        and messages that call `conversation_search` themselves. No roles: any."""
        ...


class PeerAnswer(Struct, frozen=True, kw_only=True):
    """What another agent answered, text by text; or `error`: why it did not."""

    agent_id: str
    said: tuple[str, ...] = ()
    error: str | None = None


class Peers(Protocol):
    """The other agents, as one run reaches them. Who cannot be asked or does not answer is a ToolError where only one is
    meant, else the `error` of its answer."""

    async def ask(self, agent_id: str, message: str) -> PeerAnswer:
        """Wait for an agent's answer."""
        ...

    async def ask_tagged(
        self, message: str, match_all: Sequence[str], match_some: Sequence[str]
    ) -> Sequence[PeerAnswer]:
        """Ask all other agents that have every tag of `match_all` and, if there are any, one of `match_some`."""
        ...

    async def tell(self, agent_id: str, message: str) -> None:
        """Leave a message; nobody waits for what the agent says to it."""
        ...

    async def ask_group(self, message: str) -> Sequence[PeerAnswer]:
        """Ask the members of the group that the agent manages: one after the other where they take turns, else together."""
        ...

    async def ask_member(self, agent_id: str, message: str | None) -> PeerAnswer:
        """Let a member of the group speak next, knowing what the others said since it last did."""
        ...


class Journal(Protocol):
    """Where the calls of a step are kept that may have effects before its commit."""

    async def begin(self, begun: Begun) -> None:
        """Returns once it is durable. An AgentError means that none of the calls may run."""
        ...

    def returned(self, step_id: str, answer: ToolReturn) -> None:
        """One of the step's calls is over, others are not. Durable soon, or with the step."""
        ...


@dataclass(slots=True, kw_only=True)
class ToolContext:
    """What the tools of one step share. `blocks` (by label) is the step's working copy: edits build on each other.

    `secrets`: as the agent has them, sealed. `peers`: None where a tool is run outside of a run.
    """

    agent_id: str
    conversation_id: str
    run_id: str
    step_id: str
    search: MemorySearch
    peers: Peers | None = None
    timezone: str = "UTC"
    blocks: dict[str, Block] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    secrets: Mapping[str, str] = field(default_factory=dict)
    context_window: int = 32_768


class ToolRunner(Protocol):
    async def run(self, call: ToolCall, tool: Tool, args: dict[str, Any], context: ToolContext) -> ToolReturn:
        """Carry out one call. Whatever goes wrong is told in the return; only cancellation is raised."""
        ...
