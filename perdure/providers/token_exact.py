"""A Model out of an engine that takes and gives token ids.

Invariant: within a segment the prompt of a call is what the engine has seen, its own sampled ids included, plus newly
rendered ids. A new segment begins only for a cause that is on record.
"""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from perdure.core.agents import ModelSettings
from perdure.core.dialect import PARSER_NAMES, OutputDialect
from perdure.core.errors import PromptTooLong, ProviderError
from perdure.core.experts import KeptExperts, keep
from perdure.core.ids import new_id, now_us
from perdure.core.messages import TextPart
from perdure.core.model import Chunk, CountedPrompt, ModelDone, Prompt, ProviderExchange, TokenCapture, TokenLogprob
from perdure.core.runs import Usage
from perdure.core.tokens import Finish, LogprobSemantics, TokenCall, floats_to_bytes, ids_to_bytes
from perdure.parsing.output import OutputParser, ParsedOutput
from perdure.providers.base import TokenDone, TokenEngine, TokenRequest, TokenStream
from perdure.providers.experts import ExpertsAsked
from perdure.providers.resume import resumed
from perdure.providers.sampled import Sampled
from perdure.providers.token_count import count_prompt
from perdure.providers.token_plan import Plan, extend, make_plan, note_summary, restore
from perdure.tokens.base import Renderer
from perdure.tokens.dialects import dialect_of
from perdure.tokens.grammar import Grammars, answer_grammar

__all__ = ["TokenExactModel", "extend", "note_summary", "restore"]

DEFAULT_MAX_TOKENS = 4096
THREAD_FROM_CHARS = 20_000
# what logprobs are under a grammar where they are raw without: vLLM takes away what it forbids before it computes them
UNDER_A_GRAMMAR: dict[str, LogprobSemantics] = {"vllm": "processed"}
THREAD_FROM_BYTES = 256 * 1024


