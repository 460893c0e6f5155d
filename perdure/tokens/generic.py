"""Any model with a chat template: prompts rendered by the template itself.

Invariant: a bridge is only answered where the template proved, on made-up conversations, that what follows an assistant's turn
does not depend on what came before it; otherwise the answer says why not.

A template that refuses a system turn gets its text at the beginning of the user's first one. One that knows no tools, or writes
them in a form we cannot read back, is given them in the system prompt the way Hermes describes them, and their answers in a
user turn.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise, takewhile
from typing import Any

import msgspec

from perdure.core.errors import Invalid
from perdure.core.messages import Message, ToolCall
from perdure.core.model import ToolSpec
from perdure.core.tokens import RendererInfo
from perdure.tokens.assembly import Assembly
from perdure.tokens.base import NoBridge, OutputDialect, Rendered, Tokenizer
from perdure.tokens.escapes import Escapes, locate, placeholder
from perdure.tokens.templates import ChatTemplate, to_json
from perdure.tokens.turns import Retention, ends_thinking, has_thoughts, is_query, marker_ids, sha256
from perdure.tokens.utterances import (
    ASSISTANT,
    SYSTEM,
    TOOL,
    TOOLS_AFTER,
    TOOLS_BEFORE,
    USER,
    Utterance,
    tool_object,
    utterances,
)

_ASKED, _ANSWERED, _THOUGHT = "first question", "a short answer", "a short thought"


class GenericRenderer:
    """Implements `tokens.base.Renderer`. `special`: texts the template may name (bos_token, ...)."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str,
        *,
        model_name: str,
        special: Mapping[str, str],
        stop_token_ids: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self._template = ChatTemplate(template, model_name, special)
        self.info = RendererInfo("generic", "1", sha256(to_json(dict(special), sort_keys=True)), sha256(template))
        self.dialect = OutputDialect(marker_ids=marker_ids(tokenizer))
        self.native_tools = self._knows_tools()
        self.takes_system = self._takes_system()
        self._end = self._turn_end()
        ends = [*stop_token_ids, *([self._end] if self._end is not None else [])]
        self.stop_token_ids = tuple(dict.fromkeys(ends))

    def render(
        self,
        system: str,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        enable_thinking: bool | None = None,
        retention: Retention = "all",
        system_message_id: str = "",
    ) -> Rendered:
        """Earlier thinking is kept or dropped as the template does, whatever the retention."""
        turns = utterances(messages)
        if system:
            turns = [Utterance(role="system", text=system, owner=SYSTEM, message_id=system_message_id), *turns]
        conversation = _Conversation(self, turns, tools, enable_thinking)
        assembly = Assembly(self.tokenizer, opens=True)
        text = conversation.text()
        conversation.add_to(assembly, text, 0)
        return assembly.done(reasoning_open=_opens_thought(text))

    def bridge(
        self,
        previous_ids: Sequence[int],
        completion_start: int,
        new_messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        *,
        enable_thinking: bool | None = None,
        retention: Retention = "all",
    ) -> Rendered | NoBridge:
        if self._end is None:
            return NoBridge("renderer_fallback", "the chat template does not close the assistant's turn with a token")
        turns = utterances(new_messages)
        thoughts = retention == "tool_cycle" and has_thoughts(self.tokenizer, self.dialect, previous_ids)
        proof = self._prove(turns, tools, enable_thinking, thoughts=thoughts)
        if isinstance(proof, NoBridge):
            return proof
        conversation, text, start = proof
        assembly = Assembly(self.tokenizer, opens=False)
        closed = len(previous_ids) > completion_start and previous_ids[-1] == self._end
        thinking = ends_thinking(self.dialect, previous_ids, completion_start)
        if closed and thinking:
            return NoBridge("renderer_fallback", "the model ended its turn inside its thinking")
        if thinking:
            assembly.synthesize("</think>", "the answer ended inside its thinking")
        if not closed:
            assembly.synthesize(self.tokenizer.decode([self._end]), "the answer ended without its end-of-turn token")
        conversation.add_to(assembly, text, start)
        return assembly.done(reasoning_open=_opens_thought(text))

    def render_text(
        self,
        turns: Sequence[Mapping[str, Any]],
        tools: Sequence[Any],
        *,
        generation: bool,
        thinking: bool | None = None,
    ) -> str:
        return self._template.render(turns, tools, generation=generation, enable_thinking=thinking)

    def _knows_tools(self) -> bool:
        """Whether the template lists tools and writes calls in the form that we can read back."""
        call = {"type": "function", "function": {"name": "probe", "arguments": {"at": 1}}}
        turns = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        try:
            listed = self.render_text(
                turns[:1], [tool_object(ToolSpec("probe", "", {"type": "object"}))], generation=False
            )
            written = self.render_text(turns, [], generation=False)
        except Invalid:
            return False
        form = r'<tool_call>\s*\{"name": "probe", "arguments": \{"at": 1\}\}\s*</tool_call>'
        return "probe" in listed and re.search(form, written) is not None

    def _takes_system(self) -> bool:
        turns = [{"role": "system", "content": _THOUGHT}, {"role": "user", "content": _ASKED}]
        try:
            return _THOUGHT in self.render_text(turns, [], generation=False)
        except Invalid:
            return False

    def _turn_end(self) -> int | None:
        """The control token right after an assistant's words."""
        asked = Utterance(role="user", text=_ASKED, owner=USER)
        answered = Utterance(role="assistant", text=_ANSWERED, owner=ASSISTANT)
        text = _Conversation(self, [asked, answered], (), None).text(generation=False)
        after = self.tokenizer.split(text[text.rfind(_ANSWERED) + len(_ANSWERED) :])
        return after[0] if _ANSWERED in text and after and isinstance(after[0], int) else None

    def _prove(
        self, turns: Sequence[Utterance], tools: Sequence[ToolSpec], enable_thinking: bool | None, *, thoughts: bool
    ) -> "tuple[_Conversation, str, int] | NoBridge":
        """A conversation that ends with `turns`, its text, and where in it the part after the assistant's turn starts."""
        found: list[tuple[_Conversation, str, int]] = []
        answered: list[str] = []
        for made_up in _made_up(turns, tools, thoughts=thoughts):
            try:
                before = _Conversation(self, made_up[:-1], tools, None).text(generation=False)
                conversation = _Conversation(self, [*made_up, *turns], tools, enable_thinking)
                text = conversation.text()
            except Invalid as refused:
                return NoBridge("renderer_fallback", refused.message)
            if thoughts and _THOUGHT not in text:
                cause = "thinking_drop" if any(map(is_query, turns)) else "renderer_fallback"
                return NoBridge(cause, "the template drops earlier thinking here")
            if not text.startswith(before):
                return NoBridge("renderer_fallback", "the template writes earlier turns otherwise once others follow")
            start = self._after_answer(text, len(before))
            if start is None:
                return NoBridge(
                    "renderer_fallback", "the template does not close the assistant's turn right after its words"
                )
            found.append((conversation, text, start))
            answered.append(text[start:])
        if len(set(answered)) != 1:
            return NoBridge("renderer_fallback", "what the template writes for new messages depends on earlier ones")
        return found[0]

    def _after_answer(self, text: str, begin: int) -> int | None:
        """Where the token that closes the made-up answer ends. It must not take part of what follows with it."""
        assert self._end is not None
        end = self.tokenizer.decode([self._end])
        words = text.find(_ANSWERED, begin)
        at = text.find(end, words) + len(end)
        if words < 0 or at < len(end):
            return None
        head, tail, whole = self.tokenizer.split(text[:at]), self.tokenizer.split(text[at:]), self.tokenizer.split(text)
        return at if head + tail == whole else None


