"""The command line's own small HTTP client: JSON in and out, and server-sent events, over the standard library.

Every failure leaves here as a ClientError whose message says what to do; nothing of `http.client` reaches a command.
"""

import http.client
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from perdure.core.errors import AgentError

DEFAULT_BASE_URL = "http://127.0.0.1:8283"
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 120.0


class ClientError(AgentError):
    """The server could not be asked, or said no. `status` is its HTTP status where it answered."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One server. `timeout_s` bounds the wait for each piece of an answer, not the whole of it."""

    def __init__(self, base_url: str, key: str | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"The server's address {base_url!r} is not a URL; give one like {DEFAULT_BASE_URL}.")
        self.base_url = base_url.rstrip("/")
        self._https = parts.scheme == "https"
        self._host = parts.hostname
        try:
            self._port = parts.port
        except ValueError as error:
            raise ClientError(f"The port in {base_url!r} is not valid: {error}.") from error
        self._prefix = parts.path.rstrip("/")
        self._key = key
        self._timeout_s = timeout_s

    def get(self, path: str, **query: Any) -> Any:
        return self._json("GET", path + _query(query))

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return self._json("POST", path + _query(query), body)

    def patch(self, path: str, body: Any = None) -> Any:
        return self._json("PATCH", path, body)

    def put(self, path: str, body: Any = None) -> Any:
        return self._json("PUT", path, body)

    def delete(self, path: str) -> Any:
        return self._json("DELETE", path)

    def get_bytes(self, path: str, **query: Any) -> bytes:
        """The answer's body as it is, for exports."""
        with self._answer("GET", path + _query(query)) as response:
            return self._read(response)

    def upload(self, path: str, file: Path, fields: Mapping[str, str]) -> Any:
        """POST a file with form fields, as a browser does."""
        boundary = uuid.uuid4().hex
        pieces = [
            f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="agent.af"\r\n\r\n'
        payload = b"".join((*pieces, head.encode(), file.read_bytes(), f"\r\n--{boundary}--\r\n".encode()))
        form = (payload, f"multipart/form-data; boundary={boundary}")
        with self._answer("POST", path, form=form) as response:
            return json.loads(self._read(response))

    def stream(self, path: str, body: Any = None, *, method: str = "POST") -> Iterator[dict[str, Any]]:
        """The frames of an event stream, until [DONE]. An `event: error` frame comes like the others: its
        `message_type` is error_message. A stream that ends without [DONE] is a ClientError: something broke."""
        with self._answer(method, path, body, accept="text/event-stream") as response:
            yield from _frames(self._lines(response))

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        with self._answer(method, path, body) as response:
            data = self._read(response)
        if not data:
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            raise ClientError(f"{self.base_url}{path} did not answer with JSON. Is this a Perdure server?") from error

    def _answer(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        accept: str = "application/json",
        form: tuple[bytes, str] | None = None,
    ) -> http.client.HTTPResponse:
        """`form`: a payload that is not JSON, and its content type."""
        headers = {"accept": accept, "connection": "close", "user-agent": "perdure-cli"}
        payload: bytes | None = None
        if form is not None:
            payload, headers["content-type"] = form
        elif body is not None:
            payload = json.dumps(body).encode()
            headers["content-type"] = "application/json"
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        connection = (http.client.HTTPSConnection if self._https else http.client.HTTPConnection)(
            self._host, self._port, timeout=CONNECT_TIMEOUT_S
        )
        try:
            connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(self._timeout_s)
            connection.request(method, self._prefix + path, payload, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error
        if response.status >= 400:
            raise _refusal(response.status, self._read(response), self.base_url)
        return response

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(f"The answer of {self.base_url} broke off: {error!r}.") from error

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        while True:
            try:
                line = response.readline()
            except TimeoutError as error:
                raise ClientError(f"{self.base_url} sent nothing for {self._timeout_s:.0f} s.") from error
            except (OSError, http.client.HTTPException) as error:
                raise ClientError(f"The stream of {self.base_url} broke off: {error!r}.") from error
            if not line:
                return
            yield line.rstrip(b"\r\n")

    def _unreachable(self, error: Exception) -> ClientError:
        if isinstance(error, TimeoutError):
            return ClientError(f"{self.base_url} did not answer in time.")
        if isinstance(error, ConnectionRefusedError):
            return ClientError(
                f"No server answers at {self.base_url}. Start one with `perdure serve`, or give another --base-url."
            )
        return ClientError(f"{self.base_url} cannot be reached: {error}. Check --base-url.")


def connect(base_url: str | None, env: Mapping[str, str] = os.environ) -> Client:
    """The client of the server that the option, else the environment, names."""
    url = base_url or env.get("PERDURE_BASE_URL") or env.get("LETTA_BASE_URL") or DEFAULT_BASE_URL
    return Client(url, env.get("PERDURE_PASSWORD") or env.get("LETTA_API_KEY"))


def segment(value: str) -> str:
    """`value` as one segment of a path."""
    return quote(value, safe="")


def _query(query: Mapping[str, Any]) -> str:
    given = {key: value for key, value in query.items() if value is not None}
    return f"?{urlencode(given, doseq=True)}" if given else ""


def _frames(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    data: list[bytes] = []
    failed = False
    for line in lines:
        if line.startswith(b"data:"):
            data.append(line[5:].lstrip(b" "))
        elif not line and data:
            text = b"\n".join(data)
            data.clear()
            if text.startswith(b"[DONE]"):
                return
            try:
                frame = json.loads(text)
            except ValueError as error:
                raise ClientError(f"The stream holds a frame that is not JSON: {text[:200]!r}.") from error
            failed = failed or frame.get("message_type") == "error_message"
            yield frame
    # a resumed stream of a failed run ends with its error frame
    if not failed:
        raise ClientError("The stream ended before it was complete. `perdure runs list` shows how the run ended.")


def _refusal(status: int, data: bytes, base_url: str) -> ClientError:
    message = _detail(data) or f"{base_url} answered with status {status}."
    if status == 401:
        message = (
            f"{base_url} wants a password ({message}). Set PERDURE_PASSWORD to the one the server was started with."
        )
    return ClientError(message, status=status)


def _detail(data: bytes) -> str:
    """What an error body says, in any of the shapes servers of this API use."""
    try:
        body = json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")[:500].strip()
    if not isinstance(body, dict):
        return str(body)[:500]
    detail = body.get("detail") or body.get("error") or body
    if isinstance(detail, dict):
        detail = detail.get("message") or json.dumps(detail)
    return str(detail)
