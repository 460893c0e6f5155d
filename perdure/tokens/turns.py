"""What the ChatML families share: `<|im_start|>role … <|im_end|>` turns, tool answers grouped in a user turn, and bridging.

Invariant: `bridge` only appends. It closes the sampled turn where the model did not, and never looks at the text of what the
engine has already seen.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from perdure.core.messages import Message
from perdure.core.model import ToolSpec
from perdure.core.tokens import RendererInfo
from perdure.tokens.assembly import Assembly
from perdure.tokens.base import NoBridge, OutputDialect, Rendered, Tokenizer, TokenizerNotFound
from perdure.tokens.dialects import dialect_of
from perdure.tokens.templates import to_json
from perdure.tokens.utterances import (
    ASSISTANT,
    SYSTEM,
    TOOL,
    TOOLS_AFTER,
    TOOLS_BEFORE,
    Utterance,
    tool_object,
    utterances,
)

PREFILLED_IDS = 4  # a prompt that opens the thinking ends with its marker and a newline or two
Retention = Literal["all", "tool_cycle"]


class TurnsRenderer(ABC):
    """Implements `tokens.base.Renderer` for a ChatML family; what differs between families are the methods below."""

    def __init__(self, tokenizer: Tokenizer, *, name: str, version: str, config: str, template: str | None) -> None:
        end = tokenizer.special_id("<|im_end|>")
        if end is None or tokenizer.special_id("<|im_start|>") is None:
            raise TokenizerNotFound(f"The tokenizer {tokenizer.info.name} has no <|im_start|> and <|im_end|> tokens.")
        self.tokenizer = tokenizer
        self.info = RendererInfo(name, version, sha256(config), sha256(template) if template is not None else None)
        self.dialect = dialect_of("hermes_json", tokenizer)
        self._end = end
        other = tokenizer.special_id("<|endoftext|>")
        self.stop_token_ids = (end,) if other is None else (end, other)

    @abstractmethod
    def _system_text(self, system: str) -> str:
        """The system prompt the template shows for this one ("" if none)."""

    @abstractmethod
    def _assistant_text(self, turn: Utterance, *, keep_reasoning: bool, is_last: bool) -> list[tuple[str, bool]]:
        """The assistant's words before its tool calls: (text, whether it is the message's own) in order."""

    @abstractmethod
    def _generation_prompt(self, enable_thinking: bool | None) -> str: ...

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
        assembly = Assembly(self.tokenizer, opens=True)
        self._system(assembly, system, tools, system_message_id)
        self._turns(assembly, utterances(messages), retention)
        assembly.template(self._generation_prompt(enable_thinking))
        return assembly.done()

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
        turns = utterances(new_messages)
        if retention == "tool_cycle" and self._drops_thoughts(turns, previous_ids):
            return NoBridge("thinking_drop", "the template drops earlier thinking when the user speaks again")
        assembly = Assembly(self.tokenizer, opens=False)
        closed = len(previous_ids) > completion_start and previous_ids[-1] == self._end
        thinking = ends_thinking(self.dialect, previous_ids, completion_start)
        if closed and thinking:
            return NoBridge("renderer_fallback", "the model ended its turn inside its thinking")
        if thinking:
            assembly.synthesize("</think>", "the answer ended inside its thinking")
        if not closed:
            assembly.synthesize("<|im_end|>", "the answer ended without its end-of-turn token")
        assembly.template("\n")
        self._turns(assembly, turns, "all")
        assembly.template(self._generation_prompt(enable_thinking))
        return assembly.done()

    def _drops_thoughts(self, turns: Sequence[Utterance], previous_ids: Sequence[int]) -> bool:
        return any(map(is_query, turns)) and has_thoughts(self.tokenizer, self.dialect, previous_ids)

    def _system(self, assembly: Assembly, system: str, tools: Sequence[ToolSpec], message_id: str) -> None:
        text = self._system_text(system)
        if not text and not tools:
            return
        assembly.template("<|im_start|>system\n", message_id, SYSTEM)
        assembly.content(text, message_id, SYSTEM)
        if tools:
            assembly.template(("\n\n" if text else "") + TOOLS_BEFORE, message_id, SYSTEM)
            for tool in tools:
                assembly.template("\n", message_id, SYSTEM)
                assembly.content(to_json(tool_object(tool)), message_id, SYSTEM)
            assembly.template(TOOLS_AFTER, message_id, SYSTEM)
        assembly.template("<|im_end|>\n", message_id, SYSTEM)

    def _turns(self, assembly: Assembly, turns: Sequence[Utterance], retention: Retention) -> None:
        queries = [at for at, turn in enumerate(turns) if is_query(turn)]
        last_query = queries[-1] if queries else len(turns)
        at = 0
        for is_tool, group in groupby(turns, key=lambda turn: turn.role == "tool"):
            members = list(group)
            if is_tool:
                self._tool_answers(assembly, members)
            else:
                for offset, turn in enumerate(members, at):
                    keep = retention == "all" or offset > last_query
                    is_last = retention == "tool_cycle" and offset == len(turns) - 1
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
            self._calls(assembly, turn, newline_first=bool(turn.text))
        else:
            assembly.content(turn.text, turn.message_id, turn.owner)
        assembly.template("<|im_end|>\n", turn.message_id, turn.owner)

    def _calls(self, assembly: Assembly, turn: Utterance, *, newline_first: bool) -> None:
        for at, call in enumerate(turn.calls):
            newline = "\n" if at or newline_first else ""
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
            assembly.content(answer.text, answer.message_id, TOOL)
            assembly.template("\n</tool_response>", answer.message_id, TOOL)
        assembly.template("<|im_end|>\n", answers[-1].message_id, TOOL)


def has_thoughts(tokenizer: Tokenizer, dialect: OutputDialect, ids: Sequence[int]) -> bool:
    """Whether a thinking span that is not a template's empty one stands anywhere in the ids."""
    opened, closed = dialect.marker_ids.get("<think>"), dialect.marker_ids.get("</think>")
    if opened is None or closed is None:
        return False
    at = find(ids, opened, 0)
    while at >= 0:
        end = find(ids, closed, at)
        if end < 0 or tokenizer.decode(ids[at + 1 : min(end, at + 8)]).strip():
            return True
        at = find(ids, opened, end)
    return False


def ends_thinking(dialect: OutputDialect, ids: Sequence[int], start: int) -> bool:
    """Whether the answer that begins at `start` ends inside a thinking span, perhaps one that the prompt's last ids opened."""
    opened, closed = dialect.marker_ids.get("<think>"), dialect.marker_ids.get("</think>")
    if opened is None or closed is None:
        return False
    at = rfind(ids, opened, max(0, start - PREFILLED_IDS))
    return at >= 0 and rfind(ids, closed, at) < 0


def is_query(turn: Utterance) -> bool:
    """Whether a template that drops earlier thinking takes this turn for a new question of the user."""
    is_answer = turn.text.startswith("<tool_response>") and turn.text.endswith("</tool_response>")
    return turn.role == "user" and not is_answer


def find(ids: Sequence[int], token_id: int, start: int) -> int:
    try:
        return ids.index(token_id, start)
    except ValueError:
        return -1


def rfind(ids: Sequence[int], token_id: int, start: int) -> int:
    """Where the id last stands at or after `start`; -1 if nowhere."""
    return next((at for at in range(len(ids) - 1, start - 1, -1) if ids[at] == token_id), -1)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
