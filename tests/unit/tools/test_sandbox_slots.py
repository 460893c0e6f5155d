"""What a supervisor sends back is what the server reads, however the two are cut up on the way."""

import asyncio
import socket
import struct
from typing import Any

import pytest

from perdure.tools.sandbox.result import Reply
from perdure.tools.sandbox.warm import read_reply

if not hasattr(socket, "recv_fds"):
    pytest.skip("no descriptors can be passed on this system", allow_module_level=True)

from perdure.tools.sandbox.inside import descriptors
from perdure.tools.sandbox.inside.supervisor import REPLY, send_reply

LIMIT = 10_000


class SlowSocket:
    """Takes a few bytes at a time."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self.taken = b""

    def sendmsg(self, parts: Any) -> int:
        some = b"".join(parts)[: self._at_once]
        self.taken += some
        return len(some)


def reply(at_once: int) -> bytes:
    sock: Any = SlowSocket(at_once)
    send_reply(sock, ("signal", 11), b"detail", memoryview(b"answer"), b"", memoryview(b"stderr"), (3, 1 << 40))
    return sock.taken


async def read(data: bytes, at_once: int) -> Reply:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reading = asyncio.create_task(read_reply(ours, LIMIT))
        for start in range(0, len(data), at_once):
            await asyncio.sleep(0)
            theirs.send(data[start : start + at_once])
        theirs.close()
        return await reading


@pytest.mark.parametrize("at_once", [1, 7, REPLY.size, 1000])
async def test_a_reply_comes_whole(at_once: int) -> None:
    data = reply(at_once)
    assert data == reply(1000)
    assert await read(data, at_once) == Reply("signal", 11, "detail", b"answer", b"", b"stderr", (3, 1 << 40))


@pytest.mark.parametrize("size", [0, 1, REPLY.size - 1, REPLY.size, REPLY.size + 5])
async def test_a_reply_that_breaks_off_is_lost(size: int) -> None:
    assert await read(reply(1000)[:size], 1000) == Reply("lost")


async def test_sizes_beyond_the_limit_are_not_believed() -> None:
    data = REPLY.pack(b"exit", 0, 0, 0, 0, LIMIT, 1, 0)
    assert await read(data, 1000) == Reply("lost")


def test_a_message_comes_with_its_descriptor() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"call"], [ours.fileno()])
        data, fd = descriptors.receive(theirs, 10)
        assert data == b"call" and fd not in (-1, ours.fileno())
        socket.socket(fileno=fd).close()
        ours.send(b"none")
        assert descriptors.receive(theirs, 10) == (b"none", -1)
        ours.close()
        assert descriptors.receive(theirs, 10) == (b"", -1)


def test_sending_to_one_who_does_not_read_ends() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        descriptors.limit_sending(ours, 1)
        value = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.calcsize("@ll"))
        assert struct.unpack("@ll", value)[0] == 1
        with pytest.raises(OSError):
            while True:
                ours.sendall(bytes(1 << 20))
