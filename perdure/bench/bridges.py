"""What it costs to go on with a long conversation: the plan of a call whose stream already holds many ids."""

import time
from array import array
from typing import Literal

from perdure.core.agents import ModelSettings
from perdure.core.ids import new_id
from perdure.core.messages import Message, TextPart
from perdure.core.model import Prompt, TokenCapture
from perdure.core.tokens import Finish, TokenCall, floats_to_bytes, ids_to_bytes
from perdure.providers.base import TokenStream
from perdure.providers.token_plan import extend, make_plan
from perdure.tokens.base import Renderer

TOKENS = 65_536
ANSWER = 512


def bridge_ms(
    renderer: Renderer,
    *,
    tokens: int = TOKENS,
    retention: Literal["all", "tool_cycle"] = "all",
    rounds: int = 7,
) -> float:
    """CPU milliseconds of the cheapest of some rounds, for a user's short message after `tokens` ids.

    AssertionError if the prompt could not be extended.
    """
    asked = _said("user", "Hello.")
    stream, first = TokenStream(), _prompt([asked], retention)
    plan = make_plan(renderer, first, stream, "bench/m", "m")
    filler = (renderer.tokenizer.encode("the quick brown fox jumps over the lazy dog ") * tokens)[: tokens - ANSWER]
    call = _call(first, plan.segment.id, [*plan.delta, *filler], plan.delta[:1] * ANSWER)
    extend(stream, TokenCapture(call=call, segment=plan.begins))
    again = _prompt([asked, _answer(first), _said("user", "And then?")], retention)
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time_ns()
        made = make_plan(renderer, again, stream, "bench/m", "m")
        best = min(best, (time.process_time_ns() - started) / 1e6)
        if made.bridge != "bridge":
            raise AssertionError(f"{renderer.info.name} begins a new segment: {made.segment.cause}")
    return best


def _said(role: Literal["user", "assistant"], text: str, message_id: str = "") -> Message:
    return Message(id=message_id or new_id("message"), role=role, created_us=0, content=(TextPart(text),))


def _prompt(messages: list[Message], retention: Literal["all", "tool_cycle"]) -> Prompt:
    return Prompt(
        model="m",
        system="Be brief.",
        messages=messages,
        assistant_message_id=new_id("message"),
        thinking_retention=retention,
        settings=ModelSettings(enable_thinking=False),  # no thinking is open that the next turn would drop
    )


def _answer(asked: Prompt) -> Message:
    return _said("assistant", "Hm.", asked.assistant_message_id)


def _call(asked: Prompt, segment_id: str, delta: list[int], completion: list[int]) -> TokenCall:
    return TokenCall(
        id=new_id("call"),
        segment_id=segment_id,
        conversation_id="",
        agent_id="",
        run_id="",
        step_id="",
        created_us=0,
        delta_ids=ids_to_bytes(array("i", delta)),
        completion_ids=ids_to_bytes(array("i", completion)),
        logprobs=floats_to_bytes([0.0] * len(completion)),
        prompt_len=len(delta),
        length=len(completion),
        finish=Finish("length"),
        engine="bench",
        message_ids=tuple(message.id for message in asked.messages),
        assistant_message_id=asked.assistant_message_id,
    )
