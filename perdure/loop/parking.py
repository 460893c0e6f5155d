"""Steps that wait for someone: how one is parked, and how it goes on once it is answered.

Invariant: a parked step has run none of its calls. Once it is answered, one tool message holds a return for each of them, in the
model's order, under the step's own id.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from perdure.core.approvals import Pending, PendingCall, denial
from perdure.core.begun import Begun
from perdure.core.events import Event
from perdure.core.expand import expand
from perdure.core.history import joined
from perdure.core.ids import new_id, now_us, preceding_id
from perdure.core.messages import Message, Parked, TextPart, ToolCall, ToolReturn
from perdure.core.model import ModelDone
from perdure.core.runs import ClientTool, Step
from perdure.loop import rules
from perdure.loop.begun import run_calls
from perdure.loop.endings import after_calls, note, unreadable
from perdure.loop.shown import shown
from perdure.loop.turn import StepResult, Turn
from perdure.loop.verdicts import Verdicts, filled_in, verdicts_on
from perdure.tools.registry import cut_client_return

_EDITED = "[The approver changed the arguments of this call; it was run with "


def asking_names(
    tool_rules: Iterable[rules.Rule], tools: Iterable[str], client_tools: Sequence[ClientTool]
) -> frozenset[str]:
    """The tools whose calls wait for an answer: those a person must approve, and the client's own."""
    tool_rules = list(tool_rules)
    ruled = (name for name in tools if rules.requires_approval(tool_rules, name)) if tool_rules else ()
    return frozenset((*ruled, *(tool.name for tool in client_tools)))


def waiting_calls(turn: Turn, calls: Sequence[ToolCall], refused: Mapping[str, str]) -> frozenset[str]:
    """The ids of the calls somebody has to answer; what a rule refuses anyway needs no answer."""
    return frozenset(call.id for call in calls if call.name in turn.asks and call.id not in refused)


def park(
    turn: Turn, step: Step, message: Message, done: ModelDone, waiting: frozenset[str], verdicts: Verdicts
) -> StepResult:
    """Store the step's calls unexecuted and end the run. Who is asked sees the arguments that will be used."""
    calls = message.tool_calls
    answer = msgspec.structs.replace(message, tool_calls=tuple(call for call in calls if call.id not in waiting))
    if not answer.tool_calls:
        answer = msgspec.structs.replace(answer, calls_at=None)
        answer = msgspec.structs.replace(answer, hidden=not shown(answer))
    request = Message(
        id=preceding_id(message.id),
        role="approval",
        created_us=message.created_us,
        tool_calls=tuple(filled_in(call, verdicts.prefilled.get(call.id)) for call in calls if call.id in waiting),
        agent_id=message.agent_id,
        conversation_id=message.conversation_id,
        run_id=message.run_id,
        step_id=message.step_id,
        model=message.model,
        legacy=message.legacy,
        parked=Parked(
            order=tuple(call.id for call in calls),
            called=remembered(turn.called),
            note=unreadable(done),
            calls_at=done.calls_at,
        ),
    )
    pending = Pending(
        request_id=request.id,
        run_id=turn.run.id,
        step_id=step.id,
        at_us=now_us(),
        calls=tuple(
            PendingCall(call.id, call.name, call.id in waiting, call.name in turn.client_tools) for call in calls
        ),
    )
    streams = turn.run.config.stream_tokens
    return StepResult(
        step=msgspec.structs.replace(step, stop_reason="requires_approval"),
        messages=(answer, request),
        done=done,
        events=() if streams else (*_events(turn, answer), *_events(turn, request)),
        stop="requires_approval",
        context=(joined(answer, request),),
        parked=pending,
    )


