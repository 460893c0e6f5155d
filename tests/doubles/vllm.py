"""A double of a vLLM server asked in messages, over real HTTP, with the real one's habits, good and bad.

It writes prompts by a chat template of its own, which leaves out earlier thinking and writes the arguments of calls anew, and
whose text is encoded with control tokens typed by users in it. Its answers are scripted in the model's own markup, sampled with
the logprobs of a hash model, read into calls and thinking by a parser, and sent in frames as vLLM 0.32.0 sends them: the prompt's
ids in the first, and ids and logprobs also where no text can be told yet.
"""

import asyncio
import json
from array import array
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from perdure.core.model import ReasoningChunk, TextChunk, ToolCallChunk, ToolSpec
from perdure.parsing.output import OutputParser
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.scripted import Completion, HashModel, ScriptedEngine
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.templates import ChatTemplate
from tests.doubles.serving import Double
from tests.doubles.tokenizers import small_tokenizer

TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ m.role }}
{{ m.content or '' }}
{%- for call in m.tool_calls or [] %}
{%- if m.content or not loop.first %}{{ '\\n' }}{% endif -%}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
VERSION = "0.32.0"


class VLLMDouble(Double):
    """`requests` are the bodies asked; `disconnects` counts streams left by the client. `tells_ids` false: as a server that does
    not know `return_token_ids`; `withheld`: how many of an answer's ids it does not tell."""

    def __init__(self, completions: Iterable[str | Completion] = (), *, model: str = "tiny") -> None:
        self.tokenizer = small_tokenizer()
        self.renderer = Qwen3Renderer(self.tokenizer)
        self.engine = ScriptedEngine(self.tokenizer, completions, stop_token_id=self.renderer.stop_token_ids[0])
        self.model = model
        self.requests: list[dict[str, Any]] = []
        self.disconnects = 0
        self.tells_ids = True
        self.withheld = 0
        self._template = ChatTemplate(TEMPLATE, model, {})
        self.serve(self._app, handler_cancellation=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, *completions: str | Completion) -> None:
        self.engine.completions.extend(completions)

    def prompt_ids(self, body: dict[str, Any]) -> list[int]:
        """The template's whole text, encoded as one: what is typed like a control token becomes one."""
        messages = [_parsed(message) for message in body["messages"]]
        text = self._template.render(messages, body.get("tools") or (), generation=True)
        pieces = self.tokenizer.split(text)
        return [
            each for piece in pieces for each in ([piece] if isinstance(piece, int) else self.tokenizer.encode(piece))
        ]

    def score(self, ids: "array[int]", start: int) -> list[float]:
        lm = HashModel(self.tokenizer.info.vocab_size)
        return [lm.logprob(ids[:at], ids[at]) for at in range(start, len(ids))]

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/inference/v1/generate", self._scored)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", self._version)
        return app

    async def _models(self, _: web.Request) -> web.Response:
        entry = {"id": self.model, "object": "model", "root": "org/tiny", "max_model_len": 8192}
        return web.json_response({"object": "list", "data": [entry]})

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})

    async def _scored(self, request: web.Request) -> web.Response:
        """The logprobs of a prompt, which is all that is asked of it by ids. The first id has none."""
        body = await request.json()
        assert body["sampling_params"]["prompt_logprobs"] == 0
        ids = array("i", body["token_ids"])
        told: list[Any] = [None]
        told += [{str(ids[at + 1]): {"logprob": logprob, "rank": 1}} for at, logprob in enumerate(self.score(ids, 1))]
        return web.json_response({"prompt_logprobs": told, "choices": [{"index": 0, "token_ids": [ids[0]]}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        answer = _Answer(self, body, self.prompt_ids(body))
        if not body.get("stream"):
            async for item in self.engine.generate(answer.asked):
                answer.take(item)
            return web.json_response(answer.whole())
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        try:
            await response.prepare(request)
            await response.write(answer.first())
            async for item in self.engine.generate(answer.asked):
                await response.write(answer.take(item))
            await response.write(answer.usage_frame() + b"data: [DONE]\n\n")
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionResetError):
            self.disconnects += 1
            raise
        return response


class _Answer:
    def __init__(self, server: VLLMDouble, body: dict[str, Any], prompt_ids: list[int]) -> None:
        self.prompt_ids = prompt_ids
        self.tells_ids = server.tells_ids and bool(body.get("return_token_ids"))
        self.asked = TokenRequest(
            model=server.model,
            ids=array("i", prompt_ids),
            request_id=f"chatcmpl-{len(server.requests)}",
            max_tokens=body.get("max_tokens", 256),
            stop_token_ids=server.renderer.stop_token_ids,
            vocab_size=server.tokenizer.info.vocab_size,
            top_logprobs=max(1, body.get("top_logprobs") or 0),
        )
        self._server = server
        self._body = body
        self._ids: list[int] = []
        self._told: list[dict[str, Any]] = []
        self._parser = OutputParser(
            server.renderer.dialect,
            server.tokenizer,
            reasoning_open=False,
            stop_token_ids=server.renderer.stop_token_ids,
            tools=[ToolSpec(tool["function"]["name"], "", {}) for tool in body.get("tools") or ()],
        )
        self._called = False
        self._finish: tuple[str, int | None] = ("stop", None)
        self._message: dict[str, Any] = {}

    def first(self) -> bytes:
        frame = self._frame({"role": "assistant", "content": ""})
        if self.tells_ids:
            frame["prompt_token_ids"] = self.prompt_ids
        return _event(frame)

    def take(self, item: TokenBatch | TokenDone) -> bytes:
        """The frames of some more ids, or of the end: as there, the last ids come with the reason."""
        if isinstance(item, TokenBatch):
            self._ids += item.ids
            logprobs = [
                self._logprob(*each) for each in zip(item.ids, item.logprobs, item.top_logprobs or (), strict=True)
            ]
            self._told += logprobs
            deltas = self._deltas(self._parser.feed(item.ids))
            frame = self._frame(deltas[0] if deltas else {}, logprobs={"content": logprobs})
            if self.tells_ids:
                frame["choices"][0]["token_ids"] = item.ids
            return _event(frame) + b"".join(_event(self._frame(delta)) for delta in deltas[1:])
        output = self._parser.finish()
        deltas = self._deltas(output.chunks)
        finish = item.finish.type
        self._finish = ("tool_calls" if finish == "stop" and output.tool_calls else finish, None)
        calls = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in output.tool_calls
        ]
        said = {"reasoning": "", "content": ""}
        for part in output.content:
            said["content" if type(part).__name__ == "TextPart" else "reasoning"] += part.text  # type: ignore[union-attr]
        self._message = {"role": "assistant", **said, "tool_calls": calls}
        last = self._frame({}, finish_reason=self._finish[0])
        last["choices"][0]["stop_reason"] = None
        return b"".join(_event(self._frame(delta)) for delta in deltas) + _event(last)

    def usage_frame(self) -> bytes:
        return _event({**self._frame({}), "choices": [], "usage": self._usage()})

    def whole(self) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": self._message,
            "logprobs": {"content": self._told} if self._body.get("logprobs") else None,
            "finish_reason": self._finish[0],
            "stop_reason": None,
            "token_ids": self._ids if self.tells_ids else None,
        }
        told = self.prompt_ids if self.tells_ids else None
        whole = {
            "id": self.asked.request_id,
            "object": "chat.completion",
            "model": self._server.model,
            "choices": [choice],
        }
        return {**whole, "usage": self._usage(), "prompt_token_ids": told}

    def _usage(self) -> dict[str, int]:
        prompt, said = len(self.prompt_ids), len(self._ids) + self._server.withheld
        return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}

    def _deltas(self, chunks: Iterable[Any]) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = []
        for chunk in chunks:
            if isinstance(chunk, TextChunk):
                deltas.append({"content": chunk.text})
            elif isinstance(chunk, ReasoningChunk):
                deltas.append({"reasoning": chunk.text})
            elif isinstance(chunk, ToolCallChunk):
                function = {"arguments": chunk.arguments} | ({"name": chunk.name} if chunk.name else {})
                head = {"id": chunk.id, "type": "function"} if chunk.id else {}
                deltas.append({"tool_calls": [{"index": chunk.index, **head, "function": function}]})
        return deltas

    def _frame(self, delta: dict[str, Any], **choice: Any) -> dict[str, Any]:
        return {
            "id": self.asked.request_id,
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self._server.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **choice}],
        }

    def _logprob(self, token_id: int, logprob: float, top: list[tuple[float, int]]) -> dict[str, Any]:
        listed = top[: self._body.get("top_logprobs") or 0]
        return {**self._token(token_id, logprob), "top_logprobs": [self._token(other, p) for p, other in listed]}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        written = self._server.tokenizer.token_bytes(token_id)
        as_id = self._body.get("return_tokens_as_token_ids")
        token = f"token_id:{token_id}" if as_id else written.decode("utf-8", "replace")
        return {"token": token, "logprob": logprob, "bytes": list(written)}


def _parsed(message: dict[str, Any]) -> dict[str, Any]:
    """As vLLM hands a message to the template: arguments as an object, and no thinking."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls") or ()
    ]
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    return {**message, "content": content, "tool_calls": calls}


def _event(frame: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(frame).encode() + b"\n\n"
