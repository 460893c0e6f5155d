"""Chat completions of OpenAI and of everybody who speaks them: prompt to request body, answer to chunks.

Invariant: text, tool calls and their arguments pass verbatim both ways. Closing the stream drops the connection, and with it
the generation.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec

from perdure.core.model import Chunk, ModelDone, Prompt
from perdure.parsing.sse import SseParser
from perdure.providers.base import TokenStream
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_frames import ChatAnswer
from perdure.providers.openai_messages import MessageEncoder
from perdure.providers.profiles import ChatProfile, ModelTraits, traits_of
from perdure.providers.structured import format_sent, system_told

_encode = msgspec.json.Encoder().encode

# Our setting, its name in a request. Those beyond OpenAI's own are sent where the profile lists them.
_SAMPLING = (
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("frequency_penalty", "frequency_penalty"),
    ("presence_penalty", "presence_penalty"),
)
_EXTRA_SAMPLING = (
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("repetition_penalty", "repetition_penalty"),
    ("repetition_penalty", "repeat_penalty"),
)


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
        self._encoder = encoder or MessageEncoder(profile)
        self._traits = traits or traits_of(model)
        self._stream = profile.stream if stream is None else stream
        self._path = path
        self._not_exact = not_exact

    async def stream(
        self, prompt: Prompt, tokens: TokenStream | None = None
    ) -> AsyncGenerator[Sequence[Chunk | ModelDone], None]:
        body = self.body(prompt)
        answer = ChatAnswer(self._endpoint.name)
        async with await self._http.open(self._endpoint, self._path, body) as response:
            if self._stream and "application/json" not in response.content_type:
                parser = SseParser()
                while not parser.done and answer.failure is None and (data := await response.read()):
                    if chunks := answer.feed(parser.feed(data)):
                        yield chunks
                if answer.failure is None and (chunks := answer.feed(parser.finish())):
                    yield chunks
                response.leave()
                yield (self._marked(answer.done(complete=parser.done, request=body)),)
            else:  # asked for in one piece, or a server that does not stream
                whole = await response.read_all()
                chunks = answer.feed((whole,))
                yield (*chunks, self._marked(answer.done(complete=True, request=body, response=whole)))

    def body(self, prompt: Prompt) -> bytes:
        """The request as sent."""
        fields = self._fields(prompt)
        system = system_told(prompt, fields.get("response_format"))
        pieces = [_encode(fields)[:-1], b',"messages":', self._encoder.messages(system, prompt.messages)]
        if prompt.tools:
            pieces += [b',"tools":', self._encoder.tools(prompt.tools)]
        pieces.append(b"}")
        return b"".join(pieces)

    def _fields(self, prompt: Prompt) -> dict[str, Any]:
        """All of the request but messages and tools."""
        profile, traits, settings = self._profile, self._traits, prompt.settings
        fields: dict[str, Any] = {"model": self._model}
        if self._stream:
            fields["stream"] = True
            if profile.stream_usage:
                fields["stream_options"] = {"include_usage": True}
        if settings.max_output_tokens is not None:
            fields[traits.max_tokens or profile.max_tokens] = settings.max_output_tokens
        for ours, theirs in _SAMPLING if profile.penalties else _SAMPLING[:2]:
            if (value := getattr(settings, ours)) is not None:
                fields[theirs] = value
        for ours, theirs in _EXTRA_SAMPLING:
            if theirs in profile.sampling and (value := getattr(settings, ours)) is not None:
                fields[theirs] = value
        if settings.seed is not None and profile.seed is not None:
            fields[profile.seed] = settings.seed
        if settings.stop:
            fields["stop"] = settings.stop
        if (form := format_sent(prompt, profile)) is not None:
            fields["response_format"] = form
        if settings.reasoning_effort is not None and profile.reasoning_effort:
            fields["reasoning_effort"] = settings.reasoning_effort
        if settings.enable_thinking is not None and profile.template_kwargs:
            fields["chat_template_kwargs"] = {"enable_thinking": settings.enable_thinking}
        if prompt.want_logprobs and profile.logprobs:
            fields["logprobs"] = True
            if prompt.top_logprobs:
                fields["top_logprobs"] = prompt.top_logprobs
        if prompt.tools:
            self._add_tool_choice(prompt, fields)
        for name in traits.drop:
            fields.pop(name, None)
        if "logprobs" not in fields:
            fields.pop("top_logprobs", None)
        return {**fields, **profile.extra}

    def _add_tool_choice(self, prompt: Prompt, fields: dict[str, Any]) -> None:
        choice, profile = prompt.tool_choice, self._profile
        if choice not in ("auto", "none", "required"):
            if profile.named:
                fields["tool_choice"] = {"type": "function", "function": {"name": choice}}
                choice = "auto"
            else:
                choice = "required"
        if choice == "none":
            fields["tool_choice"] = "none"
        elif choice == "required" and profile.required is not None:
            fields["tool_choice"] = profile.required
        if not prompt.parallel_tool_calls and profile.parallel_tool_calls:
            fields["parallel_tool_calls"] = False

    def _marked(self, done: ModelDone) -> ModelDone:
        return done if self._not_exact is None else msgspec.structs.replace(done, not_exact=self._not_exact)
