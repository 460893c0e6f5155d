"""Anthropic's Messages API, wherever it is served: prompt to request, answer to chunks.

Invariant: an answer is asked for again only while nothing of it has been given out. Closing the stream drops the connection, and
with it the generation.
"""

import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

import msgspec

from perdure.core.errors import ProviderError
from perdure.core.model import Chunk, ModelDone, Prompt, ToolSpec
from perdure.parsing.event_stream import EventStreamError
from perdure.parsing.sse import SseParser
from perdure.providers.anthropic_frames import MessagesAnswer
from perdure.providers.anthropic_messages import CACHE_MARK, TurnEncoder
from perdure.providers.anthropic_request import request_of
from perdure.providers.attempts import Batches, attempts
from perdure.providers.base import Model, ModelInfo, TokenStream
from perdure.providers.catalogue import list_models, named_models
from perdure.providers.claude_models import ClaudeTraits, claude_traits
from perdure.providers.configs import ProviderConfig
from perdure.providers.endpoint import ChatProvider
from perdure.providers.http import Answer, Endpoint, Http
from perdure.providers.message_bytes import ToolBytes

API_VERSION = "2023-06-01"
BETA_HEADER = "anthropic-beta"
UNBOUND = "prefix_mismatch_behavior"
NOBODY = ""
_FOREIGN = re.compile(r"thinking.*(?:signature|cannot be modified)|signature.*thinking", re.DOTALL)

_encode = msgspec.json.Encoder().encode


class Frames(Protocol):
    """Bytes of a body in, the JSON of the events that are complete out. Raises EventStreamError for damaged ones."""

    def feed(self, data: bytes) -> list[bytes]: ...

    def finish(self) -> list[bytes]: ...


class Call(NamedTuple):
    """How one call is made: where it goes below the endpoint, and what of its body depends on that."""

    path: str
    fields: dict[str, Any]


class Platform(Protocol):
    """A place where the API is served. `addresses`: it fetches images by their address itself."""

    endpoint: Endpoint
    addresses: bool

    def call(self, model: str, *, stream: bool, betas: Sequence[str]) -> Call: ...

    async def headers(self, path: str, body: bytes, betas: Sequence[str]) -> Mapping[str, str] | None:
        """What this call needs beside the endpoint's own headers: a signature, a token, beta features."""
        ...

    def frames(self) -> Frames: ...


class Direct:
    """Anthropic's own address, or one that serves the same."""

    addresses = True

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def call(self, model: str, *, stream: bool, betas: Sequence[str]) -> Call:
        return Call("/messages", {"model": model, "stream": True} if stream else {"model": model})

    async def headers(self, path: str, body: bytes, betas: Sequence[str]) -> Mapping[str, str] | None:
        return beta_header(self.endpoint, betas)

    def frames(self) -> Frames:
        return SseParser()


def beta_header(endpoint: Endpoint, betas: Sequence[str]) -> dict[str, str] | None:
    """The beta features of a call, added to those the configuration always asks for."""
    if not betas:
        return None
    always = next((value for name, value in endpoint.headers.items() if name.lower() == BETA_HEADER), "")
    return {BETA_HEADER: ",".join([*filter(None, [always]), *betas])}


