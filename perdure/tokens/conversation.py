"""A conversation in the shape chat templates take, and back: each message's words found again in what a template made of them.

Invariant: what people wrote cannot become a control token, and no words are given to a message they are not.
"""

import json
from collections.abc import Sequence
from datetime import date
from itertools import groupby, pairwise
from typing import Any, Literal

import msgspec
from msgspec import Struct

from perdure.core.dialect import ToolFormat
from perdure.core.errors import Invalid
from perdure.core.messages import ToolCall
from perdure.core.model import ToolSpec
from perdure.tokens.assembly import Assembly
from perdure.tokens.base import Tokenizer
from perdure.tokens.escapes import Escapes, locate, placeholder
from perdure.tokens.mistral import short_id
from perdure.tokens.templates import NO_DAY, ChatTemplate, to_json
from perdure.tokens.tool_lists import deepseek_list, hermes_list, tool_object
from perdure.tokens.utterances import SYSTEM, TOOL, Utterance


class Shape(Struct, frozen=True):
    """A model's template and what it knows.

    `calls`: the form it writes calls in; None if it knows no calls, or none that we can read. `lists_tools`: it shows tools.
    `takes_system`: system turns. `text_arguments`: it wants a call's arguments as text. `no_empty_text`: None where there are
    no words beside a call.
    """

    template: ChatTemplate
    tokenizer: Tokenizer
    calls: ToolFormat | None = None
    lists_tools: bool = False
    takes_system: bool = True
    text_arguments: bool = False
    no_empty_text: bool = False

    @property
    def thoughts(self) -> Literal["reasoning_content", "thinking", "blocks"]:
        """Where the template looks for thinking."""
        source = self.template.source
        if "reasoning_content" in source:
            return "reasoning_content"
        if "['thinking']" in source or '["thinking"]' in source:
            return "blocks"
        return "thinking" if "message.thinking" in source else "reasoning_content"


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
        day: date = NO_DAY,
    ) -> None:
        self._shape = shape
        self._thinking = enable_thinking
        self._day = day
        self._turns = list(turns) if shape.calls else _without_tool_roles(turns)
        if tools and not shape.lists_tools:
            told = deepseek_list(tools) if shape.calls == "deepseek" else hermes_list(tools)
            self._turns = _with_tools(self._turns, told)
        if not shape.takes_system:
            self._turns = _without_system(self._turns)
        self._objects: list[Any] = [tool_object(tool) for tool in tools] if shape.lists_tools else []
        self._short_ids = "length != 9" in shape.template.source
        words = shape.tokenizer.info.special
        self._escapes = Escapes(words, [_everything(turns), msgspec.json.encode(self._objects).decode()])
        self._objects = self._escapes.escape_all(self._objects)
        self._contents = [self._escapes.escape(turn.text) for turn in self._turns]

    def text(self, *, generation: bool = True, contents: Sequence[str] | None = None) -> str:
        given = self._contents if contents is None else contents
        turns = [self._shaped(turn, text) for turn, text in zip(self._turns, given, strict=True)]
        return self._shape.template.render(
            turns, self._objects, generation=generation, enable_thinking=self._thinking, day=self._day
        )

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
            thought = self._escapes.escape(turn.reasoning)
            if self._shape.thoughts == "blocks":
                said = [{"type": "text", "text": text}] if text else []
                shaped["content"] = [{"type": "thinking", "thinking": thought}, *said]
            else:
                shaped[self._shape.thoughts] = thought
        if turn.calls:
            shaped["tool_calls"] = [self._shaped_call(call) for call in turn.calls]
            if self._shape.no_empty_text and not text:
                shaped["content"] = None
        if turn.role == "tool":
            shaped |= {"tool_call_id": self._id(turn.call_id), "name": turn.tool_name}
        return shaped

    def _id(self, call_id: str) -> str:
        return short_id(call_id) if self._short_ids else call_id

    def _shaped_call(self, call: ToolCall) -> dict[str, Any]:
        try:
            arguments: Any = call.arguments if self._shape.text_arguments else json.loads(call.arguments)
        except ValueError:
            arguments = call.arguments
        function = {"name": call.name, "arguments": arguments}
        return {"id": self._id(call.id), "type": "function", "function": self._escapes.escape_all(function)}


def _without_tool_roles(turns: Sequence[Utterance]) -> list[Utterance]:
    """The same conversation for a template without tools: only system, user and assistant turns of plain text."""
    plain: list[Utterance] = []
    for is_tool, group in groupby(turns, key=lambda turn: turn.role == "tool"):
        members = list(group)
        if is_tool:
            answers = "\n".join(f"<tool_response>\n{answer.text}\n</tool_response>" for answer in members)
            plain.append(Utterance(role="user", text=answers, owner=TOOL, message_id=members[0].message_id))
        else:
            plain.extend(_with_calls_in_text(turn) for turn in members)
    return plain


def _with_tools(turns: Sequence[Utterance], listed: str) -> list[Utterance]:
    """The tools at the end of the system prompt."""
    if turns and turns[0].role == "system":
        return [msgspec.structs.replace(turns[0], text=f"{turns[0].text}\n\n{listed}"), *turns[1:]]
    return [Utterance(role="system", text=listed, owner=SYSTEM), *turns]


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
