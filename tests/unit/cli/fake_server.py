"""A server of scripted answers for the commands to talk to."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Key = tuple[str, str]


class FakeServer:
    """`answers`: (method, path without query) -> JSON, (status, JSON), or a list of frames for an event stream.

    `asked` are the requests that came: (method, path with query, headers, body). A stream ends with [DONE] unless `cut`.
    """

    def __init__(self) -> None:
        self.answers: dict[Key, Any] = {}
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.cut = False
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def body_of(self, method: str, path: str) -> Any:
        """The body of the only request there was to that path."""
        (found,) = [body for m, p, _, body in self.asked if (m, p.partition("?")[0]) == (method, path)]
        return found

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                fake.asked.append((self.command, self.path, dict(self.headers), body))
                answer = fake.answers.get((self.command, self.path.partition("?")[0]), (404, {"detail": "Not Found"}))
                if isinstance(answer, Stream):
                    self.send_stream(answer)
                else:
                    status, content = answer if isinstance(answer, tuple) else (200, answer)
                    self.send_json(status, content)

            def send_json(self, status: int, content: Any) -> None:
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def send_stream(self, frames: "Stream") -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for frame in frames:
                    name = "event: error\n" if frame.get("message_type") == "error_message" else ""
                    self.send_chunk(f"{name}data: {json.dumps(frame)}\n\n")
                if not fake.cut:
                    self.send_chunk("data: [DONE]\n\n")
                self.wfile.write(b"0\r\n\r\n")

            def send_chunk(self, text: str) -> None:
                data = text.encode()
                # two chunks a frame: readers must not take a chunk for a frame
                for part in (data[:7], data[7:]):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))

            def log_message(self, format: str, *args: Any) -> None:
                pass

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any

        return Handler


class Stream(list[dict[str, Any]]):
    """Frames to be sent as an event stream."""
