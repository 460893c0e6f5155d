"""A real SGLang whose random model is told by a marker in the last message what kind of answer to give.

`[[one]]` and `[[two]]`: that many tool calls, put into its mouth by a bias, a token a request. `[[long]]`: whatever it samples,
up to the limit. Everything else: a few sampled tokens, and the end of the turn put into its mouth. `forced` tells the ids that
were not the model's own choice: their logprobs are those of a biased distribution.
"""

import asyncio
import uuid
from array import array
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec

from perdure.core.tokens import Finish
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.http import Endpoint, Http
from perdure.providers.sglang import SGLang
from perdure.tokens.base import Tokenizer

FEW = 6
TAIL = 400
CALL = '<tool_call>\n{"name": "memory_insert", "arguments": {"label": "human", "new_string": "%s"}}\n</tool_call>'


class MarkedSGLang(SGLang):
    """`forced` are the places (`place`) of the ids it was made to say; `begun` of a conversation is set when a long answer
    in it has begun; `aborts` counts the engine's own interruptions."""

    def __init__(self, http: Http, endpoint: Endpoint, tokenizer: Tokenizer, stop: int) -> None:
        super().__init__(http, endpoint)
        self.forced: set[bytes] = set()
        self.begun: dict[str, asyncio.Event] = {}
        self.aborts = 0
        self._tokenizer = tokenizer
        self._stop = stop
        self._bias: dict[tuple[str, bytes], int] = {}

    def fields(self, request: TokenRequest) -> dict[str, Any]:
        fields = super().fields(request)
        if (wanted := self._bias.get((request.affinity[0], place(request.ids)))) is not None:
            fields["sampling_params"]["logit_bias"] = {str(wanted): 1000.0}
        return fields

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenBatch | TokenDone, None]:
        said = self._tokenizer.decode(request.ids[-TAIL:]).rpartition("<|im_start|>user")[2]
        answered = "<|im_start|>assistant" in said and "<|im_end|>" in said.partition("<|im_start|>assistant")[2]
        if "[[long]]" in said and not answered:
            async for item in super().generate(request):
                self._note(item)
                if request.affinity[0] in self.begun:
                    self.begun[request.affinity[0]].set()
                yield item
            return
        count = 1 if "[[one]]" in said else 2 if "[[two]]" in said else 0
        if count and "<tool_call>" not in said:
            async for item in self._led(request, self._ids("\n".join(CALL % word for word in ("tea", "sea")[:count]))):
                yield item
            return
        context = request.ids[:]
        few = msgspec.structs.replace(request, max_tokens=max(1, min(FEW, request.max_tokens - 1)))
        async for item in super().generate(few):
            self._note(item)
            if isinstance(item, TokenBatch):
                context.extend(item.ids)
                yield item
            elif item.finish.type != "length":
                yield item
                return
        rest = msgspec.structs.replace(request, ids=context, max_tokens=1)
        async for item in self._led(rest, [self._stop]):
            yield msgspec.structs.replace(item, prompt_tokens=len(request.ids)) if isinstance(item, TokenDone) else item

    async def _led(self, request: TokenRequest, ids: Sequence[int]) -> AsyncGenerator[TokenBatch | TokenDone, None]:
        """An interruption between two of its tokens is no matter: that token is asked for again."""
        context, finish = request.ids[:], Finish("stop", self._stop)
        for wanted in ids:
            got: list[int] = []
            while not got:
                where = (request.affinity[0], place(context))  # not the request id: another attempt has another
                self._bias[where] = wanted
                one = msgspec.structs.replace(request, ids=context, max_tokens=1, request_id=uuid.uuid4().hex)
                async for item in super().generate(one):
                    self._note(item)
                    if isinstance(item, TokenBatch):
                        got = item.ids
                        yield item
                del self._bias[where]
            assert got == [wanted]
            context = context + array("i", got)
            self.forced.add(place(context))
        yield TokenDone(finish=finish, prompt_tokens=len(request.ids), engine_request_id=request.request_id)

    def _ids(self, text: str) -> list[int]:
        pieces = self._tokenizer.split(text)
        return [
            token
            for piece in pieces
            for token in ([piece] if isinstance(piece, int) else self._tokenizer.encode(piece))
        ] + [self._stop]

    def _note(self, item: TokenBatch | TokenDone) -> None:
        self.aborts += isinstance(item, TokenDone) and item.finish.type == "abort"


def place(context: "array[int]") -> bytes:
    """Names an id by everything up to it."""
    import hashlib

    return hashlib.blake2b(context.tobytes(), digest_size=12).digest()
