"""How much of a window each part of a context takes: by the model's tokenizer, or by the provider's own total, or by length."""

from collections.abc import Sequence

import msgspec

from perdure.core.errors import AgentError
from perdure.core.messages import Message
from perdure.core.model import CountedPrompt, Prompt, ToolSpec
from perdure.loop.cuts import Sizes, message_length
from perdure.loop.turn import Turn
from perdure.providers.base import CountsTokens, Model

LEAST_RATE, MOST_RATE, USUAL_RATE = 1 / 12, 1.0, 1 / 4  # tokens a character


async def sizes_of(turn: Turn, total_tokens: int | None) -> Sizes:
    """`total_tokens`: what the whole context took, where the provider said so."""
    counted = await counted_context(turn, turn.system_text, turn.context)
    if counted is not None:
        each = tuple(float(counted.messages[message.id]) for message in turn.context)
        return Sizes(fixed=counted.total - sum(each), each=each, basis="counted")
    return shared_sizes(fixed_length(turn.system_text, turn.specs), turn.context, total_tokens)


async def counted_context(turn: Turn, system_text: str, messages: Sequence[Message]) -> CountedPrompt | None:
    """The context as the model's own tokenizer counts it; None where that is not known or cannot take these messages."""
    prompt = Prompt(
        model=turn.model_name,
        system=system_text,
        messages=messages,
        tools=turn.specs,
        settings=turn.agent.model_settings,
        system_message_id=turn.system.id,
        thinking_retention=turn.agent.thinking_retention,
    )
    return await counted(turn.model, prompt)


async def counted(model: Model, prompt: Prompt) -> CountedPrompt | None:
    """None where the model's tokenizer is not known, or cannot take the prompt."""
    if not isinstance(model, CountsTokens):
        return None
    try:
        return await model.count_prompt(prompt)
    except AgentError:  # an image, say: the call itself tells what is wrong
        return None


def shared_sizes(fixed_chars: int, messages: Sequence[Message], total_tokens: int | None) -> Sizes:
    """A total shared out by length. One that no text of that length can have is about something else, and is not believed."""
    lengths = [message_length(message) for message in messages]
    chars = fixed_chars + sum(lengths)
    rate = total_tokens / chars if total_tokens and chars else 0.0
    believed = LEAST_RATE <= rate <= MOST_RATE
    rate = rate if believed else USUAL_RATE
    return Sizes(
        fixed=fixed_chars * rate,
        each=tuple(length * rate for length in lengths),
        basis="shared" if believed else "unknown",
    )


def fixed_length(system_text: str, specs: Sequence[ToolSpec]) -> int:
    """Characters of what every prompt of the agent begins with."""
    shown = [(spec.name, spec.description, spec.parameters) for spec in specs]
    return len(system_text) + (len(msgspec.json.encode(shown)) if shown else 0)
