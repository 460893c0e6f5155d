"""OpenAI's Responses API, and that of everybody who speaks it: prompt to request body, answer to chunks.

Invariant: nothing is stored at the provider (`store` is false); what it wants to see again is kept with our messages and goes
back with them. Closing the stream drops the connection, and with it the generation.
"""

import re
from typing import Any

import msgspec

from perdure.core.errors import ProviderError
from perdure.core.model import ModelDone, Prompt
from perdure.parsing.sse import SseParser
from perdure.providers.attempts import Batches, attempts
from perdure.providers.base import TokenStream
from perdure.providers.http import Answer, Endpoint, Http
from perdure.providers.model_traits import ModelTraits, traits_of
from perdure.providers.responses_frames import ResponsesAnswer
from perdure.providers.responses_messages import InputEncoder
from perdure.providers.structured import system_told

_encode = msgspec.json.Encoder().encode

ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"

# What the API says where an account may not see summaries, and where reasoning that goes back is another account's.
_NO_SUMMARY = re.compile(r"verified to generate reasoning summar|reasoning\.summary", re.IGNORECASE)
_FOREIGN = re.compile(
    r"invalid_encrypted_content|encrypted content .{0,200}could not be (?:verified|decrypted)", re.DOTALL
)


class OpenAIResponses:
    """A Model. `encoder`: shared by a provider's models; `stream` false: ask for whole answers. `not_exact` is put on every
    answer: why there is no token record where the engine could have given one.
    """

    def __init__(
        self,
        http: Http,
        endpoint: Endpoint,
        model: str,
        *,
        encoder: InputEncoder | None = None,
        traits: ModelTraits | None = None,
        stream: bool = True,
        path: str = "/responses",
        not_exact: str | None = None,
    ) -> None:
        self._http = http
        self._endpoint = endpoint
        self._model = model
        self._encoder = encoder or InputEncoder(endpoint.name)
        self._traits = traits or traits_of(model)
        self._stream = stream
        self._path = path
        self._not_exact = not_exact
        self._summaries = True

    def stream(self, prompt: Prompt, tokens: TokenStream | None = None) -> Batches:
        return attempts(self._http, self._endpoint.retries, lambda: self._once(prompt))

    async def _once(self, prompt: Prompt) -> Batches:
        answer = ResponsesAnswer(self._endpoint.name)
        response, body = await self._open(prompt)
        async with response:
            if self._stream and "application/json" not in response.content_type:
                parser = SseParser()
                while not answer.ended and answer.failure is None and (data := await response.read()):
                    if chunks := answer.feed(parser.feed(data)):
                        yield chunks
                if answer.failure is None and (chunks := answer.feed(parser.finish())):
                    yield chunks
                response.leave()
                yield (self._marked(answer.done(request=body)),)
            else:  # asked for in one piece, or a server that does not stream
                chunks = answer.feed((await response.read_all(),))
                yield (*chunks, self._marked(answer.done(request=body)))

    async def _open(self, prompt: Prompt) -> tuple[Answer, bytes]:
        """The answer and the request it answers. What this account is refused for good reason is asked again without it."""
        body = self.body(prompt)
        try:
            return await self._http.open(self._endpoint, self._path, body, retry=False), body
        except ProviderError as error:
            encoder = self._encoder
            said = f"{error.message} {error.detail or ''}" if error.status in (400, 403) else ""
            if self._summaries and _NO_SUMMARY.search(said):
                self._summaries = False
            elif _FOREIGN.search(said):
                encoder = InputEncoder(self._endpoint.name, reasoning=False)
            else:
                raise
        body = self.body(prompt, encoder)
        return await self._http.open(self._endpoint, self._path, body, retry=False), body

    def body(self, prompt: Prompt, encoder: InputEncoder | None = None) -> bytes:
        """The request as sent."""
        encoder = encoder or self._encoder
        pieces = [_encode(self._fields(prompt))[:-1], b',"input":', *encoder.input(prompt.messages)]
        if prompt.tools:
            pieces += [b',"tools":', encoder.tools(prompt.tools)]
        pieces.append(b"}")
        return b"".join(pieces)

    def _fields(self, prompt: Prompt) -> dict[str, Any]:
        """All of the request but input and tools."""
        settings, drop = prompt.settings, self._traits.drop
        fields: dict[str, Any] = {"model": self._model, "store": False}
        if self._stream:
            fields["stream"] = True
        if system := system_told(prompt, settings.response_format):
            fields["instructions"] = system
        include: list[str] = []
        if self._traits.reasons is not False:
            include.append(ENCRYPTED)
            if reasoning := self._reasoning(prompt):
                fields["reasoning"] = reasoning
        if settings.max_output_tokens is not None:
            fields["max_output_tokens"] = settings.max_output_tokens
        for name in ("temperature", "top_p"):
            if name not in drop and (value := getattr(settings, name)) is not None:
                fields[name] = value
        if text := _text(prompt):
            fields["text"] = text
        if prompt.want_logprobs and "logprobs" not in drop:
            include.append(LOGPROBS)
            if prompt.top_logprobs:
                fields["top_logprobs"] = prompt.top_logprobs
        if include:
            fields["include"] = include
        if prompt.tools:
            if prompt.tool_choice in ("none", "required"):
                fields["tool_choice"] = prompt.tool_choice
            elif prompt.tool_choice != "auto":
                fields["tool_choice"] = {"type": "function", "name": prompt.tool_choice}
            if not prompt.parallel_tool_calls:
                fields["parallel_tool_calls"] = False
        return fields

    def _reasoning(self, prompt: Prompt) -> dict[str, Any]:
        settings = prompt.settings
        made: dict[str, Any] = {}
        if settings.reasoning_effort is not None:
            made["effort"] = settings.reasoning_effort
        summary = settings.reasoning_summary or ("auto" if self._traits.reasons else None)
        if summary is not None and summary != "none" and self._summaries:
            made["summary"] = summary
        return made

    def _marked(self, done: ModelDone) -> ModelDone:
        return done if self._not_exact is None else msgspec.structs.replace(done, not_exact=self._not_exact)


def _text(prompt: Prompt) -> dict[str, Any]:
    """The answer's form: chat completions' response_format, one level flatter here, and how wordy it is to be."""
    made: dict[str, Any] = {}
    wanted = prompt.settings.response_format or {}
    if wanted.get("type") == "json_schema":
        made["format"] = {"type": "json_schema", **wanted["json_schema"]}
    elif wanted.get("type") == "json_object":
        made["format"] = {"type": "json_object"}
    if prompt.settings.verbosity is not None:
        made["verbosity"] = prompt.settings.verbosity
    return made