class TokenExactModel:
    """Implements `providers.base.Model` and `CountsTokens`.

    `context_window`: the engine's own, in tokens, where known; a prompt may set a smaller one. `vocab_size`: the model's
    rows, where known to be more than the tokenizer's ids. `handle`: the model as agents name it. `grammars`: what the
    engine's grammar backend keeps. `experts`: the model's layers and experts, where they are known.
    """

    takes_images = False

    def __init__(
        self,
        engine: TokenEngine,
        renderer: Renderer,
        *,
        provider_name: str,
        model_name: str,
        handle: str,
        context_window: int | None = None,
        engine_version: str | None = None,
        vocab_size: int | None = None,
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
        grammars: Grammars = "any",
        experts: ExpertsAsked | None = None,
    ) -> None:
        self.engine = engine
        self.renderer = renderer
        self.provider_name = provider_name
        self.model_name = model_name
        self.handle = handle
        self.context_window = context_window
        self._engine_version = engine_version
        self._vocab_size = max(vocab_size or 0, renderer.tokenizer.info.vocab_size)
        self._default_max_tokens = default_max_tokens
        self._grammars: Grammars = grammars
        self._experts = experts or ExpertsAsked()

    async def stream(
        self, prompt: Prompt, tokens: TokenStream | None = None
    ) -> AsyncIterator[Sequence[Chunk | ModelDone]]:
        created_us = now_us()
        tokens = tokens or TokenStream()
        plan = await self._plan(prompt, tokens)
        request = self._request(prompt, plan, tokens.routed if plan.begins is None else 0)
        parser = OutputParser(
            self._dialect(prompt),
            self.renderer.tokenizer,
            reasoning_open=plan.reasoning_open,
            stop_token_ids=self.renderer.stop_token_ids,
            tools=prompt.tools if prompt.shown_tools is None else prompt.shown_tools,
        )
        sampled = Sampled(want_top=request.top_logprobs > 0)
        done: TokenDone | None = None
        try:
            async with aclosing(resumed(self.engine, request)) as answer:
                async for item in answer:
                    if isinstance(item, TokenDone):
                        done = item
                        break
                    sampled.add(item)
                    if chunks := parser.feed(item.ids):
                        yield chunks
        except asyncio.CancelledError:
            if prompt.on_cut_off is not None and sampled.ids:
                prompt.on_cut_off(self._cut_off(prompt, plan, request, sampled, parser, created_us))
            raise
        assert done is not None
        output = parser.finish()
        experts = await self._kept(request, done)
        call = self._call(prompt, plan, request, sampled, done, output, created_us, experts)
        capture = TokenCapture(call=call, segment=plan.begins)
        yield [*output.chunks, self._done(prompt, plan, sampled, done, output, capture)]

    def _cut_off(
        self,
        prompt: Prompt,
        plan: Plan,
        request: TokenRequest,
        sampled: Sampled,
        parser: OutputParser,
        created_us: int,
    ) -> ModelDone:
        """What there is of an answer that nobody waits for any more: on record, and nothing to train on."""
        done, output = TokenDone(finish=Finish("abort", raw="cancelled")), parser.finish()
        call = self._call(prompt, plan, request, sampled, done, output, created_us)
        return self._done(prompt, plan, sampled, done, output, TokenCapture(call=call, segment=plan.begins))

    def _dialect(self, prompt: Prompt) -> OutputDialect:
        """The model's own, unless the agent's settings name another form of calls."""
        own = self.renderer.dialect
        wanted = PARSER_NAMES.get(prompt.settings.tool_call_parser or "", own.tool_format)
        return own if wanted == own.tool_format else dialect_of(wanted, self.renderer.tokenizer)

    async def _plan(self, prompt: Prompt, tokens: TokenStream) -> Plan:
        """Encoding a long text takes a while: it is done in a thread, so that other streams go on."""
        held = 0 if tokens.segment is None or tokens.break_cause else len(tokens.covered)
        said = sum(len(part.text) for m in prompt.messages[held:] for part in m.content if isinstance(part, TextPart))
        said += sum(len(answer.content) for m in prompt.messages[held:] for answer in m.tool_returns)
        if said + (0 if held else len(prompt.system)) > THREAD_FROM_CHARS:
            return await asyncio.to_thread(make_plan, self.renderer, prompt, tokens, self.handle, self.model_name)
        return make_plan(self.renderer, prompt, tokens, self.handle, self.model_name)

    def count_text(self, text: str) -> int:
        return len(self.renderer.tokenizer.encode(text))

    async def count_prompt(self, prompt: Prompt) -> CountedPrompt:
        return await asyncio.to_thread(count_prompt, self.renderer, prompt)

    def _request(self, prompt: Prompt, plan: Plan, routed: int) -> TokenRequest:
        """`routed`: of how many of the ids the experts are on record."""
        size = len(plan.ids)
        window = min(prompt.context_window, self.context_window or prompt.context_window)
        if size >= window:
            raise PromptTooLong(
                f"The prompt of {size} tokens does not fit the context window of {window} tokens of {self.handle}.",
                prompt_tokens=size,
                fits=False,
            )
        if prompt.compact_at is not None and size > prompt.compact_at:
            raise PromptTooLong(
                f"The prompt of {size} tokens leaves little of the context window of {window} tokens of {self.handle}.",
                prompt_tokens=size,
                fits=True,
            )
        settings = prompt.settings
        wanted = settings.max_output_tokens or self._default_max_tokens
        top = prompt.top_logprobs if prompt.top_logprobs is not None else settings.top_logprobs
        return TokenRequest(
            model=self.model_name,
            ids=plan.ids,
            request_id=uuid.uuid4().hex,
            max_tokens=max(1, min(wanted, window - size)),
            stop_token_ids=self.renderer.stop_token_ids,
            # the engine's own samples are ids of its model, also where that has more rows than the tokenizer has ids
            vocab_size=max(self._vocab_size, plan.highest_id + 1),
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            min_p=settings.min_p,
            seed=settings.seed,
            frequency_penalty=settings.frequency_penalty,
            presence_penalty=settings.presence_penalty,
            repetition_penalty=settings.repetition_penalty,
            top_logprobs=top or 0,
            affinity=(prompt.conversation_id or prompt.agent_id, prompt.affinity),
            experts=self._asked_experts(settings, routed) if settings.return_routed_experts else None,
            grammar=answer_grammar(
                self.engine.kind,
                self._dialect(prompt),
                prompt.tools,
                prompt.tool_choice,
                parallel=prompt.parallel_tool_calls,
                reasoning_open=plan.reasoning_open,
                response_format=settings.response_format,
                may_think=settings.enable_thinking is not False,
                keeps=self._grammars,
            ),
        )

    def _asked_experts(self, settings: ModelSettings, start: int) -> ExpertsAsked:
        layers, top_k = settings.routed_experts_shape or (self._experts.layers, self._experts.top_k)
        return ExpertsAsked(start=start, layers=layers, top_k=top_k, num_experts=self._experts.num_experts)

    async def _kept(self, request: TokenRequest, done: TokenDone) -> KeptExperts | None:
        """The routed experts, packed. ProviderError where they were asked for and did not come with a whole answer."""
        rows = done.experts
        if request.experts is None or (rows is None and (done.finish.type == "abort" or done.attempts)):
            return None
        if rows is None:
            raise ProviderError(
                f"{self.handle} told no routed experts, which model_settings.return_routed_experts asks for. The engine must run "
                "with --enable-return-routed-experts (SGLang, vLLM) and serve a mixture of experts.",
                kind="llm_bad_request",
            )
        if not rows.data:
            return None
        return await asyncio.to_thread(keep, rows) if len(rows.data) > THREAD_FROM_BYTES else keep(rows)

    def _call(
        self,
        prompt: Prompt,
        plan: Plan,
        request: TokenRequest,
        sampled: Sampled,
        done: TokenDone,
        output: ParsedOutput,
        created_us: int,
        experts: KeptExperts | None = None,
    ) -> TokenCall:
        text = self.renderer.tokenizer.decode(sampled.ids)
        return TokenCall(
            id=new_id("call"),
            segment_id=plan.segment.id,
            conversation_id=prompt.conversation_id,
            agent_id=prompt.agent_id,
            run_id=prompt.run_id,
            step_id=prompt.step_id,
            created_us=created_us,
            delta_ids=ids_to_bytes(plan.delta),
            completion_ids=ids_to_bytes(sampled.ids),
            logprobs=floats_to_bytes(sampled.logprobs),
            prompt_len=len(plan.ids),
            length=len(sampled.ids),
            finish=done.finish,
            engine=self.engine.kind,
            engine_version=self._engine_version,
            engine_base_url=done.base_url or self.engine.base_url,
            engine_request_id=done.engine_request_id,
            stop_token_included=bool(sampled.ids) and sampled.ids[-1] in self.renderer.stop_token_ids,
            logprob_semantics=self._semantics(request),
            sampling=_sampling(request),
            bridge=plan.bridge,
            spans=plan.spans,
            synthesized=plan.synthesized,
            versions=done.versions,
            top_logprobs=sampled.top,
            message_ids=plan.message_ids,
            assistant_message_id=prompt.assistant_message_id,
            parse=output.parse,
            text_sha256=hashlib.sha256(text.encode()).hexdigest(),
            cached_tokens=done.cached_tokens,
            retractions=done.retractions,
            first_token_us=sampled.first_us,
            ended_us=now_us(),
            trainable=done.finish.type != "abort",
            attempts=done.attempts,
            experts=experts,
        )

    def _semantics(self, request: TokenRequest) -> LogprobSemantics:
        own = self.engine.logprob_semantics
        return own if request.grammar is None else UNDER_A_GRAMMAR.get(self.engine.kind, own)

    def _done(
        self,
        prompt: Prompt,
        plan: Plan,
        sampled: Sampled,
        done: TokenDone,
        output: ParsedOutput,
        capture: TokenCapture,
    ) -> ModelDone:
        finish = done.finish.type
        span = output.parse["reasoning_span"]
        usage = Usage(
            prompt_tokens=len(plan.ids),
            completion_tokens=len(sampled.ids),
            total_tokens=len(plan.ids) + len(sampled.ids),
            cached_input_tokens=done.cached_tokens,
            reasoning_tokens=span[1] - span[0] if span else 0,
        )
        exchange = ProviderExchange(request=done.request, response=msgspec.json.encode(done.response))
        return ModelDone(
            finish="tool_calls" if finish == "stop" and output.tool_calls else finish,
            content=output.content,
            tool_calls=output.tool_calls,
            usage=usage,
            model=self.model_name,
            logprobs=self._logprobs(sampled) if prompt.want_logprobs else None,
            capture=capture,
            unparsed=output.unparsed,
            exchange=exchange if done.request else None,
            request_id=done.engine_request_id,
        )

    def _logprobs(self, sampled: Sampled) -> list[TokenLogprob]:
        tops = sampled.top or [[]] * len(sampled.ids)
        return [
            TokenLogprob(*self._named(token_id, logprob), tuple(self._named(other, p) for p, other in top))
            for token_id, logprob, top in zip(sampled.ids, sampled.logprobs, tops, strict=True)
        ]

    def _named(self, token_id: int, logprob: float) -> tuple[str, float, list[int]]:
        written = self.renderer.tokenizer.token_bytes(token_id)
        return written.decode("utf-8", "replace"), logprob, list(written)


def _sampling(request: TokenRequest) -> dict[str, Any]:
    """The sampling settings as sent; those left to the engine's own defaults are not in it."""
    sent: dict[str, Any] = {
        "max_new_tokens": request.max_tokens,
        "stop_token_ids": list(request.stop_token_ids),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "seed": request.seed,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "repetition_penalty": request.repetition_penalty,
    }
    if request.grammar is not None:
        grammar = msgspec.json.encode(request.grammar, order="deterministic")
        sent["grammar_sha256"] = hashlib.sha256(grammar).hexdigest()
    return {name: value for name, value in sent.items() if value is not None}
