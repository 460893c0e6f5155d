"""A conversation in the shape chat templates take, and back: each message's words found again in what a template made of them.

Invariant: what people wrote cannot become a control token, and no words are given to a message they are not.
"""

import json
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core.errors import Invalid
from perdure.core.messages import ToolCall
from perdure.core.model import ToolSpec
from perdure.tokens.assembly import Assembly
from perdure.tokens.base import Tokenizer
from perdure.tokens.escapes import Escapes, locate, placeholder
from perdure.tokens.templates import ChatTemplate, to_json
from perdure.tokens.utterances import SYSTEM, TOOL, TOOLS_AFTER, TOOLS_BEFORE, Utterance, tool_object


class Shape(Struct, frozen=True):
    """A model's template and what it knows. `native_tools`: tools, written as we can read them. `takes_system`: system turns."""

    template: ChatTemplate
    tokenizer: Tokenizer
    native_tools: bool
    takes_system: bool


class Conversation:
    """One conversation in the shape a template takes, with its text escaped.

    `contents`: the message texts in the order of the turns, as the template is given them.
    """

    def __init__(
        self,
        shape: Shape,
        turns: Sequence[Utterance],
        tools: Sequence[ToolSpec],
        enable_thinking: bool | None,
    ) -> None:
        self._shape = shape
        self._thinking = enable_thinking
        self._turns = list(turns) if shape.native_tools else _without_tool_roles(turns, tools)
        if not shape.takes_system:
            self._turns = _without_system(self._turns)
        self._objects: list[Any] = [tool_object(tool) for tool in tools] if shape.native_tools else []
        words = shape.tokenizer.info.special
        self._escapes = Escapes(words, [_everything(turns), msgspec.json.encode(self._objects).decode()])
        self._objects = self._escapes.escape_all(self._objects)
        self._contents = [self._escapes.escape(turn.text) for turn in self._turns]

    def text(self, *, generation: bool = True, contents: Sequence[str] | None = None) -> str:
        given = self._contents if contents is None else contents
        turns = [self._shaped(turn, text) for turn, text in zip(self._turns, given, strict=True)]
        return self._shape.template.render(turns, self._objects, generation=generation, enable_thinking=self._thinking)

    def add_to(self, assembly: Assembly, text: str, start: int) -> None:
        """Add text[start:], each message's own words under its name where the template leaves them recognisable."""
        at = start
        for turn, (begin, end) in self._places(text):
            if begin >= start:
                assembly.template(text[at:begin], restore=self._escapes.restore)
                assembly.content(self._escapes.restore(text[begin:end]), turn.message_id, turn.owner)
                at = end
        assembly.template(text[at:], restore=self._escapes.restore)

    def _places(self, text: str) -> list[tuple[Utterance, tuple[int, int]]]:
        shown = [at for at, content in enumerate(self._contents) if content]
        holders = list(self._contents)
        for number, at in enumerate(shown):
            holders[at] = placeholder(number)
        try:
            skeleton = self.text(contents=holders)
        except Invalid:
            return []
        places = locate(text, skeleton, [self._contents[at] for at in shown])
        if places is None or not self._cuts_cleanly(text, places):
            return []
        return list(zip((self._turns[at] for at in shown), places, strict=True))

    def _cuts_cleanly(self, text: str, places: Sequence[tuple[int, int]]) -> bool:
        """Whether cutting the text at its contents leaves all control tokens (some take blanks around them) as they are."""
        split = self._shape.tokenizer.split
        cut: list[str | int] = []
        bounds = [0, *(bound for place in places for bound in place), len(text)]
        for begin, end in pairwise(bounds):
            for piece in split(text[begin:end]):
                if cut and isinstance(piece, str) and isinstance(last := cut[-1], str):
                    cut[-1] = last + piece
                else:
                    cut.append(piece)
        return cut == split(text)

    def _shaped(self, turn: Utterance, text: str) -> dict[str, Any]:
        shaped: dict[str, Any] = {"role": turn.role, "content": text}
        if turn.reasoning:
            shaped["reasoning_content"] = self._escapes.escape(turn.reasoning)
        if turn.calls:
            shaped["tool_calls"] = [self._shaped_call(call) for call in turn.calls]
        if turn.role == "tool":
            shaped |= {"tool_call_id": turn.call_id, "name": turn.tool_name}
        return shaped

    def _shaped_call(self, call: ToolCall) -> dict[str, Any]:
        try:
            arguments: Any = json.loads(call.arguments)
        except ValueError:
            arguments = call.arguments
        function = {"name": call.name, "arguments": arguments}
        return {"id": call.id, "type": "function", "function": self._escapes.escape_all(function)}


def _without_tool_roles(turns: Sequence[Utterance], tools: Sequence[ToolSpec]) -> list[Utterance]:
    """The same conversation for a template without tools: only system, user and assistant turns of plain text."""
    plain: list[Utterance] = []
    for is_tool, group in groupby(turns, key=lambda turn: turn.role == "tool"):
        members = list(group)
        if is_tool:
            answers = "\n".join(f"<tool_response>\n{answer.text}\n</tool_response>" for answer in members)
            plain.append(Utterance(role="user", text=answers, owner=TOOL, message_id=members[0].message_id))
        else:
            plain.extend(_with_calls_in_text(turn) for turn in members)
    if tools:
        listed = "".join("\n" + to_json(tool_object(tool)) for tool in tools)
        told = plain.pop(0) if plain and plain[0].role == "system" else None
        text = (told.text + "\n\n" if told else "") + TOOLS_BEFORE + listed + TOOLS_AFTER
        message_id = told.message_id if told else ""
        plain.insert(0, Utterance(role="system", text=text, owner=SYSTEM, message_id=message_id))
    return plain


def _without_system(turns: Sequence[Utterance]) -> list[Utterance]:
    """The first system text at the beginning of the user turn after it; later ones as user turns."""
    said = [msgspec.structs.replace(turn, role="user") if turn.role == "system" else turn for turn in turns]
    if len(said) > 1 and turns[0].role == "system" and turns[1].role == "user":
        said[:2] = [msgspec.structs.replace(said[1], text=f"{said[0].text}\n\n{said[1].text}")]
    return said


def _with_calls_in_text(turn: Utterance) -> Utterance:
    if not turn.calls:
        return turn
    calls = [
        f'<tool_call>\n{{"name": {to_json(call.name)}, "arguments": {call.arguments}}}\n</tool_call>'
        for call in turn.calls
    ]
    text = "\n".join([*([turn.text] if turn.text else []), *calls])
    return msgspec.structs.replace(turn, text=text, calls=())


def _everything(turns: Sequence[Utterance]) -> str:
    return "".join(
        text for turn in turns for text in (turn.text, turn.reasoning, *(c.name + c.arguments for c in turn.calls))
    )
