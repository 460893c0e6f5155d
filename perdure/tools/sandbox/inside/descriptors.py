"""Sockets that carry descriptors, without the `socket` module, which would be one more thing loaded in every fork."""

import _socket
import struct
import sys

_TIMEVAL = struct.Struct("@ll" if sys.platform != "darwin" else "@li4x")
_DESCRIPTOR = struct.Struct("@i")
_SPACE = _socket.CMSG_LEN(_DESCRIPTOR.size)

Socket = _socket.socket


def opened(fd: int) -> Socket:
    return Socket(fileno=fd)


def limit_sending(sock: Socket, timeout_s: int) -> None:
    """Sending raises OSError when nothing has moved for so long; receiving waits for ever."""
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _TIMEVAL.pack(timeout_s, 0))


def receive(sock: Socket, size: int) -> tuple[bytes, int]:
    """A message and the descriptor that came with it, -1 if none did. (b"", -1) at the end."""
    data, ancillary, _, _ = sock.recvmsg(size, _SPACE)
    return data, _DESCRIPTOR.unpack(ancillary[0][2])[0] if ancillary else -1
