"""The working state of one run, and what a step of it leaves to be committed."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from perdure.core.agents import Agent, Block, Tool
from perdure.core.approvals import Pending
from perdure.core.begun import Begun
from perdure.core.effects import ToolOutcome
from perdure.core.errors import AgentError
from perdure.core.events import Event
from perdure.core.messages import Message, ToolCall, ToolReturn
from perdure.core.model import ModelDone, ToolSpec
from perdure.core.runs import Run, Step, StopReason
from perdure.loop.broken_off import CutOff
from perdure.providers.base import Model, TokenStream
from perdure.tools.base import Journal

if TYPE_CHECKING:
    from perdure.loop.legacy import Legacy


class ToolExecutor(Protocol):
    """Runs tool calls. Never raises for what a tool does; an AgentError means that the run cannot go on.

    `returned`: call id -> what the calls of the step under way have come to, those that act outside of it.
    """

    returned: dict[str, ToolReturn]

    async def execute(
        self,
        calls: Sequence[ToolCall],
        *,
        refused: Mapping[str, str],
        prefilled: Mapping[str, Mapping[str, Any]],
        step_id: str,
        keep: Mapping[str, ToolReturn],
    ) -> ToolOutcome:
        """`refused`: call id -> what to tell the model instead of running it. `prefilled`: call id -> arguments that win.
        `keep`: answers to calls that must not run again (a step whose commit met a changed block is run again)."""
        ...

    def acts_outside(self, calls: Sequence[ToolCall], but: Container[str]) -> bool:
        """Whether any of the calls, leaving out those in `but`, can have effects that are not the step's own."""
        ...

    def recalled(
        self, calls: Sequence[ToolCall], refused: Container[str], returns: Mapping[str, ToolReturn]
    ) -> dict[str, ToolReturn]:
        """Answers to the calls of a step that was interrupted, but for those that are to be run (again)."""
        ...


@dataclass(slots=True, kw_only=True)
class Turn:
    """One run's working state; the loop is its only writer.

    `context`: the messages in context, without the system message. `tools`: by name, in the agent's order.
    `called`: the tools called so far in this request with what they returned, for the tool rules. `asks`: names of the tools
    whose calls wait for an answer, of which the client runs those in `client_tools`. `answer`: what was said to the approval
    request the context ends with; `later`: messages to go behind its calls' returns.
    `window`: the context window in tokens, where anybody has told it; `compact_at`: as in `Prompt`.
    `legacy`: how agents of the older types do it. `journal`: where calls that act outside of their step are put on record first.
    `begun`: the step whose calls are under way. `cut_off`: the model call that was called off. `interrupted`: the step that an
    earlier worker of the run was in the middle of. `attempts`: how often the next step was tried already and compacted after.
    `at_once`: the model for calls on the side, where those of `model` may have to wait for a batch.
    """

    run: Run
    agent: Agent
    tools: dict[str, Tool]
    specs: list[ToolSpec]
    system: Message
    system_text: str
    context: list[Message]
    model: Model
    model_handle: str
    model_name: str
    provider_name: str
    endpoint: str | None
    executor: ToolExecutor
    blocks: dict[str, Block]
    tokens: TokenStream | None = None
    window: int | None = None
    compact_at: int | None = None
    step_count: int = 0
    called: list[tuple[str, str]] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    asks: frozenset[str] = frozenset()
    client_tools: frozenset[str] = frozenset()
    answer: Message | None = None
    later: tuple[Message, ...] = ()
    legacy: "Legacy | None" = None
    journal: Journal | None = None
    begun: Begun | None = None
    cut_off: CutOff | None = None
    interrupted: Begun | None = None
    attempts: int = 0
    at_once: Model | None = None


class StepResult(Struct, frozen=True, kw_only=True):
    """One step, done and not yet committed.

    `messages`: to be stored, in order. `events`: to be published after the commit. `stop`: the run ends with this step.
    `error`: why it failed; nothing of the model's answer is stored then, unless it only had a wrong form. `context`: what the
    step adds to the context, where that is not `messages` themselves. `parked`: the calls the run stops to wait for.
    `resumed`: the calls of a parked step were answered, the model was not called. `calls`: what `outcome`
    answers, as run; `told`: what the model is told after it.
    """

    step: Step
    messages: tuple[Message, ...] = ()
    events: tuple[Event, ...] = ()
    done: ModelDone | None = None
    outcome: ToolOutcome | None = None
    refused: dict[str, str] = {}
    prefilled: dict[str, dict[str, Any]] = {}
    stop: StopReason | None = None
    error: AgentError | None = None
    context: tuple[Message, ...] | None = None
    parked: Pending | None = None
    resumed: bool = False
    told: str | None = None
    calls: tuple[ToolCall, ...] = ()
