"""The writing half of a connection: what is written leaves at once, is counted, and is held back for a slow reader.

Twisted puts every write into a buffer that the next turn of the loop sends: two changes of what the loop polls for and
a turn of its own for each token of a stream, 0.2 ms of processor time where sending takes 0.03. Here the kernel is
asked first, and only what it does not take goes that way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, override

from twisted.web import http


class Outlet(http.HTTPChannel):  # type: ignore[misc]  # its types are skipped
    """`writable` is cleared while the buffer is full; `queued_bytes` is all that was ever written, sent or not."""

    def __init__(self) -> None:
        super().__init__()
        self.writable = asyncio.Event()
        self.writable.set()
        self.queued_bytes = 0

    def buffered_bytes(self) -> int:
        """How much of what was written has not reached the kernel yet."""
        transport = self.transport
        return int(len(transport.dataBuffer) - transport.offset + transport._tempDataLen)

    def counted(self, write: Callable[..., object], *args: Any) -> None:
        """Run `write(*args)` and count what it queued, so that progress can be told from refilling."""
        before_bytes = self.buffered_bytes()
        write(*args)
        self.queued_bytes += self.buffered_bytes() - before_bytes

    @override
    def write(self, data: bytes) -> None:
        sent_bytes = self._send(data)
        if sent_bytes < len(data):
            self.counted(super().write, data[sent_bytes:])

    @override
    def writeSequence(self, iovec: list[bytes]) -> None:
        self.write(b"".join(iovec))

    @override
    def writeHeaders(self, *args: Any) -> None:
        """Left to the buffer: the first piece of the body goes with them."""
        self.counted(super().writeHeaders, *args)

    def _send(self, data: bytes) -> int:
        """How many bytes the kernel took. None where others wait before these, or where the end has begun.

        What is wrong with the connection is found out by the loop, which is asked to send the rest.
        """
        if not self._is_open() or self.buffered_bytes():
            return 0
        try:
            sent_bytes: int = self.transport.socket.send(data)
        except OSError:
            return 0
        self.queued_bytes += sent_bytes
        return sent_bytes

    def _is_open(self) -> bool:
        """A connection that was aborted sends nothing more, or a torn answer could still get its end."""
        transport = self.transport
        ending = transport.disconnecting or transport._writeDisconnecting or transport._aborting
        return bool(transport.connected and not ending)

    @override
    def pauseProducing(self) -> None:
        self.writable.clear()
        super().pauseProducing()

    @override
    def resumeProducing(self) -> None:
        self.writable.set()
        super().resumeProducing()
