"""A double of an SGLang server over real HTTP, with the real one's habits, good and bad.

It answers scripted completions with the logprobs of a hash model, so a score request recomputes them exactly. Observed on
SGLang 0.5.23 and kept: an id outside the vocabulary ends the whole server; an abort takes every running rid it is a prefix
of; a rid used again is aborted; frames repeat everything unless `incremental`; unknown sampling parameters are refused; routed
experts are told with the last frame (an aborted running one too), as int32 without a shape, and left out where `experts` is None.
"""

import asyncio
import base64
import json
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiohttp import web

from perdure.core.errors import ProviderError
from perdure.core.experts import numbers
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.experts import ExpertsAsked
from perdure.providers.scripted import Completion, HashModel, ScriptedEngine, scripted_experts
from perdure.tokens.base import Tokenizer
from tests.doubles.serving import Double

SAMPLING = {
    "max_new_tokens", "stop", "stop_token_ids", "stop_regex", "temperature", "top_p", "top_k", "min_p", "frequency_penalty",
    "presence_penalty", "repetition_penalty", "min_new_tokens", "n", "json_schema", "regex", "ebnf", "structural_tag",
    "ignore_eos", "skip_special_tokens", "spaces_between_special_tokens", "no_stop_trim", "logit_bias", "sampling_seed",
}  # fmt: skip


