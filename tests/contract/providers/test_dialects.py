"""Every dialect of chat completions: an answer in the shape its provider documents, streamed, whole and cut anywhere, and the
request its profile makes of the same rich prompt.

`dialects/NAME.json` holds the answers, written by us from the providers' references (`stream`: frames, or lines as they are),
what they mean, and the request as it must be sent (PERDURE_UPDATE_SNAPSHOTS=1 writes that anew: read what changed).
"""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.core.agents import ModelSettings
from perdure.core.messages import ImagePart, Message, ReasoningPart, TextPart, ToolCall, ToolReturn
from perdure.core.model import Chunk, ModelDone, Prompt, ReasoningChunk, TextChunk, ToolSpec
from perdure.parsing.sse import SseParser
from perdure.providers.configs import ProviderConfig
from perdure.providers.endpoint import ChatProvider
from perdure.providers.http import Http
from perdure.providers.openai_chat import OpenAIChat
from perdure.providers.openai_frames import ChatAnswer
from perdure.providers.profiles import PROFILES
from tests.doubles.wire import END, HEAD, Wire, answer, chunk

FOLDER = Path(__file__).parent / "dialects"
UPDATE = os.environ.get("PERDURE_UPDATE_SNAPSHOTS") == "1"
KINDS = sorted(path.stem for path in FOLDER.glob("*.json"))
WITHOUT = {"openai_compatible", "local"}  # not a provider, not asked by chat completions

