"""Mistral's models with the tekken tokenizer: `[INST] … [/INST] … </s>`, in the two forms of their templates.

    v11   tools before the last user turn; calls and answers carry an id of nine characters
    v13   tools after the system prompt; no ids; thinking between [THINK] and [/THINK], which the template always keeps

Ids equal those of the model's own template. v11 moves its tools on with each user turn; a bridge leaves them where they were
first shown. The templates want user and assistant to alternate; turns that do not are written one after the other.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

from perdure.tokens.assembly import Assembly
from perdure.tokens.base import Tokenizer
from perdure.tokens.native import NativeRenderer, Opening, Style
from perdure.tokens.templates import NO_DAY, to_json
from perdure.tokens.tool_lists import tool_object
from perdure.tokens.utterances import ASSISTANT, SYSTEM, TOOL, Utterance

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID = re.compile(r"[A-Za-z0-9]{9}")


Form = Literal["v11", "v13"]
FORMS: tuple[Form, ...] = ("v13", "v11")


class MistralRenderer(NativeRenderer):
    """`default_system`: what the template says where an agent has no system prompt, a date in it written as NO_DAY."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        form: Form = "v13",
        default_system: str = "",
        template: str | None = None,
    ) -> None:
        ids = ("[CALL_ID]", "[TOOL_CONTENT]") if form == "v11" else ()
        super().__init__(
            tokenizer,
            name="mistral",
            tool_format="mistral",
            ends=("</s>",),
            needs=("<s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[TOOL_CALLS]", "[ARGS]", *ids),
            config=form + default_system,
            template=template,
        )
        self._form = form
        self._default = default_system

    def _is_query(self, turn: Utterance) -> bool:
        return False  # no template drops thinking

    def _start(self, assembly: Assembly, opening: Opening) -> int:
        message_id = opening.message_id
        assembly.template("<s>")
        default = self._default.replace(NO_DAY.isoformat(), opening.day.isoformat())
        if opening.system or default:
            assembly.template("[SYSTEM_PROMPT]", message_id, SYSTEM)
            if opening.system:
                assembly.content(opening.system, message_id, SYSTEM)
            else:
                assembly.template(default, message_id, SYSTEM)
            assembly.template("[/SYSTEM_PROMPT]", message_id, SYSTEM)
        if self._form == "v13":
            self._tools(assembly, opening)
            return 0
        users = [at for at, turn in enumerate(opening.turns) if turn.role == "user"]
        last = users[-1] if users else len(opening.turns)
        for turn in opening.turns[:last]:
            self._turn(assembly, turn)
        self._tools(assembly, opening)
        return last

    def _tools(self, assembly: Assembly, opening: Opening) -> None:
        if opening.tools:
            assembly.template("[AVAILABLE_TOOLS]", opening.message_id, SYSTEM)
            assembly.content(to_json([tool_object(tool) for tool in opening.tools]), opening.message_id, SYSTEM)
            assembly.template("[/AVAILABLE_TOOLS]", opening.message_id, SYSTEM)

    def _turns(self, assembly: Assembly, turns: Sequence[Utterance], style: Style) -> None:
        for turn in turns:
            self._turn(assembly, turn)

    def _turn(self, assembly: Assembly, turn: Utterance) -> None:
        if turn.role == "assistant":
            self._assistant(assembly, turn)
            return
        before, after = {
            "user": ("[INST]", "[/INST]"),
            "tool": ("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
            "system": ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        }[turn.role]
        assembly.template(before, turn.message_id, turn.owner)
        if turn.role == "tool" and self._form == "v11":
            assembly.detail(short_id(turn.call_id), turn.message_id, TOOL)
            assembly.template("[TOOL_CONTENT]", turn.message_id, TOOL)
        assembly.content(turn.text, turn.message_id, turn.owner)
        assembly.template(after, turn.message_id, turn.owner)

    def _assistant(self, assembly: Assembly, turn: Utterance) -> None:
        message_id, is_new = turn.message_id, self._form == "v13"
        if turn.reasoning and is_new:
            assembly.template("[THINK]", message_id, ASSISTANT)
            assembly.content(turn.reasoning, message_id, ASSISTANT)
            assembly.template("[/THINK]", message_id, ASSISTANT)
        if is_new or not turn.calls:  # v11 shows no words beside a call
            assembly.content(turn.text, message_id, ASSISTANT)
        for call in turn.calls:
            assembly.template("[TOOL_CALLS]", message_id, ASSISTANT)
            assembly.content(call.name, message_id, ASSISTANT)
            if not is_new:
                assembly.template("[CALL_ID]", message_id, ASSISTANT)
                assembly.content(short_id(call.id), message_id, ASSISTANT)
            assembly.template("[ARGS]", message_id, ASSISTANT)
            assembly.content(call.arguments, message_id, ASSISTANT)
        assembly.template("</s>", message_id, ASSISTANT)

    def _generation(self, assembly: Assembly, turns: Sequence[Utterance], enable_thinking: bool | None) -> bool:
        return False


def short_id(call_id: str) -> str:
    """An id as Mistral's models know them: nine letters and digits. Their own stay as they are."""
    if _ID.fullmatch(call_id):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return "".join(_ALPHABET[number // 62**place % 62] for place in range(9))
