"""The token record of a run as the wire's `turns`: what each call saw and sampled, and what each tool answered.

Built from the ledger's calls and the stored messages alone, so the answer to a request and a later look at the run agree.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from perdure.core.messages import Message, TextPart, ToolReturn
from perdure.core.tokens import TokenCall, bytes_to_floats, bytes_to_ids
from perdure.store import ledger
from perdure.store.base import Tx
from perdure.store.messages import messages_of_run


def assistant_turn(call: TokenCall, prompt_ids: Sequence[int], message: Message | None) -> dict[str, Any]:
    """One call. `prompt_ids` [prompt_len] are the ids before its completion; text is what the client was shown."""
    output = bytes_to_ids(call.completion_ids).tolist()
    logprobs = bytes_to_floats(call.logprobs).tolist()
    tops = call.top_logprobs
    return {
        "role": "assistant",
        "input_ids": list(prompt_ids),
        "output_ids": output,
        "output_token_logprobs": [
            [logprob, token_id, tops[at] if tops else None]
            for at, (logprob, token_id) in enumerate(zip(logprobs, output, strict=True))
        ],
        "content": message.said if message is not None else "",
        "tool_name": None,
        "finish_reason": call.finish.type,
        "call_id": call.id,
        "segment_id": call.segment_id,
        "step_id": call.step_id,
        "weight_version": call.versions[-1].version if call.versions else None,
        "logprob_semantics": call.logprob_semantics,
    }


def tool_turns(message: Message, step_id: str | None) -> list[dict[str, Any]]:
    return [
        {
            "role": "tool",
            "output_ids": None,
            "output_token_logprobs": None,
            "content": _text(answer),
            "tool_name": answer.name,
            "tool_call_id": answer.tool_call_id,
            "step_id": step_id,
        }
        for answer in message.tool_returns
    ]


def _text(answer: ToolReturn) -> str:
    if isinstance(answer.content, str):
        return answer.content
    return "\n".join(part.text for part in answer.content if isinstance(part, TextPart))


def turns_of_run(
    run_id: str, segment_calls: Iterable[Sequence[TokenCall]], messages: Sequence[Message]
) -> list[dict[str, Any]]:
    """All turns of a run, in order.

    `segment_calls`: for each segment the run touched, all its calls in order (those of earlier runs give the prompt's
    beginning). `messages`: the run's stored messages in order.
    """
    by_step: dict[str, dict[str, Any]] = {}
    said = {message.step_id: message for message in messages if message.role == "assistant" and message.step_id}
    for calls in segment_calls:
        stream: array[int] = array("i")
        for call in calls:
            stream.extend(bytes_to_ids(call.delta_ids))
            if call.run_id == run_id:
                by_step[call.step_id] = assistant_turn(call, stream, said.get(call.step_id))
            stream.extend(bytes_to_ids(call.completion_ids))
    turns: list[dict[str, Any]] = []
    placed: set[str] = set()
    for message in messages:
        if message.role == "summary":  # no turn of the agent's
            continue
        if message.step_id in by_step and message.step_id not in placed:
            placed.add(message.step_id)
            turns.append(by_step[message.step_id])
        if message.role == "tool":
            turns.extend(tool_turns(message, message.step_id))
    return turns


def stored_turns(run_id: str) -> Tx[list[dict[str, Any]]]:
    """The turns of a run, from the ledger; [] where no engine gave token ids."""
    calls = yield from ledger.calls_of_run(run_id)
    segments: list[Sequence[TokenCall]] = []
    for segment_id in dict.fromkeys(call.segment_id for call in calls):
        found = yield from ledger.segment_with_calls(segment_id)
        if found is not None:
            segments.append(found[1])
    return turns_of_run(run_id, segments, (yield from messages_of_run(run_id)))