def remembered(called: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Rules look at which tools were called, and at what the last one returned."""
    return (*((name, "") for name, _ in called[:-1]), *called[-1:])


async def resume(turn: Turn) -> StepResult:
    """Answer the calls of the parked step that the context ends with, as `turn.answer` says."""
    request, answer = turn.context[-1], turn.answer
    assert answer is not None and request.parked is not None and request.step_id is not None
    given = given_returns(turn, request, answer)
    edited = {each.tool_call_id: each.arguments for each in answer.approvals if each.arguments is not None}
    calls = tuple(_edited(call, edited) for call in request.tool_calls)
    denied = {call_id for call_id, each in given.items() if not each.ran}
    asked = {each.tool_call_id for each in (*answer.approvals, *answer.tool_returns)}
    verdicts = verdicts_on(turn, calls, denied=denied, trusted=asked)
    step = _step_of(turn, request)
    outcome = await run_calls(turn, Begun(step=step), calls, verdicts, given)
    if turn.legacy is None or given:
        stop, told = after_calls(turn, outcome, broken=verdicts.broken)
    else:
        stop, told = turn.legacy.after_call(turn, request.tool_calls, outcome, broken=verdicts.broken)
    result = StepResult(
        step=step,
        outcome=outcome,
        refused=verdicts.refused,
        prefilled=verdicts.prefilled,
        resumed=True,
        calls=calls,
        # something denied, or done by the client, is for the model to answer to
        stop=None if given and stop == "tool_rule" else stop,
        told=told,
    )
    return answered(turn, result)


def answered(turn: Turn, result: StepResult) -> StepResult:
    """The result with the messages and events its outcome comes to."""
    request, answer = turn.context[-1], turn.answer
    assert result.outcome is not None and answer is not None and request.parked is not None
    edited = {each.tool_call_id: each.arguments for each in answer.approvals if each.arguments is not None}
    common: dict[str, Any] = {
        "agent_id": turn.agent.id,
        "conversation_id": turn.run.conversation_id,
        "run_id": turn.run.id,
    }
    returns = tuple(_with_note(each, edited.get(each.tool_call_id)) for each in result.outcome.returns)
    tool = Message(
        id=new_id("message"),
        role="tool",
        created_us=now_us(),
        tool_returns=returns,
        step_id=request.step_id,
        legacy=request.legacy,
        **common,
    )
    after: list[Message] = [tool]
    after += [note(text, step_id=request.step_id, **common) for text in (request.parked.note, result.told) if text]
    after.extend(turn.later)
    return msgspec.structs.replace(result, messages=tuple(after), events=_events(turn, tool))


def _events(turn: Turn, message: Message) -> tuple[Event, ...]:
    return tuple(expand(message) if turn.legacy is None else shown(message, turn.legacy.speech))


def given_returns(turn: Turn, request: Message, answer: Message) -> dict[str, ToolReturn]:
    """The returns that need no tool of ours: the client's own, and one for each denial."""
    names = {call.id: call.name for call in request.tool_calls}
    given: dict[str, ToolReturn] = {}
    for each in answer.tool_returns:
        content = each.content
        if isinstance(content, str):
            content = cut_client_return(content, turn.agent.context_window)
        name = names.get(each.tool_call_id, each.name)
        given[each.tool_call_id] = msgspec.structs.replace(each, name=name, content=content)
    for approval in answer.approvals:
        if not approval.approve:
            name = names.get(approval.tool_call_id, "")
            told = denial(name, approval.reason)
            given[approval.tool_call_id] = ToolReturn(approval.tool_call_id, name, "error", told, ran=False)
    return given


def called_before(messages: Sequence[Message], run_id: str) -> list[tuple[str, str]]:
    """The tools called so far in the request, oldest first: by this run, before an approval it carries out, and by the failed
    run that it takes up. What a compaction took out of the context, its summary knows."""
    first = messages[0].evicted if messages else None
    counted = frozenset(first.pinned if first is not None else ())
    found: list[tuple[str, str]] = []
    owner: str | None = run_id
    later: Message | None = None
    for message in reversed(messages):
        if message.id in counted or (message.hidden and message.role == "system"):
            continue  # a note on memory is of no run
        if message.parked is not None:
            found.extend(reversed(message.parked.called))
            break
        if message.run_id != owner:
            if _is_input(later or message):
                break
            owner = message.run_id  # a run that begins with no input goes on where another failed
        later = message
        if message.evicted is not None:
            found.extend(reversed(message.evicted.called))
        if message.role == "tool":
            found.extend((each.name, text_of(each)) for each in reversed(message.tool_returns) if each.ran)
    return found[::-1]


def _is_input(message: Message) -> bool:
    """What a run begins with, unlike what it was told on its way."""
    return message.role in ("user", "system") and not message.hidden


def text_of(answer: ToolReturn) -> str:
    """What the tool returned, without what is said of the arguments an approver changed."""
    content = answer.content
    text = content if isinstance(content, str) else "\n".join(p.text for p in content if isinstance(p, TextPart))
    return text.partition("\n")[2] if text.startswith(_EDITED) else text


def _edited(call: ToolCall, edited: Mapping[str, str]) -> ToolCall:
    arguments = edited.get(call.id)
    return call if arguments is None else msgspec.structs.replace(call, arguments=arguments)


def _with_note(answer: ToolReturn, arguments: str | None) -> ToolReturn:
    if arguments is None:
        return answer
    note = (
        f"{_EDITED}{msgspec.json.format(arguments, indent=-1)}]"  # one line, so that it can be told from what follows
    )
    if isinstance(answer.content, str):
        return msgspec.structs.replace(answer, content=f"{note}\n{answer.content}")
    return msgspec.structs.replace(answer, content=(TextPart(note), *answer.content))


def _step_of(turn: Turn, request: Message) -> Step:
    assert request.step_id is not None
    return Step(
        id=request.step_id,
        run_id=request.run_id or turn.run.id,
        agent_id=turn.agent.id,
        conversation_id=turn.run.conversation_id,
        created_us=request.created_us,
        status="success",
    )
