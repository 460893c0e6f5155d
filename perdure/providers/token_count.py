"""How many tokens each part of a prompt takes, by the model's own tokenizer and template.

Invariant: the parts add up to the length of the prompt as it would be rendered.
"""

from collections.abc import Sequence

from perdure.core.model import CountedPrompt, Prompt, ToolSpec
from perdure.tokens.base import Rendered, Renderer


def count_prompt(renderer: Renderer, prompt: Prompt) -> CountedPrompt:
    """Rendered twice: what the tools take is the difference that leaving them out makes."""
    shown = prompt.tools if prompt.shown_tools is None else prompt.shown_tools
    bare = _rendered(renderer, prompt, ())
    total = len(_rendered(renderer, prompt, shown).ids) if shown else len(bare.ids)
    parts: dict[str, int] = {}
    for span in bare.spans:
        parts[span.message_id] = parts.get(span.message_id, 0) + span.length
    system = parts.pop(prompt.system_message_id, 0) if prompt.system_message_id else 0
    messages = {message.id: parts.get(message.id, 0) for message in prompt.messages}
    return CountedPrompt(
        total=total,
        system=system,
        tools=total - len(bare.ids),
        messages=messages,
        template=len(bare.ids) - system - sum(messages.values()),
    )


def _rendered(renderer: Renderer, prompt: Prompt, tools: Sequence[ToolSpec]) -> Rendered:
    return renderer.render(
        prompt.system,
        prompt.messages,
        tools,
        enable_thinking=prompt.settings.enable_thinking,
        retention=prompt.thinking_retention,
        system_message_id=prompt.system_message_id,
    )
