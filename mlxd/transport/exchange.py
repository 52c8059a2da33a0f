"""One HTTP request as the ASGI application sees it: `receive`, `send`, and what happens when either side goes away.

What it promises. `send` waits while the client reads too slowly. Once the client is gone `receive` returns
`http.disconnect` at once, `send` raises ClientDisconnected, and the application is cancelled if it is still there after
a grace. An application that fails before its first byte is answered for with a JSON 500; one that fails later has its
connection reset, because a clean end would make a torn stream look whole (the OpenAI SDK takes it for success).
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlxd.transport.errors import ClientDisconnected

if TYPE_CHECKING:
    from mlxd.transport.request import Request
    from mlxd.transport.server import TransportServer

logger = logging.getLogger(__name__)

_READ_BYTES = 256 * 1024
_BODILESS = frozenset({204, 304})


def failure_site(error: BaseException) -> str:
    """Class and place of an error. Never its message, which can hold prompt text."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}"


def _is_goodbye(error: BaseException) -> bool:
    """Whether `error` is nothing but our own ClientDisconnected coming back, task groups included."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_goodbye(inner) for inner in error.exceptions)
    return isinstance(error, ClientDisconnected)


class Exchange:
    """Runs the application for one request."""

    def __init__(self, request: Request, server: TransportServer) -> None:
        self._request = request
        self._channel = request.channel
        self._server = server
        self._over = asyncio.Event()
        self._body_read = False
        self._started = False
        self._gone = False
        self._finished = False
        self._owed_bytes: int | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, scope: Mapping[str, Any]) -> None:
        """Start the application on the event loop."""
        self._task = self._server.spawn(self._run(scope))

    def disconnected(self) -> None:
        """The connection is lost: tell the application now, insist later."""
        self._gone = True
        self._over.set()
        if self._task is not None and not self._task.done():
            self._server.loop.call_later(self._server.limits.disconnect_grace_s, self._task.cancel)

    async def receive(self) -> dict[str, Any]:
        """The ASGI `receive`: the body in pieces, then `http.disconnect` when the exchange is over."""
        if not (self._gone or self._finished or self._body_read):
            return self._next_piece()
        await self._over.wait()
        return {"type": "http.disconnect"}

    def _next_piece(self) -> dict[str, Any]:
        piece: bytes = self._request.content.read(_READ_BYTES)
        self._body_read = len(piece) < _READ_BYTES
        return {"type": "http.request", "body": piece, "more_body": not self._body_read}

    async def send(self, message: Mapping[str, Any]) -> None:
        """The ASGI `send`. Waits for room in the write buffer; raises ClientDisconnected when nobody listens."""
        if self._gone:
            raise ClientDisconnected
        match message["type"]:
            case "http.response.start" if not self._started:
                self._begin(int(message["status"]), list(message.get("headers", ())))
            case "http.response.body" if self._started and not self._finished:
                await self._write(bytes(message.get("body", b"")))
                if not message.get("more_body", False):
                    self._finish()
            case other:
                raise ValueError(f"unexpected ASGI message {other!r}")

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if not 200 <= status <= 599:
            raise ValueError(f"not a final status: {status}")
        if not all(isinstance(part, bytes) for header in headers for part in header):
            raise TypeError("header names and values must be bytes")
        self._started = True
        lengths = [value for name, value in headers if name.lower() == b"content-length"]
        if lengths and status not in _BODILESS and self._request.method != b"HEAD":
            self._owed_bytes = int(lengths[0])
        self._request.begin(status, headers)

    async def _write(self, body: bytes) -> None:
        if self._owed_bytes is not None:
            self._owed_bytes -= len(body)
            if self._owed_bytes < 0:
                raise ValueError("the body is longer than its Content-Length")
        step = self._channel.limits.write_high_water_bytes
        for start in range(0, max(len(body), 1), step):
            self._request.write(body[start : start + step])
            await self._channel.writable.wait()
            if self._gone:
                raise ClientDisconnected

    def _finish(self) -> None:
        if self._owed_bytes:
            raise ValueError("the body is shorter than its Content-Length")
        self._finished = True
        self._request.finish()
        self._over.set()

    async def _run(self, scope: Mapping[str, Any]) -> None:
        try:
            await self._server.application(scope=dict(scope), receive=self.receive, send=self.send)
        except asyncio.CancelledError:
            if not self._gone:
                self._end_torn("CancelledError")
        except Exception as error:
            # Not `except BaseException`: an interrupt is meant for the process. The class is logged, never the message.
            if not (self._gone and _is_goodbye(error)):
                self._end_torn(failure_site(error))
        else:
            if not self._finished and not self._gone:
                self._end_torn("returned without finishing its response")

    def _end_torn(self, what: str) -> None:
        logger.error("application failed: %s request_id=%s", what, self._request.request_id)
        if self._finished or self._gone:
            return
        self._finished = True
        self._over.set()
        if self._request.startedWriting:
            self._channel.abort_when_heard()
        else:
            self._request.fail()
