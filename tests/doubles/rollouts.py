"""Made-up rollouts: an agent's conversation of several turns with everything that may happen to it, drawn by a seed.

Answers are cut, aborted or end as they should, thinking is left open, calls come one or several at a time; users say
several things in a row, tools answer with anything, the system prompt and the tools change, history is compacted or edited.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

from perdure.core.ids import new_id
from perdure.core.messages import Message, ReasoningPart, ToolReturn
from perdure.core.model import ToolSpec
from perdure.core.tokens import Segment, TokenCall, bytes_to_ids
from perdure.providers.base import TokenStream
from perdure.providers.token_exact import extend
from perdure.tokens.base import Renderer
from tests.doubles.answers import answer_ids, end_id, opens_thought
from tests.doubles.conversations import HOSTILE, TOOLS, SaidEngine, answer, call, message, model_of, prompt

_PIECES = (
    *HOSTILE,
    *("\n", "\n\n", " ", "é", "🙂", "the quick", "brown fox ", "e\u0301", '{"a": [1', "```", "\\", '"', "\t", "0"),
    *("</arg_value>", "</parameter>", "[TOOL_CALLS]", "<|call|>", "<｜tool▁call▁end｜>", "\u2028", "ﬁ", "\x00"),
)
MORE_TOOLS = (*TOOLS, ToolSpec("stop", "Stops.", {"type": "object", "properties": {}}))


class Rollout:
    """`breaks`: (cause, detail, the causes that were possible) of each segment after the first."""

    def __init__(self, renderer: Renderer, seed: int) -> None:
        self.renderer = renderer
        self.random = random.Random(seed)
        self.segments: list[Segment] = []
        self.calls: list[TokenCall] = []
        self.messages: dict[str, Message] = {}
        self.breaks: list[tuple[str, str, set[str]]] = []
        self.bridges = 0
        self._tokens = TokenStream()
        self._context: list[Message] = []
        self._system = self._text()
        self._tools: Sequence[ToolSpec] = self.random.choice(((), (), TOOLS))
        self._retention = self.random.choice(("all", "tool_cycle"))
        self._thinking = self.random.choice((None, None, True, False))
        self._thought = False

    async def run(self) -> None:
        self._say("user")
        for _ in range(self.random.randint(1, 6)):
            await self._turn(self._happening() if self.calls else set())

    def _text(self) -> str:
        return "".join(self.random.choices(_PIECES, k=self.random.choice((0, 1, 1, 2, 4, 8))))

    def _say(self, role: str) -> None:
        self._add(message(role, self._text()))

    def _add(self, said: Message) -> None:
        self._context.append(said)
        self.messages[said.id] = said

    def _happening(self) -> set[str]:
        """Something that may befall a context between two calls; the causes a break may have then."""
        match self.random.randrange(40):
            case 0:
                self._system += "."
                return {"memory_rewrite"}
            case 1:
                self._tools = MORE_TOOLS if self._tools is TOOLS else TOOLS  # others than before
                return {"tools_change"}
            case 2:
                self._context = []
                self._say("summary")
                self._tokens.break_cause = ("compaction", "the context was full")
                return {"compaction"}
            case 3:
                self._context[0] = message("user", "Edited.")
                self.messages[self._context[0].id] = self._context[0]
                return {"history_edit"}
            case _:
                return set()

    async def _turn(self, happened: set[str]) -> None:
        possible = set(happened)
        if not possible:
            new = self._context[len(self._tokens.covered) :]
            asks = any(one.role in ("user", "summary", "system") for one in new)
            if self._retention == "tool_cycle" and self._thought and asks:
                possible.add("thinking_drop")
            last = self.calls[-1] if self.calls else None
            if last and last.finish.type == "stop" and not last.parse["reasoning_complete"]:
                possible.add("renderer_fallback")
        asked = prompt(
            list(self._context),
            system=self._system,
            tools=self._tools,
            thinking_retention=self._retention,
            settings=prompt([]).settings.__class__(enable_thinking=self._thinking),
            agent_id="agent-1",
            conversation_id="conv-1",
            run_id="run-1",
            step_id=new_id("step"),
        )
        engine = SaidEngine([self._sample], batch=self.random.choice((1, 3, 64)))
        done, _ = await call(model_of(engine, self.renderer), asked, self._tokens)
        assert done.capture is not None
        seen, sent = list(self._tokens.ids), list(engine.requests[0].ids)
        if done.capture.segment is None:
            assert sent[: len(seen)] == seen
            assert done.capture.call.bridge == "bridge"
            self.bridges += 1
        else:
            if self.segments:
                begun = done.capture.segment
                self.breaks.append((begun.cause, begun.cause_detail or "", possible))
                self._thought = False
            self.segments.append(done.capture.segment)
        extend(self._tokens, done.capture)
        self.calls.append(done.capture.call)
        assert list(self._tokens.ids) == sent + list(bytes_to_ids(done.capture.call.completion_ids))
        self._thought = self._thought or self._has_thoughts(asked.messages, done.capture.call)
        self._add(answer(asked, done))
        self._after(done)

    def _has_thoughts(self, before: Sequence[Message], made: TokenCall) -> bool:
        span = made.parse["reasoning_span"]
        thought = bytes_to_ids(made.completion_ids)[slice(*span)] if span else ()
        shown = any(isinstance(part, ReasoningPart) for one in before for part in one.content)
        if self.renderer.dialect.tool_format == "harmony":  # its template takes words beside a call for thinking
            shown = shown or any(one.tool_calls and one.content for one in before)
        return shown or bool(self.renderer.tokenizer.decode(thought).strip())

    def _sample(self, ids: Sequence[int]) -> list[tuple[list[int], str]]:
        """What a model might answer, and how it ends. An engine that breaks it off is asked for the rest."""
        draw = self.random
        names = draw.choices(("look", "go"), k=draw.choice((0, 0, 1, 1, 2, 3)))
        calls = [(name, json.dumps({"at": self._text()} if name == "look" else {})) for name in names]
        thought = self._text() if draw.random() < 0.4 else None
        opened = opens_thought(self.renderer, ids)
        made = answer_ids(self.renderer, self._text(), calls, thought=thought, opened=opened)
        ending = draw.choice(("stop",) * 8 + ("cut", "abort", "early", "other"))
        at = draw.randint(0, len(made))
        if ending in ("cut", "early"):
            made = made[:at]
        if ending == "cut":
            return [(made, "length")]
        end = end_id(self.renderer, calls) if ending != "other" else draw.choice(self.renderer.stop_token_ids)
        whole = [*made, end]
        return [(whole[:at], "abort"), (whole[at:], "stop")] if ending == "abort" else [(whole, "stop")]

    def _after(self, done: Any) -> None:
        if done.tool_calls:
            answers = tuple(ToolReturn(one.id, one.name, "success", self._text()) for one in done.tool_calls)
            self._add(message("tool", tool_returns=answers))
        for _ in range(self.random.choice((0, 0, 1)) if done.tool_calls else self.random.choice((1, 1, 1, 2))):
            self._say(self.random.choice(("user", "user", "user", "system", "summary")))
