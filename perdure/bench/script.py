"""What the scripted engine answers: from a request's body to a Reply, without any I/O.

What it answers is said by the last directive in the last user message, else by the model's name, else by its defaults:

    [[bench tokens=500 pace=100]]    [[bench tool=memory_insert args=%7B%7D]]    the model scripted-tokens500

tokens  tokens of the answer           tool, args  call this tool first (args: URL-encoded JSON)
pace    tokens a second; 0: at once    calls       how many steps call the tool before the answer comes
delay   ms before the first token      status      answer with this HTTP status
A burst is one write; a paced token is a write of its own. With /generate an id below 256 is that byte.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct

DIRECTIVE = re.compile(r"\[\[bench ([^\]]*)\]\]")
NAMED = re.compile(r"-(tokens|pace|delay)(\d+)")
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "agents", "remember")
NO_TOOLS = (b"null", b"[]")
END_OF_TURN = 257
BYTES_PER_PROMPT_TOKEN = 8  # low, so that no conversation of a benchmark fills its window

_encode = msgspec.json.Encoder().encode


class Script(Struct, frozen=True):
    tokens: int = 12
    pace: float = 0.0
    delay: float = 0.0
    tool: str = ""
    args: str = "{}"
    calls: int = 1
    status: int = 200


class Part(Struct):
    text: str = ""


class ChatMessage(Struct):
    role: str
    content: str | list[Part] | None = None


class StreamOptions(Struct):
    include_usage: bool = False


class ChatRequest(Struct):
    messages: list[ChatMessage]
    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    tools: msgspec.Raw = msgspec.Raw(b"null")


class GenerateRequest(Struct):
    input_ids: list[int]
    stream: bool = False
    return_logprob: bool = False
    rid: str = "scripted"


_decode_chat = msgspec.json.Decoder(ChatRequest).decode
_decode_generate = msgspec.json.Decoder(GenerateRequest).decode


class Reply(Struct, frozen=True):
    """`chunks` go out one write each when paced, in one write otherwise. Not streamed: `head` is the whole body."""

    head: bytes
    chunks: Sequence[bytes] = ()
    tail: bytes = b""
    status: int = 200
    streamed: bool = False
    pace: float = 0.0
    delay_s: float = 0.0


def directive(text: str, script: Script) -> Script:
    """`script` changed by the last directive in `text`. ValueError for a key there is none of."""
    found = DIRECTIVE.findall(text)
    if not found:
        return script
    changes: dict[str, Any] = {}
    for item in found[-1].split():
        key, _, value = item.partition("=")
        if key not in Script.__struct_fields__:
            raise ValueError(f"[[bench]] knows no {key!r}; it knows {', '.join(Script.__struct_fields__)}")
        default = getattr(script, key)
        changes[key] = unquote(value) if isinstance(default, str) else type(default)(value)
    return msgspec.structs.replace(script, **changes)


def named_script(model: str) -> Script:
    return msgspec.structs.replace(
        Script(), **{key: type(getattr(Script(), key))(v) for key, v in NAMED.findall(model)}
    )


def chat(body: bytes) -> Reply:
    """The answer to POST /v1/chat/completions."""
    request = _decode_chat(body)
    script = named_script(request.model)
    calls_done = 0
    for message in reversed(request.messages):
        if message.role == "tool":
            calls_done += 1
        elif message.role == "user":
            script = directive(_text(message.content), script)
            break
    if script.status != 200:
        return Reply(_encode({"error": {"message": "scripted", "type": "scripted"}}), status=script.status)
    call = script.tool if bytes(request.tools) not in NO_TOOLS and calls_done < script.calls else ""
    prompt = max(1, len(body) // BYTES_PER_PROMPT_TOKEN)
    completion = 20 if call else script.tokens
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return (_chat_stream if request.stream else _chat_whole)(request, script, call, usage)


def _chat_whole(request: ChatRequest, script: Script, call: str, usage: dict[str, int]) -> Reply:
    message: dict[str, Any] = {"role": "assistant", "content": None if call else "".join(_words(script.tokens))}
    if call:
        function = {"name": call, "arguments": script.args}
        message["tool_calls"] = [{"id": _new_call_id(), "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if call else "stop"}
    return Reply(
        _encode(
            {
                "id": "chatcmpl-scripted",
                "object": "chat.completion",
                "created": 0,
                "model": request.model,
                "choices": [choice],
                "usage": usage,
            }
        ),
        delay_s=script.delay / 1000,
    )


def _chat_stream(request: ChatRequest, script: Script, call: str, usage: dict[str, int]) -> Reply:
    frame = _chat_framer(request.model)
    chunks: Sequence[bytes]
    if call:
        first = {"index": 0, "id": _new_call_id(), "type": "function", "function": {"name": call, "arguments": ""}}
        pieces = [script.args[at : at + 8] for at in range(0, len(script.args), 8)]
        more = [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
        chunks = [frame({"tool_calls": [piece]}) for piece in (first, *more)]
    else:
        chunks = _content_chunks(request.model, script.tokens)
    tail = frame({}, "tool_calls" if call else "stop")
    if request.stream_options is not None and request.stream_options.include_usage:
        tail += frame(None, usage=usage)
    return Reply(
        frame({"role": "assistant", "content": None if call else ""}),
        chunks,
        tail + b"data: [DONE]\n\n",
        streamed=True,
        pace=script.pace,
        delay_s=script.delay / 1000,
    )


def _chat_framer(model: str) -> Callable[..., bytes]:
    base = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 0, "model": model}

    def frame(delta: Any, finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        body: dict[str, Any] = {**base, "choices": choices}
        return b"data: " + _encode(body if usage is None else {**body, "usage": usage}) + b"\n\n"

    return frame


def generate(body: bytes) -> Reply:
    """The answer to POST /generate: ids in, ids and logprobs out; frames carry only what is new."""
    request = _decode_generate(body)
    prompt = bytes(i if i < 256 else 0 for i in request.input_ids).decode("utf-8", "replace")
    script = directive(prompt, Script())
    after = prompt.rpartition("[[bench ")[2]
    calls = bool(script.tool) and after.count("<tool_response>") < script.calls
    if calls:
        text = f'<tool_call>\n{{"name": "{script.tool}", "arguments": {script.args}}}\n</tool_call>'
    else:
        text = "".join(_words(script.tokens))[: script.tokens]
    ids = [*text.encode(), END_OF_TURN]
    meta: dict[str, Any] = {
        "id": request.rid,
        "prompt_tokens": len(request.input_ids),
        "cached_tokens": 0,
        "num_retractions": 0,
        "weight_version": "default",
    }
    finish = {"type": "stop", "matched": END_OF_TURN}

    def answer(part: list[int], done: int, text: str) -> dict[str, Any]:
        more = {**meta, "completion_tokens": done, "finish_reason": finish if done == len(ids) else None}
        if request.return_logprob:
            more["output_token_logprobs"] = [[-0.1, i, None] for i in part]
            more["input_token_logprobs"] = []
        return {"text": text, "output_ids": part, "meta_info": more}

    if not request.stream:
        return Reply(_encode(answer(ids, len(ids), text)), delay_s=script.delay / 1000)
    frames = [b"data: " + _encode(answer([i], at + 1, chr(i) if i < 128 else "")) + b"\n\n" for at, i in enumerate(ids)]
    return Reply(b"", frames, b"data: [DONE]\n\n", streamed=True, pace=script.pace, delay_s=script.delay / 1000)


_calls = itertools.count(1)


def _new_call_id() -> str:
    """Unique, as real engines' are: a server may keep calls by their id."""
    return f"call_{next(_calls)}"


_CONTENT: dict[tuple[str, int], list[bytes]] = {}


def _content_chunks(model: str, tokens: int) -> list[bytes]:
    """Encoded once for each length: the engine must not be what is measured."""
    found = _CONTENT.get((model, tokens))
    if found is None:
        frame = _chat_framer(model)
        found = _CONTENT[model, tokens] = [frame({"content": word}) for word in _words(tokens)]
    return found


def _words(count: int) -> list[str]:
    return [(" " if at else "") + WORDS[at % len(WORDS)] for at in range(count)]


def _text(content: str | list[Part] | None) -> str:
    if isinstance(content, list):
        return " ".join(part.text for part in content)
    return content or ""
