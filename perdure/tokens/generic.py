"""Any model with a chat template: prompts rendered by the template itself.

Invariant: a bridge is only answered where the template proved, on made-up conversations, that what follows an assistant's turn
does not depend on what came before it; otherwise the answer says why not.

A template that refuses a system turn gets its text at the beginning of the user's first one. One that knows no tools, or writes
them in a form we cannot read back, is given them in the system prompt the way Hermes describes them, and their answers in a
user turn. What a template takes for today is the day the conversation began.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from perdure.core.dialect import ToolFormat
from perdure.core.errors import Invalid
from perdure.core.messages import Message, ToolCall
from perdure.core.model import ToolSpec
from perdure.core.tokens import RendererInfo
from perdure.tokens.assembly import Assembly
from perdure.tokens.base import NoBridge, Rendered, Tokenizer
from perdure.tokens.conversation import Conversation, Shape
from perdure.tokens.dialects import dialect_of
from perdure.tokens.native import Retention, ends_thinking, first_day, has_thoughts, sha256
from perdure.tokens.templates import ChatTemplate, to_json
from perdure.tokens.turns import is_query
from perdure.tokens.utterances import ASSISTANT, SYSTEM, USER, Utterance, utterances

# how each form writes a call of `probe` with {"at": 1}
_FORMS: dict[ToolFormat, str] = {
    "hermes_json": r'<tool_call>\s*\{"name": "probe", "arguments": \{"at": 1\}\}\s*</tool_call>',
    "qwen_xml": r"<tool_call>\s*<function=probe>\s*<parameter=at>\s*1\s*</parameter>\s*</function>\s*</tool_call>",
    "glm_xml": r"<tool_call>\s*probe\s*<arg_key>at</arg_key>\s*<arg_value>1</arg_value>\s*</tool_call>",
    "mistral": r'\[TOOL_CALLS\]\s*(\[\{"name": "probe", "arguments": \{"at": 1\}|probe(\[CALL_ID\]\w+)?\[ARGS\])',
    "deepseek": r"<｜tool▁call▁begin｜>(function<｜tool▁sep｜>probe\n```json\n|probe<｜tool▁sep｜>)\{",
    "harmony": r"to=functions\.probe ?<\|channel\|>commentary",
    "llama3_json": r'(?m:^)\{"name": "probe", "parameters": \{"at": 1\}\}',
}
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
        self.info = RendererInfo("generic", "2", sha256(to_json(dict(special), sort_keys=True)), sha256(template))
        self.shape = self._find_shape(tokenizer)
        self.dialect = dialect_of(self.shape.calls or "hermes_json", tokenizer)
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
        conversation = Conversation(self.shape, turns, tools, enable_thinking, first_day(messages))
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

    def _find_shape(self, tokenizer: Tokenizer) -> Shape:
        """What the template knows, found out by trying; how it wants calls given, too."""
        takes_system = self._takes_system()
        asked = Utterance(role="user", text=_ASKED, owner=USER)
        called = Utterance(
            role="assistant", text="", owner=ASSISTANT, calls=(ToolCall("aB3dE5gH7", "probe", '{"at": 1}'),)
        )
        for as_text, no_empty in ((False, False), (True, False), (False, True), (True, True)):
            shape = Shape(self._template, tokenizer, "none", True, takes_system, as_text, no_empty)
            try:
                written = Conversation(shape, [asked, called], (), None).text(generation=False)
            except Invalid:
                continue
            for calls, form in _FORMS.items():
                if re.search(form, written):
                    listed = self._lists_tools(shape)
                    if listed or calls == "deepseek":
                        return msgspec.structs.replace(shape, calls=calls, lists_tools=listed)
        return Shape(self._template, tokenizer, takes_system=takes_system)

    def _lists_tools(self, shape: Shape) -> bool:
        asked = Utterance(role="user", text=_ASKED, owner=USER)
        tool = ToolSpec("probe", "", {"type": "object"})
        try:
            return "probe" in Conversation(shape, [asked], [tool], None).text(generation=False)
        except Invalid:
            return False

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
        text = Conversation(self.shape, [asked, answered], (), None).text(generation=False)
        after = self.tokenizer.split(text[text.rfind(_ANSWERED) + len(_ANSWERED) :])
        return after[0] if _ANSWERED in text and after and isinstance(after[0], int) else None

    def _prove(
        self, turns: Sequence[Utterance], tools: Sequence[ToolSpec], enable_thinking: bool | None, *, thoughts: bool
    ) -> "tuple[Conversation, str, int] | NoBridge":
        """A conversation that ends with `turns`, its text, and where in it the part after the assistant's turn starts."""
        found: list[tuple[Conversation, str, int]] = []
        answered: list[str] = []
        for made_up in _made_up(turns, tools, thoughts=thoughts):
            try:
                before = Conversation(self.shape, made_up[:-1], tools, None).text(generation=False)
                conversation = Conversation(self.shape, [*made_up, *turns], tools, enable_thinking)
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


def _opens_thought(text: str) -> bool:
    return text.rstrip("\n").endswith("<think>")
