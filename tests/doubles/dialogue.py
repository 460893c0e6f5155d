"""A conversation of many turns with a real engine, every call's prompt held against the one before."""

from array import array
from collections.abc import Sequence
from typing import Any

from perdure.core.agents import ModelSettings
from perdure.core.ids import new_id
from perdure.core.messages import Message, TextPart, ToolReturn
from perdure.core.model import ModelDone, Prompt, TextChunk, ToolSpec
from perdure.core.tokens import TokenCall, bytes_to_floats, bytes_to_ids
from perdure.providers.base import Model, TokenStream
from perdure.providers.token_exact import extend

LOOK = ToolSpec("look", "Look at something.", {"type": "object", "properties": {"at": {"type": "string"}}})


class Dialogue:
    """`grown`: for each call but those that began a segment, that its prompt begins with all the engine had seen."""

    def __init__(self, model: Model, *, tools: Sequence[ToolSpec] = (), settings: ModelSettings | None = None) -> None:
        self.model = model
        self.tools = tools
        self.settings = settings or ModelSettings(max_output_tokens=24, temperature=1.0)
        self.messages: list[Message] = []
        self.tokens = TokenStream()
        self.calls: list[TokenCall] = []
        self.grown: list[bool] = []

    def say(self, text: str) -> None:
        self._add("user", content=(TextPart(text),))

    def tool_answers(self, done: ModelDone, text: str) -> None:
        answers = tuple(ToolReturn(call.id, call.name, "success", text) for call in done.tool_calls)
        self._add("tool", tool_returns=answers)

    async def step(self) -> ModelDone:
        prompt = Prompt(
            model="m",
            system="You look at things.",
            messages=self.messages,
            tools=self.tools,
            settings=self.settings,
            context_window=8192,
            assistant_message_id=new_id("message"),
            conversation_id="conv-test",
            agent_id="agent-test",
        )
        seen = array("i", self.tokens.ids)
        done: ModelDone | None = None
        text: list[str] = []
        async for batch in self.model.stream(prompt, self.tokens):
            for item in batch:
                if isinstance(item, ModelDone):
                    done = item
                elif isinstance(item, TextChunk):
                    text.append(item.text)
        assert done is not None and done.capture is not None
        assert "".join(text) == "".join(part.text for part in done.content if isinstance(part, TextPart))
        extend(self.tokens, done.capture)
        if done.capture.segment is None:
            self.grown.append(self.tokens.ids[: len(seen)] == seen)
        self.calls.append(done.capture.call)
        self._add("assistant", id=prompt.assistant_message_id, content=done.content, tool_calls=done.tool_calls)
        return done

    def sampled(self, index: int) -> tuple["array[int]", int, "array[float]"]:
        """(everything up to the end of call `index`, where its completion begins, its logprobs); one segment only."""
        call = self.calls[index]
        end = call.prompt_len + call.length
        assert self.tokens.ids[call.prompt_len : end] == bytes_to_ids(call.completion_ids)
        return self.tokens.ids[:end], call.prompt_len, bytes_to_floats(call.logprobs)

    def _add(self, role: Any, *, id: str | None = None, **parts: Any) -> None:
        self.messages.append(Message(id=id or new_id("message"), role=role, created_us=1, **parts))
