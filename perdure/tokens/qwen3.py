"""Qwen3: ChatML with thinking.

Ids equal those of Qwen3's own template for retention "tool_cycle"; "all" keeps the thinking of every turn, so that a
conversation only ever grows.
"""

from collections.abc import Sequence

from perdure.tokens.assembly import Assembly
from perdure.tokens.base import Tokenizer
from perdure.tokens.turns import TurnsRenderer
from perdure.tokens.utterances import Utterance

NO_THOUGHTS = "<think>\n\n</think>\n\n"


class Qwen3Renderer(TurnsRenderer):
    def __init__(self, tokenizer: Tokenizer, *, template: str | None = None) -> None:
        super().__init__(tokenizer, name="qwen3", template=template)

    def _assistant_text(self, turn: Utterance, *, keep_reasoning: bool, is_last: bool) -> list[tuple[str, bool]]:
        if not (keep_reasoning and (turn.reasoning or is_last)):
            return [(turn.text, True)]
        return [
            ("<think>\n", False),
            (turn.reasoning.strip("\n"), True),
            ("\n</think>\n\n", False),
            (turn.text.lstrip("\n"), True),
        ]

    def _generation(self, assembly: Assembly, turns: Sequence[Utterance], enable_thinking: bool | None) -> bool:
        assembly.template("<|im_start|>assistant\n" + (NO_THOUGHTS if enable_thinking is False else ""))
        return False
