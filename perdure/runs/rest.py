"""What happens when a manager's turn is over: it is counted, and when it is time its sleeptime agents are given a run each.

The count, the transcript's end and the runs are written with the turn's last step or not at all, so neither a crash nor a
second conversation can lose a turn or show a message twice.
"""

from collections.abc import Sequence

from msgspec import Struct

from perdure.core.agents import Agent
from perdure.core.groups import DEFAULT_BUFFER, DEFAULT_FREQUENCY, Group, Progress
from perdure.core.ids import new_id, new_otid, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.runs import Run, RunConfig
from perdure.memory.times import iso
from perdure.store.base import Tx
from perdure.store.groups import GroupTurn, newest_position, progress
from perdure.store.message_reads import list_messages
from perdure.store.run_queue import QueuedRun, queue_length

MOST_MESSAGES = 500
MOST_CHARS = 2_000
MOST_WAITING = 10
SPEAKERS = ("user", "assistant", "system")


class Rest(Struct, frozen=True):
    """A turn to count, and the runs to begin because of it."""

    turn: GroupTurn
    runs: tuple[QueuedRun, ...] = ()


def next_rest(group: Group, agent: Agent, run_id: str, said: Sequence[Message]) -> Tx[Rest | None]:
    """`said`: what the step that ends the turn adds to what is stored. None: the group is gone."""
    known = yield from progress(group.id)
    if known is None:
        return None
    turn = GroupTurn(group.id, agent.id, known.turns)
    due = yield from _due(group, known, agent.id, said)
    if not due:
        return Rest(turn)
    runs: list[QueuedRun] = []
    text = transcript(due, agent)
    for member in group.agent_ids:
        waiting = yield from queue_length(member, MOST_WAITING)
        if waiting is None:
            continue
        if waiting >= MOST_WAITING:  # it is far behind: what is new now comes with a later turn
            return Rest(turn)
        runs.append(_run_of(member, agent, group, text, run_id))
    newest = yield from newest_position(agent.id)
    return Rest(GroupTurn(group.id, agent.id, known.turns, due[-1].id, newest), tuple(runs))


def _due(group: Group, known: Progress, agent_id: str, said: Sequence[Message]) -> Tx[list[Message]]:
    """The messages the members are to be shown now; none: it is not time."""
    if group.manager_type == "sleeptime" and (known.turns + 1) % (group.frequency or DEFAULT_FREQUENCY):
        return []
    stored = yield from list_messages(
        agent_id=agent_id, after=known.last_message_id, limit=MOST_MESSAGES, strict_cursor=False
    )
    fresh = [message for message in (*stored, *said) if is_shown(message)]
    if group.manager_type == "sleeptime":
        return fresh
    least, most = group.min_buffer or DEFAULT_BUFFER[0], group.max_buffer or DEFAULT_BUFFER[1]
    return fresh[: len(fresh) - least] if len(fresh) > most else []


def is_shown(message: Message) -> bool:
    """What people and agents said; neither compiled prompts nor what only the model is to see."""
    if message.hidden or message.role not in SPEAKERS or not (message.text or message.tool_calls):
        return False
    return message.role != "system" or message.sender_id is not None


def transcript(messages: Sequence[Message], agent: Agent) -> str:
    lines = [_line(message, agent) for message in messages]
    return (
        f"This was said in the conversations of {agent.name} ({agent.id}) since you last looked. Bring the memory "
        "blocks up to date.\n\n<transcript>\n" + "\n".join(lines) + "\n</transcript>"
    )


def _line(message: Message, agent: Agent) -> str:
    calls = [f"[calls {call.name}({call.arguments})]" for call in message.tool_calls]
    text = " ".join([*([message.text] if message.text else []), *calls])
    if len(text) > MOST_CHARS:
        text = f"{text[:MOST_CHARS]}... [{len(text) - MOST_CHARS} more characters]"
    return f"{iso(message.created_us, agent.timezone)} {message.role}: {text}"


def _run_of(member: str, agent: Agent, group: Group, text: str, parent_run_id: str) -> QueuedRun:
    now = now_us()
    run = Run(
        id=new_id("run"),
        agent_id=member,
        conversation_id=member,
        status="created",
        created_us=now,
        config=RunConfig(include_pings=False, background=True),
        background=True,
        metadata={
            "run_type": "sleeptime",
            "group_id": group.id,
            "parent_run_id": parent_run_id,
            "callers": [agent.id],
            "waiting": [],
        },
    )
    message = Message(
        id=new_id("message"),
        role="user",
        created_us=now,
        content=(TextPart(text),),
        otid=new_otid(),
        sender_id=agent.id,
        group_id=group.id,
        agent_id=member,
        conversation_id=member,
        run_id=run.id,
    )
    return QueuedRun(run, (message,))