class ClaudeModel:
    """A Model. `encoder` is shared by the models of a provider."""

    def __init__(
        self,
        http: Http,
        platform: Platform,
        model: str,
        *,
        encoder: TurnEncoder | None = None,
        traits: ClaudeTraits | None = None,
        stream: bool = True,
    ) -> None:
        self._http = http
        self._platform = platform
        self._model = model
        self._encoder = encoder or TurnEncoder(platform.endpoint.name, addresses=platform.addresses)
        self._traits = traits or claude_traits(model)
        self._stream = stream
        self._tools = ToolBytes(self._tool)
        self._drop_unbound = False

    def stream(self, prompt: Prompt, tokens: TokenStream | None = None) -> Batches:
        return attempts(self._http, self._platform.endpoint.retries, lambda: self._once(prompt))

    async def _once(self, prompt: Prompt) -> Batches:
        response, body = await self._open(prompt)
        async with response, aclosing(self._read(response, body)) as batches:
            async for batch in batches:
                yield batch

    async def _open(self, prompt: Prompt) -> tuple[Answer, bytes]:
        """The answer under way, and the request it answers.

        Accounts of the newer kind refuse thinking whose context has changed since (a memory edit, a compaction): such an account
        is told from then on to drop it instead. Thinking that is refused otherwise, as another server's, is left out of the call.
        """
        encoder = self._encoder
        while True:
            path, body, betas = self.request(prompt, encoder)
            headers = await self._platform.headers(path, body, betas)
            try:
                answer = await self._http.open(self._platform.endpoint, path, body, headers=headers, retry=False)
                return answer, body
            except ProviderError as error:
                said = (error.detail or error.message) if error.status == 400 else ""
                if UNBOUND in said and not self._drop_unbound:
                    self._drop_unbound = True
                elif _FOREIGN.search(said) and encoder is self._encoder:
                    encoder = TurnEncoder(NOBODY, addresses=self._platform.addresses)
                else:
                    raise

    async def _read(self, response: Answer, body: bytes) -> AsyncGenerator[Sequence[Chunk | ModelDone], None]:
        answer = MessagesAnswer(self._platform.endpoint.name)
        if not self._stream or "application/json" in response.content_type:
            whole = await response.read_all()
            chunks = answer.feed((whole,))
            yield (*chunks, *answer.finish(), answer.done(request=body, response=whole))
            return
        frames = self._platform.frames()
        try:
            while not answer.ended and answer.failure is None and (data := await response.read()):
                if chunks := answer.feed(frames.feed(data)):
                    yield chunks
            last = [] if answer.ended or answer.failure is not None else answer.feed(frames.finish())
        except EventStreamError as damage:
            raise self._damaged(damage, answer) from damage
        if last:
            yield last
        response.leave()
        yield (*answer.finish(), answer.done(request=body))

    def _damaged(self, damage: EventStreamError, answer: MessagesAnswer) -> ProviderError:
        return ProviderError(
            f"The answer of {self._platform.endpoint.name} was damaged on the way: {damage}.",
            kind="llm_connection",
            retryable=not answer.any_output,
        )

    def request(self, prompt: Prompt, encoder: TurnEncoder) -> tuple[str, bytes, list[str]]:
        """(path, body, beta features) of the call for a prompt."""
        traits = self._traits
        context = encoder.context(prompt.messages, marks=traits.caches)
        request = request_of(prompt, traits, thinking_missing=context.thinking_missing, drop_unbound=self._drop_unbound)
        call = self._platform.call(self._model, stream=self._stream, betas=request.betas)
        pieces = [_encode({**call.fields, **request.fields})[:-1]]
        if system := _system(prompt.system, request.note, mark=traits.caches):
            pieces += [b',"system":', system]
        pieces += [b',"messages":', *context.pieces]
        if request.tools:
            pieces += [b',"tools":', self._tool_array(request.tools)]
        pieces.append(b"}")
        return call.path, b"".join(pieces), request.betas

    def _tool_array(self, tools: Sequence[ToolSpec]) -> bytes:
        encoded = self._tools.array(tools)
        return encoded[:-2] + CACHE_MARK + b"]" if self._traits.caches else encoded

    def _tool(self, spec: ToolSpec) -> dict[str, Any]:
        made: dict[str, Any] = {"name": spec.name, "description": spec.description, "input_schema": spec.parameters}
        if spec.strict and self._traits.structured:
            made["strict"] = True
        elif self._stream and self._traits.eager_tools:
            made["eager_input_streaming"] = True  # arguments as they are written, not a whole value at a time
        return made


def _system(text: str, note: str | None, *, mark: bool) -> bytes:
    blocks = [_encode({"type": "text", "text": each}) for each in (text, note) if each and each.strip()]
    if mark and blocks:
        blocks[-1] = blocks[-1][:-1] + CACHE_MARK
    return b"[" + b",".join(blocks) + b"]" if blocks else b""


class AnthropicProvider(ChatProvider):
    """Implements `base.Provider` for Anthropic and those who serve the same API. `platform`: None for Anthropic's own way."""

    def __init__(self, config: ProviderConfig, http: Http, platform: Platform | None = None) -> None:
        super().__init__(config, http)
        if platform is None:
            own = {"x-api-key": config.api_key or "", "anthropic-version": API_VERSION}
            headers = {name: value for name, value in own.items() if value} | config.options.headers
            platform = Direct(endpoint_of(config, self.endpoint.base_url, headers))
        self.platform = platform
        self.endpoint = platform.endpoint
        self._turns = TurnEncoder(config.name, addresses=platform.addresses)

    def chat(self, name: str, **_: Any) -> Model:
        return ClaudeModel(
            self.http,
            self.platform,
            name,
            encoder=self._turns,
            traits=self.traits(name),
            stream=self.config.options.stream is not False,
        )

    def traits(self, name: str) -> ClaudeTraits:
        return claude_traits(name)

    async def list_models(self) -> list[ModelInfo]:
        self._listed = [_with_window(info) for info in await self.ask()]
        self._listed_at = time.monotonic()
        return self._listed

    async def find(self, name: str) -> tuple[ModelInfo | None, list[ModelInfo] | None]:
        """Also by the names without a date that stand for the newest of a model; what is not listed gets its published window."""
        info, listed = await super().find(name)
        if info is None:
            info = _dated(listed or [], name)
        if info is None and (listed is None or self.any_model):
            info = _with_window(named_models(self.config, self.profile, [name])[0])
        return info, listed

    async def ask(self) -> list[ModelInfo]:
        return await list_models(self.http, self.endpoint, self.config, self.profile)


def endpoint_of(config: ProviderConfig, base_url: str, headers: Mapping[str, str]) -> Endpoint:
    return Endpoint(config.name, base_url, headers=headers, timeouts=config.options.timeouts)


def _dated(listed: list[ModelInfo], name: str) -> ModelInfo | None:
    stem = re.escape(name.removesuffix("-latest").removesuffix("-0"))
    return next((info for info in listed if re.fullmatch(stem + r"-\d{8}", info.name)), None)


def _with_window(info: ModelInfo) -> ModelInfo:
    """The published window of a model whose provider does not tell it."""
    if info.context_window is not None:
        return info
    return msgspec.structs.replace(info, context_window=claude_traits(info.name).context_window)
