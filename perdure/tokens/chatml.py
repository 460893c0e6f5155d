"""ChatML without thinking, as SmolLM2 and Qwen2.5 have it.

A family's own default system prompt stands in where an agent has none. SmolLM2's template has no tools: we describe
them in the system turn the way Hermes and Qwen2.5 do, and give their answers in a user turn, since the model
knows no other roles.
"""

from collections.abc import Sequence

from perdure.tokens.assembly import Assembly
from perdure.tokens.base import Tokenizer
from perdure.tokens.turns import TurnsRenderer
from perdure.tokens.utterances import Utterance


class ChatMlRenderer(TurnsRenderer):
    def __init__(self, tokenizer: Tokenizer, *, default_system: str = "", template: str | None = None) -> None:
        super().__init__(tokenizer, name="chatml", config=default_system, template=template)
        self._default_system = default_system

    def _system_text(self, system: str) -> str:
        return system or self._default_system

    def _assistant_text(self, turn: Utterance, *, keep_reasoning: bool, is_last: bool) -> list[tuple[str, bool]]:
        return [(turn.text, True)]

    def _generation(self, assembly: Assembly, turns: Sequence[Utterance], enable_thinking: bool | None) -> bool:
        assembly.template("<|im_start|>assistant\n")
        return False
