"""DeepSeek V3.1: `<｜User｜> … <｜Assistant｜> … <｜end▁of▁sentence｜>`, thinking only where the prompt opens it.

Ids equal those of the model's own template, which drops all thinking; retention "all" keeps it. The template has no place for
tools: they are listed in the system prompt as the model's authors describe it. It puts every system turn at the beginning;
here one that comes later is a user turn, so that a conversation only grows.
"""

from collections.abc import Sequence

from perdure.tokens.assembly import Assembly
from perdure.tokens.base import Tokenizer
from perdure.tokens.native import NativeRenderer, Opening, Style
from perdure.tokens.tool_lists import DEEPSEEK_AFTER, DEEPSEEK_BEFORE, deepseek_tool
from perdure.tokens.utterances import ASSISTANT, SYSTEM, TOOL, Utterance

_BOS, _EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
NO_THOUGHTS = ("</think>", "<think></think>")


class DeepSeekRenderer(NativeRenderer):
    """`no_thoughts`: what the template writes where there is no thinking; one of NO_THOUGHTS."""

    def __init__(self, tokenizer: Tokenizer, *, no_thoughts: str = NO_THOUGHTS[0], template: str | None = None) -> None:
        super().__init__(
            tokenizer,
            name="deepseek",
            tool_format="deepseek",
            ends=(_EOS,),
            needs=(_BOS, "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<think>", "</think>"),
            config=no_thoughts,
            template=template,
        )
        self._no_thoughts = no_thoughts

    def _is_query(self, turn: Utterance) -> bool:
        return turn.role in ("user", "system")

    def _start(self, assembly: Assembly, opening: Opening) -> int:
        assembly.template(_BOS)
        assembly.content(opening.system, opening.message_id, SYSTEM)
        if opening.tools:
            before = "\n\n" if opening.system else ""
            assembly.template(before + DEEPSEEK_BEFORE, opening.message_id, SYSTEM)
            for tool in opening.tools:
                assembly.content(deepseek_tool(tool), opening.message_id, SYSTEM)
                assembly.template("\n\n", opening.message_id, SYSTEM)
            assembly.template(DEEPSEEK_AFTER, opening.message_id, SYSTEM)
        return 0

    def _turns(self, assembly: Assembly, turns: Sequence[Utterance], style: Style) -> None:
        asked = False
        for turn in turns:
            if turn.role == "assistant":
                self._assistant(assembly, turn, asked=asked, keep=style.retention == "all")
            elif turn.role == "tool":
                assembly.template("<｜tool▁output▁begin｜>", turn.message_id, TOOL)
                assembly.content(turn.text, turn.message_id, TOOL)
                assembly.template("<｜tool▁output▁end｜>", turn.message_id, TOOL)
            else:
                assembly.template("<｜User｜>", turn.message_id, turn.owner)
                assembly.content(turn.text, turn.message_id, turn.owner)
            asked = turn.role in ("user", "system")

    def _assistant(self, assembly: Assembly, turn: Utterance, *, asked: bool, keep: bool) -> None:
        message_id = turn.message_id
        if asked:
            assembly.template("<｜Assistant｜>", message_id, ASSISTANT)
        if keep and turn.reasoning:
            assembly.template("<think>", message_id, ASSISTANT)
            assembly.content(turn.reasoning, message_id, ASSISTANT)
            assembly.template("</think>", message_id, ASSISTANT)
        elif asked:
            assembly.template(self._no_thoughts, message_id, ASSISTANT)
        assembly.content(turn.text, message_id, ASSISTANT)
        for at, call in enumerate(turn.calls):
            opening = "" if at else "<｜tool▁calls▁begin｜>"
            assembly.template(opening + "<｜tool▁call▁begin｜>", message_id, ASSISTANT)
            assembly.content(call.name, message_id, ASSISTANT)
            assembly.template("<｜tool▁sep｜>", message_id, ASSISTANT)
            assembly.content(call.arguments, message_id, ASSISTANT)
            assembly.template("<｜tool▁call▁end｜>", message_id, ASSISTANT)
        assembly.template(("<｜tool▁calls▁end｜>" if turn.calls else "") + _EOS, message_id, ASSISTANT)

    def _generation(self, assembly: Assembly, turns: Sequence[Utterance], enable_thinking: bool | None) -> bool:
        """After a tool's answer the model goes on by itself."""
        if turns and turns[-1].role == "tool":
            return False
        assembly.template("<｜Assistant｜>" + ("<think>" if enable_thinking else self._no_thoughts))
        return bool(enable_thinking)
