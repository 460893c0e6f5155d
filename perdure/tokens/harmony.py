"""gpt-oss's harmony: messages with headers, `<|start|>role<|channel|>channel<|message|> … <|end|>`.

Ids equal those of the model's own template for retention "tool_cycle", which drops thinking once a final answer has followed;
"all" keeps it. The date is the day the conversation began. A system turn that comes later is a developer's message. What the
model ended with `<|return|>` stays as it was sampled, where the template would write `<|end|>`.
"""

from collections.abc import Sequence

from perdure.tokens.assembly import Assembly
from perdure.tokens.base import Tokenizer
from perdure.tokens.native import NativeRenderer, Opening, Style, find, rfind
from perdure.tokens.templates import to_json
from perdure.tokens.typescript import namespace
from perdure.tokens.utterances import ASSISTANT, SYSTEM, TOOL, Utterance

_IDENTITY = "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\nCurrent date: "
_CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message."
_CALLS_TO = "\nCalls to these tools must go to the commentary channel: 'functions'."


class HarmonyRenderer(NativeRenderer):
    def __init__(self, tokenizer: Tokenizer, *, template: str | None = None) -> None:
        super().__init__(
            tokenizer,
            name="harmony",
            tool_format="harmony",
            ends=("<|return|>", "<|call|>"),
            needs=("<|start|>", "<|channel|>", "<|message|>", "<|end|>"),
            template=template,
        )
        self._end = "<|end|>"
        names = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>")
        self._start_id, self._channel_id, self._message_id, self._end_id, self._call_id = (
            -1 if (found := tokenizer.special_id(name)) is None else found for name in names
        )
        self._analysis = tokenizer.encode("analysis")
        self._closing = frozenset((*self.stop_token_ids, self._end_id))
        self._turn_ids = self._closing | {self._start_id}

    def _has_thoughts(self, ids: Sequence[int]) -> bool:
        ids = ids[:-1] if ids and ids[-1] in self._closing else ids
        at = find(ids, self._channel_id, 0)
        while at >= 0:
            body = find(ids, self._message_id, at) if self._is_analysis(ids, at) else -1
            end = find(ids, self._end_id, at)
            is_whole = body >= 0 and not any(one in self._turn_ids for one in ids[at:body])  # else it was cut off
            shown = ids[body + 1 : body + 8 if end < 0 else min(end, body + 8)] if is_whole else ()
            if self.tokenizer.decode(shown).strip():
                return True
            at = find(ids, self._channel_id, at + 1)
        return False

    def _is_analysis(self, ids: Sequence[int], channel_at: int) -> bool:
        begin = channel_at + 1
        return list(ids[begin : begin + len(self._analysis)]) == self._analysis

    def _ends_thinking(self, ids: Sequence[int], start: int) -> bool:
        begin = rfind(ids, self._channel_id, start)
        if begin < 0 or not self._is_analysis(ids, begin) or find(ids, self._message_id, begin) < 0:
            return False
        ended = any(one in (self._end_id, self._start_id, self._call_id) for one in ids[begin:])
        return not ended

    def _start(self, assembly: Assembly, opening: Opening) -> int:
        message_id = opening.message_id
        told = _CHANNELS + (_CALLS_TO if opening.tools else "")
        assembly.template(
            f"<|start|>system<|message|>{_IDENTITY}{opening.day.isoformat()}\n\nReasoning: medium\n\n{told}<|end|>"
        )
        if opening.system or opening.tools:
            assembly.template("<|start|>developer<|message|>", message_id, SYSTEM)
            if opening.system:
                assembly.template("# Instructions\n\n", message_id, SYSTEM)
                assembly.content(opening.system, message_id, SYSTEM)
                assembly.template("\n\n", message_id, SYSTEM)
            if opening.tools:
                assembly.template("# Tools\n\n", message_id, SYSTEM)
                assembly.content(namespace("functions", opening.tools), message_id, SYSTEM)
            assembly.template("<|end|>", message_id, SYSTEM)
        return 0

    def _turns(self, assembly: Assembly, turns: Sequence[Utterance], style: Style) -> None:
        finals = [at for at, turn in enumerate(turns) if turn.role == "assistant" and not turn.calls]
        last_final = finals[-1] if finals else -1
        called = {call.id: call.name for turn in turns for call in turn.calls}
        for at, turn in enumerate(turns):
            if turn.role == "assistant":
                self._assistant(assembly, turn, keep_all=style.retention == "all", is_past=at < last_final)
            elif turn.role == "tool":
                name = turn.tool_name or called.get(turn.call_id, "tool")
                assembly.template("<|start|>functions.", turn.message_id, TOOL)
                assembly.detail(name, turn.message_id, TOOL)
                assembly.template(' to=assistant<|channel|>commentary<|message|>"', turn.message_id, TOOL)
                assembly.content(to_json(turn.text)[1:-1], turn.message_id, TOOL)
                assembly.template('"<|end|>', turn.message_id, TOOL)
            else:
                role = "developer" if turn.role == "system" else "user"
                assembly.template(f"<|start|>{role}<|message|>", turn.message_id, turn.owner)
                assembly.content(turn.text, turn.message_id, turn.owner)
                assembly.template("<|end|>", turn.message_id, turn.owner)

    def _assistant(self, assembly: Assembly, turn: Utterance, *, keep_all: bool, is_past: bool) -> None:
        thought = turn.reasoning if keep_all or (turn.calls and not is_past) else ""
        if thought:
            self._message(assembly, turn, "analysis", thought)
        if not turn.calls:
            self._message(assembly, turn, "final", turn.text)
        elif turn.text and (keep_all or not is_past):
            # the template takes words beside a call for thinking, unless there is thinking too
            self._message(assembly, turn, "commentary" if turn.reasoning or keep_all else "analysis", turn.text)
        for call in turn.calls:
            assembly.template("<|start|>assistant to=functions.", turn.message_id, ASSISTANT)
            assembly.content(call.name, turn.message_id, ASSISTANT)
            assembly.template("<|channel|>commentary json<|message|>", turn.message_id, ASSISTANT)
            assembly.content(call.arguments, turn.message_id, ASSISTANT)
            assembly.template("<|call|>", turn.message_id, ASSISTANT)

    def _message(self, assembly: Assembly, turn: Utterance, channel: str, text: str) -> None:
        assembly.template(f"<|start|>assistant<|channel|>{channel}<|message|>", turn.message_id, ASSISTANT)
        assembly.content(text, turn.message_id, ASSISTANT)
        assembly.template("<|end|>", turn.message_id, ASSISTANT)

    def _generation(self, assembly: Assembly, turns: Sequence[Utterance], enable_thinking: bool | None) -> bool:
        assembly.template("<|start|>assistant")
        return False
