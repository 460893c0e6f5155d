"""Qwen3: ChatML with thinking.

Ids equal those of Qwen3's own template for retention "tool_cycle"; "all" keeps the thinking of every turn, so that a
conversation only ever grows.
"""

from perdure.tokens.base import Tokenizer
from perdure.tokens.turns import TurnsRenderer
from perdure.tokens.utterances import Utterance


class Qwen3Renderer(TurnsRenderer):
    def __init__(self, tokenizer: Tokenizer, *, template: str | None = None) -> None:
        super().__init__(tokenizer, name="qwen3", version="1", config="", template=template)

    def _system_text(self, system: str) -> str:
        return system

    def _assistant_text(self, turn: Utterance, *, keep_reasoning: bool, is_last: bool) -> list[tuple[str, bool]]:
        if not (keep_reasoning and (turn.reasoning or is_last)):
            return [(turn.text, True)]
        return [
            ("<think>\n", False),
            (turn.reasoning.strip("\n"), True),
            ("\n</think>\n\n", False),
            (turn.text.lstrip("\n"), True),
        ]

    def _generation_prompt(self, enable_thinking: bool | None) -> str:
        empty_thoughts = "<think>\n\n</think>\n\n" if enable_thinking is False else ""
        return f"<|im_start|>assistant\n{empty_thoughts}"
