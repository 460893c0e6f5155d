"""vLLM asked in messages, with its tokens on record: the server writes the prompt by its own chat template, and reads calls and
thinking out of the answer.

Invariant: on record are the ids the engine says it used and sampled, and never any of our own. An answer whose ids are not
told, or not all of them, says so (`not_exact`) and has no record.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from perdure.core.errors import ProviderError
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Part, ReasoningPart, TextPart
from perdure.core.model import Chunk, ModelDone, Prompt, ReasoningChunk, TextChunk, TokenCapture
from perdure.core.runs import Usage
from perdure.core.tokens import Finish, TokenCall, floats_to_bytes, ids_to_bytes
from perdure.providers.attempts import Batches, attempts
from perdure.providers.base import TokenDone, TokenStream
from perdure.providers.openai_chat import OpenAIChat
from perdure.providers.sampled import Sampled
from perdure.providers.served_plan import served_plan, served_renderer
from perdure.providers.token_exact import UNDER_A_GRAMMAR
from perdure.providers.vllm import VLLM
from perdure.providers.vllm_frames import Generation

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
)


class VLLMChat:
    """A Model. `chat` asks and reads the messages; `engine` is the same server by its token ids, for scoring.

    `handle`: the model as agents name it.
    """

    def __init__(
        self,
        chat: OpenAIChat,
        engine: VLLM,
        *,
        provider_name: str,
        model_name: str,
        handle: str,
        engine_version: str | None = None,
    ) -> None:
        self.engine = engine
        self.handle = handle
        self._chat = chat
        self._provider = provider_name
        self._model = model_name
        self._version = engine_version
        self._written_by = served_renderer(engine.kind, engine_version)

    @property
    def takes_images(self) -> bool:
        return self._chat.takes_images

    def stream(self, prompt: Prompt, tokens: TokenStream | None = None) -> Batches:
        body = self._chat.body(prompt, _asked_for(prompt))
        return attempts(self._chat.http, self._chat.retries, lambda: self._once(prompt, tokens or TokenStream(), body))

    async def _once(self, prompt: Prompt, tokens: TokenStream, body: bytes) -> Batches:
        if prompt.settings.return_routed_experts:
            raise ProviderError(
                "model_settings.return_routed_experts is for models whose tokenizer is here, so that ids are sent: this one is "
                "asked in messages. Give its tokenizer, or leave the setting out.",
                kind="llm_bad_request",
            )
        answer = _Answer(self._provider, prompt)
        try:
            async with aclosing(self._chat.once(body, answer.watch)) as batches:
                async for batch in batches:
                    done = batch[-1]
                    if isinstance(done, ModelDone):
                        yield [*batch[:-1], self._recorded(prompt, tokens, answer, done)]
                    else:
                        answer.show(batch)
                        yield batch
        except asyncio.CancelledError:
            if prompt.on_cut_off is not None and answer.sampled.ids and answer.tokens.prompt_ids:
                prompt.on_cut_off(self._cut_off(prompt, tokens, answer))
            raise

    def _recorded(self, prompt: Prompt, tokens: TokenStream, answer: "_Answer", done: ModelDone) -> ModelDone:
        told = answer.tokens.done(b"")
        if told.finish.type == "abort":
            raise ProviderError(
                f"{self._provider} broke off the answer of {self._model} (is it updating its weights?). An answer that is asked "
                "for in messages cannot be continued. Send the message again.",
                kind="llm_connection",
                retryable=not answer.sampled.ids,
            )
        logprobs = done.logprobs if prompt.want_logprobs else None  # else their tokens are named by ids
        if (why := answer.missing(told)) is not None:
            return msgspec.structs.replace(done, logprobs=logprobs, not_exact=f"{self._provider} {why}")
        capture = self._capture(prompt, tokens, answer, told)
        return msgspec.structs.replace(done, logprobs=logprobs, capture=capture)

    def _cut_off(self, prompt: Prompt, tokens: TokenStream, answer: "_Answer") -> ModelDone:
        """What there is of an answer that nobody waits for any more: on record, and nothing to train on."""
        told = TokenDone(finish=Finish("abort", raw="cancelled"), engine_request_id=answer.tokens.request_id)
        capture = self._capture(prompt, tokens, answer, told)
        usage = Usage(
            prompt_tokens=capture.call.prompt_len,
            completion_tokens=capture.call.length,
            total_tokens=capture.call.prompt_len + capture.call.length,
        )
        return ModelDone(
            finish="abort",
            content=answer.content(),
            usage=usage,
            model=self._model,
            capture=capture,
            request_id=told.engine_request_id,
        )

    def _capture(self, prompt: Prompt, tokens: TokenStream, answer: "_Answer", told: TokenDone) -> TokenCapture:
        assert answer.tokens.prompt_ids is not None
        plan = served_plan(
            prompt,
            tokens,
            answer.tokens.prompt_ids,
            written_by=self._written_by,
            handle=self.handle,
            model_name=self._model,
        )
        sampled = answer.sampled
        matched = told.finish.matched
        call = TokenCall(
            id=new_id("call"),
            segment_id=plan.segment.id,
            conversation_id=prompt.conversation_id,
            agent_id=prompt.agent_id,
            run_id=prompt.run_id,
            step_id=prompt.step_id,
            created_us=answer.created_us,
            delta_ids=ids_to_bytes(plan.delta),
            completion_ids=ids_to_bytes(sampled.ids),
            logprobs=floats_to_bytes(sampled.logprobs),
            prompt_len=len(plan.ids),
            length=len(sampled.ids),
            finish=told.finish,
            engine=self.engine.kind,
            engine_version=self._version,
            engine_base_url=self.engine.base_url,
            engine_request_id=told.engine_request_id,
            stop_token_included=isinstance(matched, int) and bool(sampled.ids) and sampled.ids[-1] == matched,
            logprob_semantics=UNDER_A_GRAMMAR["vllm"] if _prescribed(prompt) else self.engine.logprob_semantics,
            sampling=_sampling(prompt),
            bridge=plan.bridge,
            spans=plan.spans,
            versions=told.versions,
            top_logprobs=sampled.top,
            message_ids=plan.message_ids,
            assistant_message_id=prompt.assistant_message_id,
            parse={"by": "server"},
            cached_tokens=told.cached_tokens,
            first_token_us=sampled.first_us,
            ended_us=now_us(),
            trainable=told.finish.type != "abort",
        )
        return TokenCapture(call=call, segment=plan.begins)


class _Answer:
    """One answer under way: `tokens` reads the ids out of its frames, `sampled` has them."""

    def __init__(self, provider: str, prompt: Prompt) -> None:
        self.created_us = now_us()
        top = 0 if prompt.want_logprobs else _top_logprobs(prompt)
        self.tokens = _ChatTokens(provider, top_logprobs=top, token_texts=prompt.want_logprobs)
        self.sampled = Sampled(want_top=top > 0)
        self._shown: list[tuple[type[TextPart | ReasoningPart], list[str]]] = []

    def watch(self, frames: Sequence[bytes]) -> None:
        if batch := self.tokens.take(list(frames)):
            self.sampled.add(batch)

    def show(self, chunks: Sequence[Chunk | ModelDone]) -> None:
        for chunk in chunks:
            if isinstance(chunk, TextChunk | ReasoningChunk):
                kind = TextPart if isinstance(chunk, TextChunk) else ReasoningPart
                if not self._shown or self._shown[-1][0] is not kind:
                    self._shown.append((kind, []))
                self._shown[-1][1].append(chunk.text)

    def content(self) -> tuple[Part, ...]:
        """What was shown of it, in parts."""
        return tuple(kind("".join(pieces)) for kind, pieces in self._shown)

    def missing(self, told: TokenDone) -> str | None:
        """What the server did not tell, where its ids are not all there."""
        prompt_ids, sampled = self.tokens.prompt_ids, len(self.sampled.ids)
        if prompt_ids is None or not sampled:
            return "told no token ids with this answer, though it was asked to (`return_token_ids`)."
        if told.prompt_tokens is not None and told.prompt_tokens != len(prompt_ids):
            return f"told {len(prompt_ids)} ids of a prompt of {told.prompt_tokens} tokens."
        if self.tokens.completion_tokens not in (None, sampled):
            return f"told {sampled} ids of an answer of {self.tokens.completion_tokens} tokens."
        return None


class _ChatTokens(Generation):
    """The ids in the frames of a chat completion. What errors they tell of is read with the message."""

    def _fail(self, error: Any, data: bytes) -> None:
        pass


def _top_logprobs(prompt: Prompt) -> int:
    return (prompt.top_logprobs if prompt.top_logprobs is not None else prompt.settings.top_logprobs) or 0


def _asked_for(prompt: Prompt) -> dict[str, Any]:
    """Ids are asked for in place of token texts, unless the texts are wanted: texts do not tell tokens apart."""
    fields: dict[str, Any] = {"return_token_ids": True, "logprobs": True, "top_logprobs": _top_logprobs(prompt)}
    return fields if prompt.want_logprobs else fields | {"return_tokens_as_token_ids": True}


def _prescribed(prompt: Prompt) -> bool:
    """Whether the server may hold the answer, or a part of it, to a grammar of its own."""
    forced = bool(prompt.tools) and prompt.tool_choice not in ("auto", "none")
    return prompt.settings.response_format is not None or forced or any(tool.strict for tool in prompt.tools)


def _sampling(prompt: Prompt) -> dict[str, Any]:
    """The sampling settings as sent; those left to the server's own defaults are not in it."""
    settings = prompt.settings
    sent = {"max_new_tokens": settings.max_output_tokens} | {name: getattr(settings, name) for name in _SAMPLING}
    return {name: value for name, value in sent.items() if value not in (None, [], ())}
