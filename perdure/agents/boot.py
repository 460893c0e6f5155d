"""How the history of an agent of the older types begins: it speaks once, and is told that nobody was here before.

Invariant: what it says is a call like those it has to write itself, with its return, so that the model sees how it is done.
"""

import json
from typing import Any

from perdure.core.agents import Agent, Tool
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart, ToolCall, ToolReturn
from perdure.loop.legacy import SPEAKER, SPOKEN, legacy_of
from perdure.loop.shown import SEND_MESSAGE
from perdure.memory.times import spelt
from perdure.tools.builtin import SENT

THOUGHT = "I have just been started. I say something first, to see that I am heard."
GREETING = "I am here."
NEVER = "Never (first login)"


def boot_sequence(agent: Agent, tools: tuple[Tool, ...]) -> tuple[Message, ...]:
    """Of an agent of the newer types, or one that has not what it speaks with: nothing."""
    legacy = legacy_of(agent, tools, SEND_MESSAGE)
    if legacy is None or all(tool.name != SPEAKER for tool in tools):
        return ()
    form = legacy.form_of(SPEAKER)
    thought = {form.thoughts: THOUGHT} if form.thoughts is not None else {}
    call = ToolCall(f"call_{new_id('call')[-12:]}", SPEAKER, json.dumps({**thought, SPOKEN: GREETING}))
    now = now_us()
    login = {"type": "login", "last_login": NEVER, "time": spelt(now, agent.timezone)}
    common: dict[str, Any] = {"created_us": now, "agent_id": agent.id, "conversation_id": agent.id}
    answer = ToolReturn(call.id, SPEAKER, "success", SENT)
    return (
        Message(id=new_id("message"), role="assistant", tool_calls=(call,), legacy=form, **common),
        Message(id=new_id("message"), role="tool", tool_returns=(answer,), legacy=form, **common),
        Message(id=new_id("message"), role="user", content=(TextPart(json.dumps(login)),), **common),
    )
