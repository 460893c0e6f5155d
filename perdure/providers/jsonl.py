"""What batch APIs have in common on the wire: JSON calls, files of one JSON document a line, and how files are uploaded."""

import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from perdure.core.errors import ProviderError
from perdure.providers.http import Endpoint, Http

CALL_S = 600.0


async def call_json(
    http: Http,
    endpoint: Endpoint,
    path: str,
    body: bytes | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    retry: bool = True,
) -> Any:
    """What it answers, a JSON object or list. GET without a body."""
    method = "GET" if body is None else "POST"
    data = await http.call(endpoint, path, body, method=method, headers=headers, retry=retry, timeout_s=CALL_S)
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        shown = data[:200].decode("utf-8", "replace")
        message = f"{endpoint.name} answered {path} with what is no JSON. It begins: {shown}"
        raise ProviderError(message, kind="llm_error") from cause


async def call_off(http: Http, endpoint: Endpoint, path: str) -> None:
    """Cancel what may have ended, or be gone, by now."""
    try:
        await call_json(http, endpoint, path, b"{}")
    except ProviderError as error:
        if error.status not in (400, 404, 409):
            raise


async def lines(http: Http, endpoint: Endpoint, path: str, *, follow: bool = False) -> AsyncGenerator[bytes]:
    """The lines of a file, those that are not empty, while it arrives. `follow`: it may lie elsewhere."""
    async with await http.open(endpoint, path, method="GET", follow=follow) as answer:
        left = b""
        while data := await answer.read():
            *whole, left = (left + data).split(b"\n")
            for line in whole:
                if line.strip():
                    yield line
        if left.strip():
            yield left


def multipart(fields: Mapping[str, str], name: str, content: bytes) -> tuple[bytes, str]:
    """(body, content type) of a form with one file."""
    boundary = uuid.uuid4().hex
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    )
    head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    head += "Content-Type: application/jsonl\r\n\r\n"
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
