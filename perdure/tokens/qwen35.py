"""Qwen3.5 and later: ChatML whose prompt opens the thinking, and calls with tagged arguments.

Ids equal those of the model's own template for retention "tool_cycle" ("all" where the template keeps all thinking itself).
The template refuses a system turn after the first; one is rendered like Qwen3's.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from perdure.tokens.assembly import Assembly
from perdure.tokens.base import Tokenizer
from perdure.tokens.native import Opening, Style, arguments_of
from perdure.tokens.qwen3 import NO_THOUGHTS
from perdure.tokens.templates import to_json
from perdure.tokens.turns import TurnsRenderer, list_tools
from perdure.tokens.utterances import ASSISTANT, SYSTEM, Utterance

_TOOLS_BEFORE = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
_TOOLS_AFTER = (
    "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n<tool_call>\n"
    "<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
    "</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n- Function calls MUST follow the specified format: "
    "an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags\n"
    "- Required parameters MUST be specified\n- You may provide optional reasoning for your function call in natural "
    "language BEFORE the function call, but NOT after\n- If there is no function call available, answer the question "
    "like normal with your current knowledge and do not tell the user about function calls\n</IMPORTANT>"
)
_EFFORT = (
    "Reasoning effort is set to xhigh. Please think carefully through the task, validate key assumptions, consider "
    "plausible alternatives, and prioritize correctness, consistency, and clarity in the final answer."
)


class Qwen35Variant(Struct, frozen=True):
    """How the members of the family differ.

    `json_values`: all values that are no strings are JSON (else numbers, booleans and null as Python writes them).
    `thinks`: whether thinking is on where nothing is said. `keeps_all`: the template itself keeps all thinking.
    `effort`: it says in the system turn how much to think.
    """

    json_values: bool = False
    thinks: bool = True
    keeps_all: bool = False
    effort: bool = False


VARIANTS = (
    Qwen35Variant(),
    Qwen35Variant(thinks=False),
    Qwen35Variant(json_values=True),
    Qwen35Variant(json_values=True, keeps_all=True, effort=True),
)


class Qwen35Renderer(TurnsRenderer):
    def __init__(
        self, tokenizer: Tokenizer, *, variant: Qwen35Variant = VARIANTS[0], template: str | None = None
    ) -> None:
        super().__init__(tokenizer, name="qwen35", config=repr(variant), template=template, tool_format="qwen_xml")
        self._variant = variant

    def _shown(self, text: str) -> str:
        return text.strip()

    def _start(self, assembly: Assembly, opening: Opening) -> int:
        text, tools, message_id = opening.system.strip(), opening.tools, opening.message_id
        effort = self._variant.effort and opening.enable_thinking is not False
        if not (tools or effort or (text if self._variant.effort else opening.system)):
            return 0
        assembly.template("<|im_start|>system\n", message_id, SYSTEM)
        if effort:
            assembly.template(_EFFORT + ("\n\n" if tools or text else ""), message_id, SYSTEM)
        if tools:
            assembly.template(_TOOLS_BEFORE, message_id, SYSTEM)
            list_tools(assembly, tools, message_id)
            assembly.template(_TOOLS_AFTER + ("\n\n" if text else ""), message_id, SYSTEM)
        assembly.content(text, message_id, SYSTEM)
        assembly.template("<|im_end|>\n", message_id, SYSTEM)
        return 0

    def _turns(self, assembly: Assembly, turns: Sequence[Utterance], style: Style) -> None:
        super()._turns(assembly, turns, replace(style, retention="all") if self._variant.keeps_all else style)

    def _assistant_text(self, turn: Utterance, *, keep_reasoning: bool, is_last: bool) -> list[tuple[str, bool]]:
        text = (turn.text.strip(), True)
        if not keep_reasoning:
            return [text]
        return [("<think>\n", False), (turn.reasoning.strip(), True), ("\n</think>\n\n", False), text]

    def _calls(self, assembly: Assembly, turn: Utterance) -> None:
        for at, call in enumerate(turn.calls):
            before = "\n" if at else "\n\n" if turn.text.strip() else ""
            assembly.template(before + "<tool_call>\n<function=", turn.message_id, ASSISTANT)
            assembly.content(call.name, turn.message_id, ASSISTANT)
            assembly.template(">\n", turn.message_id, ASSISTANT)
            arguments = arguments_of(call.arguments)
            if arguments is None:
                assembly.content(call.arguments, turn.message_id, ASSISTANT)
                assembly.template("\n", turn.message_id, ASSISTANT)
            for key, value in (arguments or {}).items():
                assembly.template("<parameter=", turn.message_id, ASSISTANT)
                assembly.content(key, turn.message_id, ASSISTANT)
                assembly.template(">\n", turn.message_id, ASSISTANT)
                assembly.content(self._written(value), turn.message_id, ASSISTANT)
                assembly.template("\n</parameter>\n", turn.message_id, ASSISTANT)
            assembly.template("</function>\n</tool_call>", turn.message_id, ASSISTANT)

    def _written(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        return to_json(value) if self._variant.json_values or isinstance(value, dict | list) else str(value)

    def _generation(self, assembly: Assembly, turns: Sequence[Utterance], enable_thinking: bool | None) -> bool:
        thinks = self._variant.thinks if enable_thinking is None else enable_thinking
        assembly.template("<|im_start|>assistant\n" + ("<think>\n" if thinks else NO_THOUGHTS))
        return thinks
