"""Answers that must have a form (`response_format`): checked whoever the provider is, and asked for again when they have not.

The wrong answers and what the model was told of them stay in the history, so all of it is on record. Bounded: after
`MAX_CORRECTIONS` the run fails and says what was wrong.
"""

import json
from itertools import islice
from typing import Any

from perdure.core.errors import AgentError, ProviderError
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, TextPart
from perdure.core.runs import StopReason
from perdure.loop.turn import Turn
from perdure.tools.json_schema import problems

MAX_CORRECTIONS = 2
_MAX_PROBLEMS = 5
_ASKED = "Your last answer does not have the form it must have: "
_AGAIN = "{asked}{wrong}\nAnswer again with {form} and nothing else: no other text, no code fence."


def verdict(
    turn: Turn, message: Message, stop: StopReason | None
) -> tuple[StopReason | None, Message | None, AgentError | None]:
    """(how the step ends, what the model is told before it goes on, why the run failed).

    `stop`: how it would end. Only an answer that would end the turn is checked.
    """
    wanted = turn.agent.model_settings.response_format
    if stop != "end_turn" or wanted is None or (wrong := problem(wanted, message.text)) is None:
        return stop, None, None
    corrections = sum(_is_correction(item, turn.run.id) for item in turn.context)
    if corrections < MAX_CORRECTIONS and turn.step_count + 1 < turn.run.config.max_steps:
        return None, _correction(message, wanted, wrong), None
    times = "once" if corrections == 0 else f"{corrections + 1} times"
    error = ProviderError(
        f"{turn.model_handle} answered {times} without the form that response_format asks for: {wrong}.",
        detail=message.text[:2000],
    )
    return "invalid_llm_response", None, error


def problem(wanted: dict[str, Any], text: str) -> str | None:
    """What keeps an answer from having the wanted form, in words; None if it has it."""
    kind = wanted.get("type")
    if kind not in ("json_object", "json_schema"):
        return None
    if not text.strip():
        return "it is empty"
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return f"it is not valid JSON ({error})"
    if kind == "json_object":
        return None if isinstance(value, dict) else "it is JSON, but not an object"
    found = list(islice(problems(schema_of(wanted), value), _MAX_PROBLEMS))
    return "; ".join(found) or None


def schema_of(wanted: dict[str, Any]) -> Any:
    return (wanted.get("json_schema") or {}).get("schema") or {}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _correction(message: Message, wanted: dict[str, Any], wrong: str) -> Message:
    form = "one JSON object"
    if wanted.get("type") == "json_schema":
        form = f"JSON that fits this schema: {json.dumps(schema_of(wanted), ensure_ascii=False)}"
    return Message(
        id=new_id("message"),
        role="user",
        created_us=now_us(),
        content=(TextPart(_AGAIN.format(asked=_ASKED, wrong=wrong, form=form)),),
        hidden=True,
        agent_id=message.agent_id,
        conversation_id=message.conversation_id,
        run_id=message.run_id,
        step_id=message.step_id,
    )


def _is_correction(message: Message, run_id: str) -> bool:
    return message.hidden and message.run_id == run_id and message.role == "user" and message.text.startswith(_ASKED)
