"""The tools by which agents talk to each other. Each is a question to `ToolContext.peers`, told in the old server's shape."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from perdure.core.errors import ToolError
from perdure.tools.base import PeerAnswer, Peers, ToolContext

NO_RESPONSE = "<no response>"


async def _ask(context: ToolContext, message: str, other_agent_id: str) -> str:
    return str(_shown(await _peers(context).ask(other_agent_id.strip(), _said(message))))


async def _ask_tagged(context: ToolContext, message: str, match_all: Sequence[str], match_some: Sequence[str]) -> str:
    if not match_all and not match_some:
        raise ToolError("match_all and match_some are both empty: name at least one tag.")
    answers = await _peers(context).ask_tagged(_said(message), match_all, match_some)
    return str([_shown(answer) for answer in answers])


async def _tell(context: ToolContext, message: str, other_agent_id: str) -> str:
    await _peers(context).tell(other_agent_id.strip(), _said(message))
    return "Successfully sent message"


async def _ask_group(context: ToolContext, message: str) -> str:
    answers = await _peers(context).ask_group(_said(message))
    return str([_shown(answer) for answer in answers])


async def _choose_next(context: ToolContext, next_speaker_agent_id: str, message: str | None = None) -> str:
    said = message if message and message.strip() else None
    return str(_shown(await _peers(context).ask_member(next_speaker_agent_id.strip(), said)))


def _said(message: str) -> str:
    if not message.strip():
        raise ToolError("message is empty: there is nothing to send.")
    return message


def _peers(context: ToolContext) -> Peers:
    if context.peers is None:
        raise ToolError("Other agents can only be reached from within a run: send this agent a message instead.")
    return context.peers


def _shown(answer: PeerAnswer) -> dict[str, Any]:
    if answer.error is not None:
        return {"agent_id": answer.agent_id, "error": answer.error}
    return {"agent_id": answer.agent_id, "response": list(answer.said) or [NO_RESPONSE]}


TOOLS: Mapping[str, Callable[..., Awaitable[str]]] = {
    "send_message_to_agent_and_wait_for_reply": _ask,
    "send_message_to_agents_matching_tags": _ask_tagged,
    "send_message_to_agent_async": _tell,
    "send_message_to_all_agents_in_group": _ask_group,
    "choose_next_participant": _choose_next,
}
