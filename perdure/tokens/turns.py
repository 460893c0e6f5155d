"""What the ChatML families share: `<|im_start|>role … <|im_end|>` turns, and tool answers grouped in a user turn."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import groupby

from perdure.core.dialect import ToolFormat
from perdure.core.model import ToolSpec
from perdure.tokens.assembly import Assembly
from perdure.tokens.base import Tokenizer
from perdure.tokens.native import NativeRenderer, Opening, Style
from perdure.tokens.templates import to_json
from perdure.tokens.tool_lists import TOOLS_AFTER, TOOLS_BEFORE, tool_object
from perdure.tokens.utterances import ASSISTANT, SYSTEM, TOOL, Utterance


class TurnsRenderer(NativeRenderer):
    """A ChatML family. As here, tools are listed and called the way Hermes describes."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        name: str,
        version: str = "1",
        config: str = "",
        template: str | None = None,
        tool_format: ToolFormat = "hermes_json",
    ) -> None:
        super().__init__(
            tokenizer,
            name=name,
            version=version,
            tool_format=tool_format,
            ends=("<|im_end|>", "<|endoftext|>"),
            needs=("<|im_start|>",),
            config=config,
            template=template,
        )

    def _system_text(self, system: str) -> str:
        """The system prompt the template shows for this one ("" if none)."""
        return system

    def _shown(self, text: str) -> str:
        """A message's text as the template shows it."""
        return text

    @abstractmethod
    def _assistant_text(self, turn: Utterance, *, keep_reasoning: bool, is_last: bool) -> list[tuple[str, bool]]:
        """The assistant's words before its tool calls: (text, whether it is the message's own) in order."""

    def _start(self, assembly: Assembly, opening: Opening) -> int:
        text, tools, message_id = self._system_text(opening.system), opening.tools, opening.message_id
        if not text and not tools:
            return 0
        assembly.template("<|im_start|>system\n", message_id, SYSTEM)
        assembly.content(text, message_id, SYSTEM)
        if tools:
            assembly.template(("\n\n" if text else "") + TOOLS_BEFORE, message_id, SYSTEM)
            list_tools(assembly, tools, message_id)
            assembly.template(TOOLS_AFTER, message_id, SYSTEM)
        assembly.template("<|im_end|>\n", message_id, SYSTEM)
        return 0

    def _between(self) -> str:
        return "\n"

    def _is_query(self, turn: Utterance) -> bool:
        return is_query(turn)

    def _turns(self, assembly: Assembly, turns: Sequence[Utterance], style: Style) -> None:
        queries = [at for at, turn in enumerate(turns) if is_query(turn)]
        last_query = queries[-1] if queries else len(turns)
        at = 0
        for is_tool, group in groupby(turns, key=lambda turn: turn.role == "tool"):
            members = list(group)
            if is_tool:
                self._tool_answers(assembly, members)
            else:
                for offset, turn in enumerate(members, at):
                    keep = style.retention == "all" or offset > last_query
                    is_last = style.retention == "tool_cycle" and offset == len(turns) - 1
                    self._turn(assembly, turn, keep_reasoning=keep, is_last=is_last)
            at += len(members)

    def _turn(self, assembly: Assembly, turn: Utterance, *, keep_reasoning: bool, is_last: bool) -> None:
        assembly.template(f"<|im_start|>{turn.role}\n", turn.message_id, turn.owner)
        if turn.role == "assistant":
            for text, is_own in self._assistant_text(turn, keep_reasoning=keep_reasoning, is_last=is_last):
                if is_own:
                    assembly.content(text, turn.message_id, ASSISTANT)
                else:
                    assembly.template(text, turn.message_id, ASSISTANT)
            self._calls(assembly, turn)
        else:
            assembly.content(self._shown(turn.text), turn.message_id, turn.owner)
        assembly.template("<|im_end|>\n", turn.message_id, turn.owner)

    def _calls(self, assembly: Assembly, turn: Utterance) -> None:
        for at, call in enumerate(turn.calls):
            newline = "\n" if at or turn.text else ""
            assembly.template(newline + '<tool_call>\n{"name": "', turn.message_id, ASSISTANT)
            assembly.content(call.name, turn.message_id, ASSISTANT)
            assembly.template('", "arguments": ', turn.message_id, ASSISTANT)
            assembly.content(call.arguments, turn.message_id, ASSISTANT)
            assembly.template("}\n</tool_call>", turn.message_id, ASSISTANT)

    def _tool_answers(self, assembly: Assembly, answers: Sequence[Utterance]) -> None:
        """All answers in a row share one user turn: adding them one by one would give other ids."""
        assembly.template("<|im_start|>user", answers[0].message_id, TOOL)
        for answer in answers:
            assembly.template("\n<tool_response>\n", answer.message_id, TOOL)
            assembly.content(self._shown(answer.text), answer.message_id, TOOL)
            assembly.template("\n</tool_response>", answer.message_id, TOOL)
        assembly.template("<|im_end|>\n", answers[-1].message_id, TOOL)


def list_tools(assembly: Assembly, tools: Sequence[ToolSpec], message_id: str) -> None:
    """Each as one line of JSON."""
    for tool in tools:
        assembly.template("\n", message_id, SYSTEM)
        assembly.content(to_json(tool_object(tool)), message_id, SYSTEM)


def is_query(turn: Utterance) -> bool:
    """Whether a template that drops earlier thinking takes this turn for a new question of the user."""
    is_answer = turn.text.startswith("<tool_response>") and turn.text.endswith("</tool_response>")
    return turn.role == "user" and not is_answer
