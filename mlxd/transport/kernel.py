"""What the kernel knows of a connection that Twisted does not say."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios

_SO_NWRITE = 0x1024
"""macOS: bytes in the send buffer. Python has no name for it."""


def unacknowledged_bytes(sock: socket.socket) -> int:
    """How much of what was sent the other machine has not confirmed; 0 where that cannot be known."""
    try:
        if sys.platform == "darwin":
            return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
        return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0
