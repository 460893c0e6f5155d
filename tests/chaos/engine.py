"""The model of the chaos tests as a process of its own, which can be killed: an OpenAI endpoint that plays each message's story.

It keeps nothing: what it answers follows from the messages it is sent. `python -m tests.chaos.engine PORT`.
"""

import asyncio
import contextlib
import json
import sys
from typing import Any

from aiohttp import web

from tests.chaos.story import story_of

PIECE_S = 0.04


def answer(messages: list[dict[str, Any]]) -> tuple[str, dict[str, str] | None]:
    """(what is said, the call made) at this point of the last story."""
    last = max(at for at, message in enumerate(messages) if message["role"] == "user")
    told = story_of(_text(messages[last]["content"]))
    if told is None:
        return "I do not know that story.", None
    step = sum(message["role"] == "tool" for message in messages[last:])
    if step >= len(told.calls):
        return told.answer, None
    name, arguments = told.calls[step], {"marker": told.marker, "step": step}
    if name == "memory_insert":
        arguments = {"label": "journal", "new_string": told.line(step)}
    return told.said(step), {"id": f"call-{told.marker}-{step}", "name": name, "arguments": json.dumps(arguments)}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    said, call = answer(body["messages"])
    calls = [{"index": 0, "id": call["id"], "type": "function", "function": call}] if call else None
    finish = "tool_calls" if call else "stop"
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    common = {"id": "chatcmpl-1", "created": 1, "model": body.get("model")}
    if not body.get("stream"):
        await asyncio.sleep(4 * PIECE_S)
        choice = {"index": 0, "message": {"role": "assistant", "content": said, "tool_calls": calls}}
        choice["finish_reason"] = finish  # type: ignore[assignment]
        return web.json_response({**common, "object": "chat.completion", "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": said[at : at + 12]}, None) for at in range(0, len(said), 12)]
    deltas += [({"tool_calls": calls}, None)] if calls else []
    deltas.append(({}, finish))
    with contextlib.suppress(ConnectionError):  # it was called off
        await response.prepare(request)
        await play(response, deltas, common, usage)
    return response


async def play(
    response: web.StreamResponse,
    deltas: list[tuple[dict[str, Any], str | None]],
    common: dict[str, Any],
    usage: dict[str, int],
) -> None:
    for delta, reason in deltas:
        frame = {**common, "object": "chat.completion.chunk"}
        frame["choices"] = [{"index": 0, "delta": delta, "finish_reason": reason}]
        await response.write(b"data: " + json.dumps(frame).encode() + b"\n\n")
        await asyncio.sleep(PIECE_S)
    frame = {**common, "object": "chat.completion.chunk", "choices": [], "usage": usage}
    await response.write(b"data: " + json.dumps(frame).encode() + b"\n\ndata: [DONE]\n\n")


async def models(_: web.Request) -> web.Response:
    data = [{"id": "gpt-chaos", "object": "model", "created": 1, "owned_by": "test"}]
    return web.json_response({"object": "list", "data": data})


if __name__ == "__main__":
    app = web.Application(client_max_size=1 << 30)  # long conversations are sent whole
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
