"""Google Gemini's own API: prompt to generateContent request, answer to chunks.

Invariant: text and calls pass as they are both ways, and a signature goes back on the part it came on. Closing the stream
drops the connection, and with it the generation.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from perdure.core.errors import ProviderError
from perdure.core.model import Prompt
from perdure.parsing.sse import SseParser
from perdure.providers.attempts import Batches, attempts
from perdure.providers.base import TokenStream
from perdure.providers.gemini_frames import GeminiAnswer
from perdure.providers.gemini_messages import ContentEncoder
from perdure.providers.gemini_schema import gemini_schema
from perdure.providers.http import Answer, Endpoint, Http
from perdure.providers.model_traits import ModelTraits, traits_of
from perdure.providers.structured import system_told

_encode = msgspec.json.Encoder().encode

_FOREIGN = re.compile(r"(?:corrupted|invalid) thought[ _]?signature|thought[ _]?signature is not valid", re.IGNORECASE)
_SAMPLING = (
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("top_k", "topK"),
    ("max_output_tokens", "maxOutputTokens"),
    ("seed", "seed"),
    ("presence_penalty", "presencePenalty"),
    ("frequency_penalty", "frequencyPenalty"),
)
# Efforts as the levels newer models have, and as the budgets Google's own OpenAI endpoint gives them on older ones.
_LEVELS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
_BUDGETS = {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576, "xhigh": 24_576}


class Gemini:
    """A Model. `encoder`: shared by a provider's models; `stream` false: ask for whole answers. `path` is below the base URL;
    `headers`: what each call needs beside the endpoint's own (a token that runs out).
    """

    def __init__(
        self,
        http: Http,
        endpoint: Endpoint,
        model: str,
        *,
        encoder: ContentEncoder | None = None,
        traits: ModelTraits | None = None,
        stream: bool = True,
        path: str = "/models/",
        headers: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        self._http = http
        self._endpoint = endpoint
        self._traits = traits or traits_of(model)
        self._encoder = encoder or ContentEncoder(endpoint.name, stand_in=self._traits.call_signature)
        self._stream = stream
        self._headers = headers
        self._path = f"{path}{model}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"

    def stream(self, prompt: Prompt, tokens: TokenStream | None = None) -> Batches:
        return attempts(self._http, self._endpoint.retries, lambda: self._once(prompt))

    async def _once(self, prompt: Prompt) -> Batches:
        answer = GeminiAnswer(self._endpoint.name)
        response, body = await self._open(prompt)
        async with response:
            if self._stream and "application/json" not in response.content_type:
                parser = SseParser()
                while answer.failure is None and (data := await response.read()):
                    if chunks := answer.feed(parser.feed(data)):
                        yield chunks
                if answer.failure is None and (chunks := answer.feed(parser.finish())):
                    yield chunks
                yield (answer.done(request=body),)
            else:  # asked for in one piece, or a server that does not stream
                chunks = answer.feed((await response.read_all(),))
                yield (*chunks, answer.done(request=body))

    async def _open(self, prompt: Prompt) -> tuple[Answer, bytes]:
        """The answer and the request it answers. Signatures that are refused (another account's) are asked without."""
        body = self.body(prompt)
        headers = await self._headers() if self._headers is not None else None
        try:
            return await self._http.open(self._endpoint, self._path, body, headers=headers, retry=False), body
        except ProviderError as error:
            if error.status != 400 or not _FOREIGN.search(error.message):
                raise
        plain = ContentEncoder(self._endpoint.name, stand_in=self._traits.call_signature, signatures=False)
        body = self.body(prompt, plain)
        return await self._http.open(self._endpoint, self._path, body, headers=headers, retry=False), body

    def body(self, prompt: Prompt, encoder: ContentEncoder | None = None) -> bytes:
        """The request as sent."""
        pieces = [b'{"contents":', (encoder or self._encoder).contents(prompt.messages)]
        if system := system_told(prompt, _form(prompt)):
            pieces += [b',"systemInstruction":', _encode({"parts": [{"text": system}]})]
        if prompt.tools:
            pieces += [b',"tools":', self._encoder.declarations(prompt.tools)]
            if (choice := _function_calling(prompt.tool_choice)) is not None:
                pieces += [b',"toolConfig":', _encode({"functionCallingConfig": choice})]
        if config := self._config(prompt):
            pieces += [b',"generationConfig":', _encode(config)]
        pieces.append(b"}")
        return b"".join(pieces)

    def _config(self, prompt: Prompt) -> dict[str, Any]:
        settings = prompt.settings
        config: dict[str, Any] = {}
        for ours, theirs in _SAMPLING:
            if (value := getattr(settings, ours)) is not None:
                config[theirs] = value
        if settings.stop:
            config["stopSequences"] = settings.stop
        if (form := _form(prompt)) is not None:
            config["responseMimeType"] = "application/json"
            if form["type"] == "json_schema":
                config["responseSchema"] = gemini_schema(form["json_schema"].get("schema") or {})
        if prompt.want_logprobs:
            config["responseLogprobs"] = True
            if prompt.top_logprobs:
                config["logprobs"] = prompt.top_logprobs
        if self._traits.thinking is not None:
            config["thinkingConfig"] = self._thinking(prompt)
        return config

    def _thinking(self, prompt: Prompt) -> dict[str, Any]:
        """Thinking as asked for, in the model's own measure; what was thought is shown unless that is switched off."""
        settings = prompt.settings
        told = settings.raw.get("thinking_config")
        told = told if isinstance(told, dict) else {}
        made: dict[str, Any] = {"includeThoughts": told.get("include_thoughts") is not False}
        effort, budget = settings.reasoning_effort, told.get("thinking_budget")
        if settings.enable_thinking is False:
            effort = effort or "none"
        if isinstance(budget, int):
            made["thinkingBudget"] = budget
        elif effort in _BUDGETS:
            least = self._traits.least_thinking
            if self._traits.thinking == "level":
                made["thinkingLevel"] = _LEVELS.get(effort, least)
            else:
                made["thinkingBudget"] = max(_BUDGETS[effort], int(least))
        return made


def _form(prompt: Prompt) -> dict[str, Any] | None:
    """The answer's form, where Gemini can be held to it: most of its models refuse one beside tools."""
    wanted = prompt.settings.response_format
    return wanted if wanted is not None and wanted.get("type") != "text" and not prompt.tools else None


def _function_calling(choice: str) -> dict[str, Any] | None:
    match choice:
        case "auto":
            return None
        case "none":
            return {"mode": "NONE"}
        case "required":
            return {"mode": "ANY"}
        case _:
            return {"mode": "ANY", "allowedFunctionNames": [choice]}