LOOK = ToolSpec("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}}, strict=True)
SETTINGS = ModelSettings(
    temperature=0.5,
    top_p=0.9,
    top_k=20,
    min_p=0.1,
    max_output_tokens=99,
    seed=7,
    stop=("END",),
    frequency_penalty=0.1,
    presence_penalty=0.2,
    repetition_penalty=1.1,
    reasoning_effort="low",
    enable_thinking=True,
    verbosity="low",
    response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
)


def case_of(kind: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{kind}.json").read_text())


def body_of(case: dict[str, Any], newline: bytes = b"\n") -> bytes:
    lines = [line if isinstance(line, str) else f"data: {json.dumps(line)}" for line in case["stream"]]
    return b"".join((f"data: {line}" if line == "[DONE]" else line).encode() + newline * 2 for line in lines)


def play(kind: str, pieces: list[bytes]) -> tuple[list[Chunk], ModelDone]:
    parser, heard = SseParser(), ChatAnswer(kind, think_tags=PROFILES[kind].chat.think_tags is not None)
    chunks: list[Chunk] = []
    for piece in pieces:
        chunks += heard.feed(parser.feed(piece))
    chunks += heard.feed(parser.finish())
    chunks += heard.finish()
    return chunks, heard.done(complete=parser.done)


def check(kind: str, means: dict[str, Any], chunks: list[Chunk], done: ModelDone) -> None:
    assert "".join(each.text for each in chunks if isinstance(each, ReasoningChunk)) == means["thinking"]
    assert "".join(each.text for each in chunks if isinstance(each, TextChunk)) == means["text"]
    assert "".join(part.text for part in done.content if isinstance(part, ReasoningPart)) == means["thinking"]
    assert "".join(part.text for part in done.content if isinstance(part, TextPart)) == means["text"]
    assert [[call.name, call.arguments] for call in done.tool_calls] == means["calls"]
    assert len({call.id for call in done.tool_calls}) == len(done.tool_calls)
    assert done.finish == means["finish"]
    assert list(msgspec.to_builtins(done.usage).values()) == means["usage"]
    if "details" in means:
        assert isinstance(done.content[0], ReasoningPart) and done.content[0].signature is not None
        assert json.loads(done.content[0].signature) == means["details"]
    if "extra" in means:
        assert json.loads(done.tool_calls[0].signature or "") == means["extra"]


def test_every_dialect_has_its_recorded_shape() -> None:
    spoken = {kind for kind, profile in PROFILES.items() if profile.api == "openai" and profile.messages_api is None}
    assert set(KINDS) == spoken - WITHOUT


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_streamed_and_cut_anywhere(kind: str) -> None:
    case = case_of(kind)
    body = body_of(case)
    chunks, done = play(kind, [body])
    check(kind, case["means"], chunks, done)
    once = msgspec.structs.replace(done, exchange=None)
    for newline in (b"\n", b"\r\n", b"\r"):
        odd = b"\xef\xbb\xbf" + body_of(case, newline)
        for size in (1, 3, 50):
            again, same = play(kind, [odd[at : at + size] for at in range(0, len(odd), size)])
            assert msgspec.structs.replace(same, exchange=None) == once
            check(kind, case["means"], again, same)


async def test_answers_over_the_wire(http: Http, wire: Wire) -> None:
    for kind in KINDS:
        case = case_of(kind)
        whole = (case.get("whole_prefix", "") + json.dumps(case["whole"])).encode()
        for stream in (True, False):
            reply = (
                [HEAD + chunk(body_of(case)) + END] if stream else answer(200, whole, content_type="application/json")
            )
            wire.answers = [reply]  # type: ignore[list-item]
            items = [
                item
                async for batch in model_of(kind, case, http, wire, stream).stream(rich_prompt(kind))
                for item in batch
            ]
            done = items[-1]
            assert isinstance(done, ModelDone)
            check(kind, case["means"], [each for each in items if not isinstance(each, ModelDone)], done)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_request(kind: str, http: Http, wire: Wire) -> None:
    case = case_of(kind)
    sent: dict[str, Any] = {}
    for name, prompt in (("rich", rich_prompt(kind)), ("plain", plain_prompt(kind))):
        wire.answers = [[HEAD + chunk(body_of(case)) + END]]
        async for _ in model_of(kind, case, http, wire, True).stream(prompt):
            pass
        line, headers, body = wire.requests[-1]
        key = {each: value for each, value in headers.items() if each in ("authorization", "api-key")}
        sent[name] = {"line": line, "key": key, "body": json.loads(body)}
    if UPDATE:
        (FOLDER / f"{kind}.json").write_text(json.dumps({**case, "request": sent}, ensure_ascii=False, indent=1) + "\n")
        case = case_of(kind)
    assert sent == case["request"]


def model_of(kind: str, case: dict[str, Any], http: Http, wire: Wire, stream: bool) -> OpenAIChat:
    path = "" if kind == "azure" else (PROFILES[kind].base_url or "").partition("//")[2].partition("/")[2]
    config = ProviderConfig(name=kind, kind=kind, base_url=f"{wire.url}/{path}".rstrip("/"), api_key="key-test")
    model = ChatProvider(config, http).chat(case["model"])
    assert isinstance(model, OpenAIChat)
    model._stream = stream  # pyright: ignore[reportPrivateUsage]
    return model


def plain_prompt(kind: str) -> Prompt:
    hello = Message(id="message-1", role="user", created_us=1, content=(TextPart("Hi."),))
    return Prompt(model="m", system="Be brief.", messages=[hello])


def rich_prompt(kind: str) -> Prompt:
    """A conversation with everything in it, and every setting set."""
    signature = (
        '[{"type":"reasoning.text","text":"A look.","signature":"c2lnMA=="}]' if PROFILES[kind].chat.details else None
    )
    extra = '{"google":{"thought_signature":"c2lnMA=="}}' if PROFILES[kind].chat.call_extra else None
    said = (ReasoningPart("A look.", signature=signature), TextPart("Looking."))
    calls = (ToolCall("call_of_ours_1", "look", '{"at": "x"}', extra), ToolCall("abcdefgh2", "look", "{broken"))
    image = ImagePart(media_type="image/png", data="AA==")
    returns = (
        ToolReturn("call_of_ours_1", "look", "success", "Seen."),
        ToolReturn("abcdefgh2", "look", "error", (TextPart("No:"), image)),
    )
    common: dict[str, Any] = {"created_us": 1, "model": f"{kind}/m"}
    return Prompt(
        model="m",
        system="Be brief.",
        messages=[
            Message(id="message-1", role="user", content=(TextPart("What is it?"), image), **common),
            Message(id="message-2", role="assistant", content=said, tool_calls=calls, **common),
            Message(id="message-3", role="tool", tool_returns=returns, **common),
            Message(id="message-4", role="user", content=(TextPart("Well?"),), **common),
        ],
        tools=[LOOK],
        tool_choice="look",
        parallel_tool_calls=False,
        settings=SETTINGS,
        want_logprobs=True,
        top_logprobs=2,
    )
