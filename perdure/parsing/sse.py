"""Server-sent events: bytes in, the `data` of each event out.

Invariant: how the input is cut makes no difference. The text stays bytes, so a character cut in two is no concern here.
"""

DONE = b"[DONE]"

_BOM = b"\xef\xbb\xbf"


class SseParser:
    """`feed` gives the data of the events that are complete, several lines joined by a newline; `finish` what was left.

    `[DONE]` is not given but sets `done`; what comes after it is dropped. Comments, ids, retry times and event names
    are dropped: the APIs read here say in the data itself what it is.
    """

    __slots__ = ("_begun", "_pending", "_skip_lf", "done")

    def __init__(self) -> None:
        self.done = False
        self._begun = False
        self._pending: list[bytes] = []
        self._skip_lf = False

    def feed(self, data: bytes) -> list[bytes]:
        if not self._begun:
            data = self._without_bom(data)
        if self._skip_lf or b"\r" in data:
            data = self._plain_newlines(data)
        pending = self._pending
        if b"\n" not in data:
            if data:
                pending.append(data)  # a long line in small pieces is joined once, not once a piece
            return []
        if pending:
            pending.append(data)
            data = b"".join(pending)
            pending.clear()
        frames = data.split(b"\n\n")
        rest = frames.pop()
        if rest:
            pending.append(rest)
        return self._data_of(frames)

    def finish(self) -> list[bytes]:
        """The event the stream ended in, complete or not: many servers leave the last blank line out."""
        rest = b"".join(self._pending)
        self._pending.clear()
        return self._data_of([rest]) if rest else []

    def _without_bom(self, data: bytes) -> bytes:
        """`data` without a byte order mark; b"" while too little has come to tell."""
        head = b"".join([*self._pending, data])
        self._pending.clear()
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._pending.append(head)
            return b""
        self._begun = True
        return head.removeprefix(_BOM)

    def _plain_newlines(self, data: bytes) -> bytes:
        """CRLF and CR become LF. A CR at the end counts at once; an LF beginning the next piece belongs to it."""
        if self._skip_lf:
            if not data:
                return data
            self._skip_lf = False
            data = data.removeprefix(b"\n")
        self._skip_lf = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _data_of(self, frames: list[bytes]) -> list[bytes]:
        out: list[bytes] = []
        for frame in frames:
            if frame.startswith(b"data: ") and b"\n" not in frame:
                payload = frame[6:]
            elif (lines := _data_lines(frame)) is not None:
                payload = lines
            else:
                continue
            if self.done or payload == DONE:
                self.done = True
                break
            out.append(payload)
        return out


def _data_lines(frame: bytes) -> bytes | None:
    """The data lines of one event, joined; None when it has none (comments, keep-alives, names alone)."""
    lines: list[bytes] = []
    for line in frame.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
