"""Chat completions of OpenAI and of everybody who speaks them: prompt to request body, answer to chunks.

Invariant: text, tool calls and their arguments pass verbatim both ways. Closing the stream drops the connection, and with it
the generation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from perdure.core.model import ModelDone, Prompt
from perdure.parsing.sse import SseParser
from perdure.providers.attempts import Batches, attempts
from perdure.providers.base import TokenStream
from perdure.providers.dialects import ChatProfile
from perdure.providers.http import Endpoint, Http
from perdure.providers.model_traits import ModelTraits, traits_of
from perdure.providers.openai_frames import ChatAnswer
from perdure.providers.openai_messages import MessageEncoder
from perdure.providers.openai_request import refused, request_fields
from perdure.providers.retries import Retries
from perdure.providers.structured import system_told

_encode = msgspec.json.Encoder().encode


def _unwatched(frames: Sequence[bytes]) -> None:
    """Nobody looks at the frames but the answer itself."""


class OpenAIChat:
    """A Model. `path` is below the endpoint's base URL; `stream` None: as the profile says.

    `not_exact` is put on every answer: why there is no token record where the engine could have given one.
    """

    def __init__(
        self,
        http: Http,
        endpoint: Endpoint,
        model: str,
        profile: ChatProfile = ChatProfile(),
        *,
        encoder: MessageEncoder | None = None,
        traits: ModelTraits | None = None,
        stream: bool | None = None,
        path: str = "/chat/completions",
        not_exact: str | None = None,
    ) -> None:
        self._http = http
        self._endpoint = endpoint
        self._model = model
        self._profile = profile
        self._encoder = encoder or MessageEncoder(profile, provider=endpoint.name)
        self._traits = traits or traits_of(model)
        self._drop = refused(model, profile, self._traits)
        self._stream = profile.stream if stream is None else stream
        self._path = path
        self._not_exact = not_exact

    @property
    def http(self) -> Http:
        return self._http

    @property
    def retries(self) -> Retries:
        return self._endpoint.retries

    @property
    def takes_images(self) -> bool:
        return self._profile.images is not None

    def stream(self, prompt: Prompt, tokens: TokenStream | None = None) -> Batches:
        body = self.body(prompt)
        return attempts(self._http, self._endpoint.retries, lambda: self.once(body))

    async def once(self, body: bytes, watch: Callable[[Sequence[bytes]], None] = _unwatched) -> Batches:
        """Ask once. `watch` is shown the frames of each read before their chunks are given out."""
        answer = ChatAnswer(self._endpoint.name, think_tags=self._profile.think_tags is not None)
        async with await self._http.open(self._endpoint, self._path, body, retry=False) as response:
            if self._stream and "application/json" not in response.content_type:
                parser = SseParser()
                while not parser.done and answer.failure is None and (data := await response.read()):
                    frames = parser.feed(data)
                    watch(frames)
                    if chunks := answer.feed(frames):
                        yield chunks
                frames = parser.finish()
                watch(frames)
                if answer.failure is None and (chunks := answer.feed(frames)):
                    yield chunks
                response.leave()
                yield (*answer.finish(), self._marked(answer.done(complete=parser.done, request=body)))
            else:  # asked for in one piece, or a server that does not stream
                whole = await response.read_all()
                watch((whole,))
                chunks = answer.feed((whole,))
                yield (
                    *chunks,
                    *answer.finish(),
                    self._marked(answer.done(complete=True, request=body, response=whole)),
                )

    def body(self, prompt: Prompt, more: dict[str, Any] | None = None) -> bytes:
        """The request as sent. `more`: fields of an endpoint's own."""
        told = request_fields(prompt, self._profile, self._traits, stream=self._stream, drop=self._drop)
        fields: dict[str, Any] = {"model": self._model, **told, **(more or {})}
        system = system_told(prompt, fields.get("response_format"))
        pieces = [_encode(fields)[:-1], b',"messages":', *self._encoder.messages(system, prompt.messages)]
        if prompt.tools:
            pieces += [b',"tools":', self._encoder.tools(prompt.tools)]
        pieces.append(b"}")
        return b"".join(pieces)

    def _marked(self, done: ModelDone) -> ModelDone:
        return done if self._not_exact is None else msgspec.structs.replace(done, not_exact=self._not_exact)