class _Conversation:
    """One conversation in the shape a template takes, with its text escaped.

    `contents`: the message texts in the order of the turns, as the template is given them.
    """

    def __init__(
        self,
        renderer: GenericRenderer,
        turns: Sequence[Utterance],
        tools: Sequence[ToolSpec],
        enable_thinking: bool | None,
    ) -> None:
        self._renderer = renderer
        self._thinking = enable_thinking
        self._turns = list(turns) if renderer.native_tools else _without_tool_roles(turns, tools)
        if not renderer.takes_system:
            self._turns = _without_system(self._turns)
        self._objects: list[Any] = [tool_object(tool) for tool in tools] if renderer.native_tools else []
        words = renderer.tokenizer.info.special
        self._escapes = Escapes(words, [_everything(turns), msgspec.json.encode(self._objects).decode()])
        self._objects = self._escapes.escape_all(self._objects)
        self._contents = [self._escapes.escape(turn.text) for turn in self._turns]

    def text(self, *, generation: bool = True, contents: Sequence[str] | None = None) -> str:
        given = self._contents if contents is None else contents
        turns = [self._shaped(turn, text) for turn, text in zip(self._turns, given, strict=True)]
        return self._renderer.render_text(turns, self._objects, generation=generation, thinking=self._thinking)

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
        split = self._renderer.tokenizer.split
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


def _made_up(turns: Sequence[Utterance], tools: Sequence[ToolSpec], *, thoughts: bool) -> list[list[Utterance]]:
    """Conversations that differ in all but their last answer, which made the calls that `turns` begin by answering."""
    answers = takewhile(lambda turn: turn.role == "tool", turns)
    calls = tuple(ToolCall(answer.call_id, answer.tool_name, "{}") for answer in answers)
    asked = Utterance(role="user", text=_ASKED, owner=USER)
    answered = Utterance(
        role="assistant", text=_ANSWERED, owner=ASSISTANT, reasoning=_THOUGHT if thoughts else "", calls=calls
    )
    longer = [
        Utterance(role="system", text="Be brief.", owner=SYSTEM),
        Utterance(role="user", text="another\n\nquestion", owner=USER),
        Utterance(role="assistant", text="Another answer.", owner=ASSISTANT),
        msgspec.structs.replace(asked, text="one more question?"),
        answered,
    ]
    return [[asked, answered], longer]


def _everything(turns: Sequence[Utterance]) -> str:
    return "".join(
        text for turn in turns for text in (turn.text, turn.reasoning, *(c.name + c.arguments for c in turn.calls))
    )


def _opens_thought(text: str) -> bool:
    return text.rstrip("\n").endswith("<think>")
