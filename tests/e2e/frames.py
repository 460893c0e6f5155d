"""Raw frames of a stream, with what changes from run to run replaced, so that whole streams can be compared."""

import json
import re
import urllib.error
import urllib.request
from typing import Any

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")


def post(url: str, body: Any, *, method: str = "POST", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method)
    request.add_header("content-type", "application/json")
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def frames(raw: bytes) -> list[Any]:
    """Each frame: its data decoded ("[DONE]" as it is), an error's under ("error", data)."""
    found: list[Any] = []
    for block in raw.decode().split("\n\n"):
        if not block:
            continue
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        data = lines["data"]
        value = data if data == "[DONE]" else json.loads(data)
        found.append(("error", value) if lines.get("event") == "error" else value)
    return found


class Names:
    """Gives every id a short stable name in order of appearance: message-1, run-1; an otid becomes its message's name and
    the part's index."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._bases: dict[int, str] = {}

    def plain(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: self._otid(item) if key == "otid" and item else self.plain(item) for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return type(value)(self.plain(item) for item in value)
        if isinstance(value, str):
            value = DATE.sub("DATE", value)
            return UUID.sub(lambda found: self._name(value, found.group()), value)
        return value

    def _name(self, text: str, uuid: str) -> str:
        if uuid not in self._names:
            self._names[uuid] = str(len(self._names) + 1)
            if text.startswith("message-"):
                self._bases[int(uuid.replace("-", ""), 16) & ~0x7F] = f"message-{self._names[uuid]}"
        return self._names[uuid]

    def _otid(self, otid: str) -> str:
        if otid.startswith("message-"):  # an approval request's is its own id
            return self.plain(otid)
        number = int(otid.replace("-", ""), 16)
        base = self._bases.get(number & ~0x7F)
        return f"{base}|{number & 0x7F}" if base else "CLIENT"