class SGLangDouble(Double):
    """`requests` are the bodies asked, `aborts` the rids told to end, `disconnects` counts streams left by the client."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        completions: Iterable[str | Completion] = (),
        *,
        tokenizer_path: Path | str = "",
        stop: str = "<|im_end|>",
        model: str = "tiny",
        context: int = 8192,
        incremental: bool = False,
        api_key: str | None = None,
        prefix: str = "",
        experts: tuple[int, int] | None = None,
    ) -> None:
        stop_id = tokenizer.special_id(stop)
        assert stop_id is not None
        self.engine = ScriptedEngine(tokenizer, completions, stop_token_id=stop_id)
        self.vocab_size = tokenizer.info.vocab_size
        self.model = model
        self.context = context
        self.tokenizer_path = str(tokenizer_path)
        self.incremental = incremental
        self.api_key = api_key
        self.prefix = prefix
        self.experts = experts
        self.grammar_backend = "xgrammar"
        self.requests: list[dict[str, Any]] = []
        self.aborts: list[str] = []
        self.disconnects = 0
        self.dead = False
        self._used: set[str] = set()
        self._running: dict[str, asyncio.Event] = {}
        self.serve(self._app, handler_cancellation=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def script(self, *completions: str | Completion) -> None:
        self.engine.completions.extend(completions)

    def reset(self) -> None:
        """As it was made, for the next test that shares it."""
        self.engine.completions.clear()
        self.engine.default, self.engine.answer = "ok", None
        self.requests.clear()
        self.aborts.clear()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20, middlewares=[self._guard])
        app.router.add_post(f"{self.prefix}/generate", self._generate)
        app.router.add_post(f"{self.prefix}/abort_request", self._abort)
        app.router.add_get(f"{self.prefix}/v1/models", self._models)
        app.router.add_get(f"{self.prefix}/model_info", self._model_info)
        app.router.add_get(f"{self.prefix}/server_info", self._server_info)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.dead:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if self.api_key is not None and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def _models(self, _: web.Request) -> web.Response:
        entry = {"id": self.model, "object": "model", "owned_by": "sglang", "max_model_len": self.context}
        return web.json_response({"object": "list", "data": [entry]})

    async def _model_info(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"model_path": "org/tiny", "tokenizer_path": self.tokenizer_path, "weight_version": "default"}
        )

    async def _server_info(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.5.23", "grammar_backend": self.grammar_backend})

    async def _abort(self, request: web.Request) -> web.Response:
        rid = (await request.json()).get("rid", "")
        self.aborts.append(rid)
        if rid in self._running:
            for other, event in self._running.items():
                if other.startswith(rid):
                    event.set()
        return web.Response()

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        ids = body.get("input_ids") or []
        rid = body["rid"]
        if not all(0 <= token_id < self.vocab_size for token_id in ids):
            self.dead = True
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if unknown := set(body["sampling_params"]) - SAMPLING:
            return web.json_response({"error": f"unknown field `{unknown.pop()}`"}, status=400)
        if rid in self._running:
            return web.json_response({"error": {"message": f"Duplicate request ID detected: {rid}"}}, status=400)
        if not ids or len(ids) >= self.context:
            return await self._too_long(request, body, len(ids))
        if not body.get("stream"):
            return self._scored(body, ids)
        stopped = self._running[rid] = asyncio.Event()
        if rid in self._used:
            stopped.set()
        self._used.add(rid)
        try:
            return await self._stream(request, body, stopped)
        except (asyncio.CancelledError, ConnectionResetError):
            self.disconnects += 1
            raise
        finally:
            del self._running[rid]

    async def _too_long(self, request: web.Request, body: dict[str, Any], size: int) -> web.StreamResponse:
        message = f"The input ({size} tokens) is longer than the model's context length ({self.context} tokens)."
        if not body.get("stream"):
            return web.json_response({"error": {"message": message}}, status=400)
        error = {"message": message, "type": "invalid_request_error", "code": 400, "retryable": False}
        text = f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n"
        return web.Response(text=text, content_type="text/event-stream")

    def _scored(self, body: dict[str, Any], ids: list[int]) -> web.Response:
        """As the real one: the first entry has no logprob."""
        lm, start = HashModel(self.vocab_size), body["logprob_start_len"]
        context = array("i", ids)
        rows = [
            [lm.logprob(context[:at], ids[at]) if at > start else None, ids[at], None] for at in range(start, len(ids))
        ]
        return web.json_response({"text": "", "output_ids": [], "meta_info": {"input_token_logprobs": rows}})

    async def _stream(self, request: web.Request, body: dict[str, Any], stopped: asyncio.Event) -> web.StreamResponse:
        sampling, top = body["sampling_params"], body.get("top_logprobs_num", 0)
        asked = TokenRequest(
            model=self.model,
            ids=array("i", body["input_ids"]),
            request_id=body["rid"],
            max_tokens=sampling.get("max_new_tokens", 128),
            stop_token_ids=tuple(sampling.get("stop_token_ids") or ()),
            vocab_size=self.vocab_size,
            top_logprobs=top,
        )
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        sampled = _Sampled(body["rid"], asked.ids, top > 0, self.incremental)
        if self.experts is not None and body.get("return_routed_experts"):
            layers, top_k = self.experts
            start = body.get("routed_experts_start_len", 0)
            sampled.experts = ExpertsAsked(start=start, layers=layers, top_k=top_k)
        try:
            async for item in self.engine.generate(asked):
                if isinstance(item, TokenBatch) and not stopped.is_set():
                    await response.write(sampled.frame(item))
                elif isinstance(item, TokenDone):
                    await response.write(sampled.last(item))
                elif stopped.is_set():
                    await response.write(sampled.aborted())
                    break
        except ProviderError:
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


class _Sampled:
    def __init__(self, rid: str, prompt: "array[int]", want_top: bool, incremental: bool) -> None:
        self.rid, self.prompt, self.want_top, self.incremental = rid, prompt, want_top, incremental
        self.experts: ExpertsAsked | None = None
        self.ids: list[int] = []
        self.rows: list[Any] = []
        self.tops: list[Any] = []

    def frame(self, batch: TokenBatch, finish: Any = None, versions: Any = None) -> bytes:
        at = len(self.ids) if self.incremental else 0
        self.ids += batch.ids
        self.rows += [[logprob, token_id, None] for token_id, logprob in zip(batch.ids, batch.logprobs, strict=True)]
        self.tops += [[[p, i, None] for p, i in top] for top in batch.top_logprobs or ()]
        meta: dict[str, Any] = {
            "id": self.rid,
            "finish_reason": finish,
            "prompt_tokens": len(self.prompt),
            "weight_version": "default",
            "num_retractions": 0,
            "output_token_logprobs": self.rows[at:],
            "output_token_logprobs_length": len(self.rows),
            "completion_tokens": len(self.ids),
            "cached_tokens": max(0, len(self.prompt) - 1),
        }
        if self.want_top:
            meta["output_top_logprobs"] = self.tops[at:]
        if versions is not None:
            meta["weight_versions"] = versions
        if self.experts is not None and finish is not None:
            rows = numbers(scripted_experts(self.prompt + array("i", self.ids), self.experts))
            flat = array("i", (expert for row in rows for layer in row for expert in layer))
            meta["routed_experts"] = base64.b64encode(flat.tobytes()).decode()
        frame = {"text": "never to be read", "output_ids": self.ids[at:], "meta_info": meta}
        return b"data: " + json.dumps(frame).encode() + b"\n\n"

    def last(self, done: TokenDone) -> bytes:
        kind = done.finish.type
        finish: dict[str, Any] = {"type": kind}
        if kind == "stop":
            finish["matched"] = done.finish.matched
        elif kind == "length":
            finish["length"] = len(self.ids)
        else:
            finish |= {"message": "Aborted", "status_code": None, "err_type": None}
        spans = [{"version": each.version, "start": each.start, "end": each.end} for each in done.versions]
        return self.frame(TokenBatch(ids=[], logprobs=[]), finish, spans or None)

    def aborted(self) -> bytes:
        finish = {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}
        return self.frame(TokenBatch(ids=[], logprobs=[]), finish)
