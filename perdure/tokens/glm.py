"""GLM-4.5 and later: role tokens begin a turn and nothing ends it, so the token a model stops with begins the next turn.

    [gMASK]<sop><|system|>⏎ … <|user|>⏎ … <|assistant|>⏎<think>…</think>⏎ … ⏎<tool_call>…</tool_call><|observation|>⏎ …

Ids equal those of the model's own template for retention "tool_cycle". A role token that was sampled is not written again.
"""

from collections.abc import Sequence
from itertools import groupby

from perdure.tokens.assembly import Assembly
from perdure.tokens.base import Tokenizer
from perdure.tokens.native import NativeRenderer, Opening, Style, arguments_of
from perdure.tokens.templates import to_json
from perdure.tokens.tool_lists import tool_object
from perdure.tokens.utterances import ASSISTANT, SYSTEM, TOOL, Utterance

_TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
)
_TOOLS_AFTER = (
    "</tools>\n\nFor each function call, output the function name and arguments within the following XML format:\n"
)
_FORM = (
    "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
    "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>"
)


class GlmRenderer(NativeRenderer):
    """`lines`: line ends around everything, as GLM-4.5 and 4.6 have them; later models have none."""

    def __init__(self, tokenizer: Tokenizer, *, lines: bool = True, template: str | None = None) -> None:
        super().__init__(
            tokenizer,
            name="glm",
            tool_format="glm_xml",
            ends=("<|endoftext|>", "<|user|>", "<|observation|>"),
            needs=("<|assistant|>", "<|system|>", "[gMASK]", "<sop>"),
            config="lines" if lines else "tight",
            template=template,
        )
        self._lines = lines
        self._line = "\n" if lines else ""

    def _closing_ids(self) -> frozenset[int]:
        return frozenset(self.stop_token_ids)

    def _start(self, assembly: Assembly, opening: Opening) -> int:
        message_id = opening.message_id
        assembly.template("[gMASK]<sop>")
        if opening.tools:
            assembly.template("<|system|>\n" + _TOOLS_BEFORE, message_id, SYSTEM)
            for tool in opening.tools:
                assembly.content(to_json(tool_object(tool)), message_id, SYSTEM)
                assembly.template("\n", message_id, SYSTEM)
            form = _FORM if self._lines else _FORM.replace("\n", "")
            assembly.template(_TOOLS_AFTER + form, message_id, SYSTEM)
        if opening.system:
            assembly.template("<|system|>" + self._line, message_id, SYSTEM)
            assembly.content(opening.system, message_id, SYSTEM)
        return 0

    def _turns(self, assembly: Assembly, turns: Sequence[Utterance], style: Style) -> None:
        last_user = max((at for at, turn in enumerate(turns) if turn.role == "user"), default=-1)
        at = 0
        for is_tool, group in groupby(turns, key=lambda turn: turn.role == "tool"):
            members = list(group)
            if is_tool:
                self._role(assembly, "<|observation|>", members[0], style.after if at == 0 else None)
                self._answers(assembly, members)
            else:
                for offset, turn in enumerate(members, at):
                    self._role(assembly, f"<|{turn.role}|>", turn, style.after if offset == 0 else None)
                    if turn.role == "assistant":
                        self._assistant(assembly, turn, keep=style.retention == "all" or offset > last_user)
                    else:
                        self._said(assembly, turn, style)
            at += len(members)

    def _role(self, assembly: Assembly, token: str, turn: Utterance, after: int | None) -> None:
        if after is None or self.tokenizer.special_id(token) != after:
            assembly.template(token, turn.message_id, turn.owner)

    def _said(self, assembly: Assembly, turn: Utterance, style: Style) -> None:
        assembly.template(self._line, turn.message_id, turn.owner)
        assembly.content(turn.text, turn.message_id, turn.owner)
        told = self._lines and style.enable_thinking is False and turn.role == "user"
        if told and not turn.text.endswith("/nothink"):
            assembly.template("/nothink", turn.message_id, turn.owner)

    def _answers(self, assembly: Assembly, answers: Sequence[Utterance]) -> None:
        line = self._line
        for answer in answers:
            assembly.template(f"{line}<tool_response>{line}", answer.message_id, TOOL)
            assembly.content(answer.text, answer.message_id, TOOL)
            assembly.template(f"{line}</tool_response>", answer.message_id, TOOL)

    def _assistant(self, assembly: Assembly, turn: Utterance, *, keep: bool) -> None:
        line, message_id = self._line, turn.message_id
        thought = turn.reasoning.strip() if keep else ""
        if thought or (keep and turn.reasoning) or self._lines:
            assembly.template(f"{line}<think>", message_id, ASSISTANT)
            assembly.content(thought, message_id, ASSISTANT)
        assembly.template("</think>", message_id, ASSISTANT)
        if text := turn.text.strip():
            assembly.template(line, message_id, ASSISTANT)
            assembly.content(text, message_id, ASSISTANT)
        for call in turn.calls:
            assembly.template(f"{line}<tool_call>", message_id, ASSISTANT)
            assembly.content(call.name, message_id, ASSISTANT)
            assembly.template(line, message_id, ASSISTANT)
            arguments = arguments_of(call.arguments)
            if arguments is None:
                assembly.content(call.arguments, message_id, ASSISTANT)
                assembly.template(line, message_id, ASSISTANT)
            for key, value in (arguments or {}).items():
                assembly.template("<arg_key>", message_id, ASSISTANT)
                assembly.content(key, message_id, ASSISTANT)
                assembly.template(f"</arg_key>{line}<arg_value>", message_id, ASSISTANT)
                assembly.content(value if isinstance(value, str) else to_json(value), message_id, ASSISTANT)
                assembly.template(f"</arg_value>{line}", message_id, ASSISTANT)
            assembly.template("</tool_call>", message_id, ASSISTANT)

    def _generation(self, assembly: Assembly, turns: Sequence[Utterance], enable_thinking: bool | None) -> bool:
        assembly.template("<|assistant|>")
        if self._lines:
            assembly.template("\n<think></think>" if enable_thinking is False else "")
            return False
        assembly.template("</think>" if enable_thinking is False else "<think>")
        return enable_thinking is not False
