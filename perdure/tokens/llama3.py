"""Llama 3.1, 3.2 and 3.3: `<|start_header_id|>role<|end_header_id|>⏎⏎ … <|eot_id|>`, tools told in the first user turn.

Ids equal those of the model's own template. Where that writes today's date, the day the conversation began stands, so that
rendering again gives the same. It refuses several calls at once; these are written with `; ` between them, as models do.
"""

from collections.abc import Sequence

from perdure.tokens.assembly import Assembly
from perdure.tokens.base import Tokenizer
from perdure.tokens.native import NativeRenderer, Opening, Style
from perdure.tokens.templates import to_json
from perdure.tokens.tool_lists import tool_object
from perdure.tokens.utterances import ASSISTANT, SYSTEM, USER, Utterance

FIXED_DATE = "26 Jul 2024"
_TOOLS_BEFORE = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that best "
    'answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of argument name '
    "and its value}.Do not use variables.\n\n"
)


class Llama3Renderer(NativeRenderer):
    """`dated`: the template asks for today's date (3.2); else it writes one of its own (3.1, 3.3)."""

    def __init__(self, tokenizer: Tokenizer, *, dated: bool = False, template: str | None = None) -> None:
        super().__init__(
            tokenizer,
            name="llama3",
            tool_format="llama3_json",
            ends=("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
            needs=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
            config="dated" if dated else "",
            template=template,
        )
        self._dated = dated

    def _closing_ids(self) -> frozenset[int]:
        return frozenset(self.stop_token_ids[:2])

    def _start(self, assembly: Assembly, opening: Opening) -> int:
        message_id, tools, turns = opening.message_id, opening.tools, opening.turns
        day = opening.day.strftime("%d %b %Y") if self._dated else FIXED_DATE
        environment = "Environment: ipython\n" if tools else ""
        assembly.template("<|begin_of_text|>" + _header("system"), message_id, SYSTEM)
        assembly.template(
            f"{environment}Cutting Knowledge Date: December 2023\nToday Date: {day}\n\n", message_id, SYSTEM
        )
        assembly.content(opening.system.strip(), message_id, SYSTEM)
        assembly.template("<|eot_id|>", message_id, SYSTEM)
        if not tools:
            return 0
        first = turns[0] if turns and turns[0].role == "user" else None
        assembly.template(_header("user") + _TOOLS_BEFORE, message_id, USER)
        for tool in tools:
            assembly.content(to_json(tool_object(tool), indent=4), message_id, SYSTEM)
            assembly.template("\n\n", message_id, USER)
        if first is not None:
            assembly.content(first.text.strip(), first.message_id, first.owner)
        assembly.template("<|eot_id|>", first.message_id if first else message_id, USER)
        return 0 if first is None else 1

    def _turns(self, assembly: Assembly, turns: Sequence[Utterance], style: Style) -> None:
        for turn in turns:
            role = "ipython" if turn.role == "tool" else turn.role
            assembly.template(_header(role), turn.message_id, turn.owner)
            if turn.role == "tool":
                assembly.template('"', turn.message_id, turn.owner)
                assembly.content(to_json(turn.text)[1:-1], turn.message_id, turn.owner)
                assembly.template('"', turn.message_id, turn.owner)
            elif turn.calls:
                self._calls(assembly, turn)
            else:
                assembly.content(turn.text.strip(), turn.message_id, turn.owner)
            assembly.template("<|eot_id|>", turn.message_id, turn.owner)

    def _calls(self, assembly: Assembly, turn: Utterance) -> None:
        """The template shows no words beside a call."""
        for at, call in enumerate(turn.calls):
            assembly.template(("; " if at else "") + '{"name": "', turn.message_id, ASSISTANT)
            assembly.content(call.name, turn.message_id, ASSISTANT)
            assembly.template('", "parameters": ', turn.message_id, ASSISTANT)
            assembly.content(call.arguments, turn.message_id, ASSISTANT)
            assembly.template("}", turn.message_id, ASSISTANT)

    def _generation(self, assembly: Assembly, turns: Sequence[Utterance], enable_thinking: bool | None) -> bool:
        assembly.template(_header("assistant"))
        return False


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"
