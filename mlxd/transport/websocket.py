"""WebSockets: daphne's protocol with monotonic clocks, bounded queues and JSON refusals.

The gate has judged the handshake before this code runs (Host, exact Origin, path). What is left is to keep a socket
honest: a ping when it is quiet, an end when it does not answer, a stop to reading when the application is behind and to
writing when the client is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, override
from urllib.parse import unquote

from autobahn.websocket.types import ConnectionDeny
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol

from mlxd.error_shapes import request_id_headers
from mlxd.transport.deadlines import Phase
from mlxd.transport.gate import Refusal
from mlxd.transport.wire import new_request_id, raw_refusal

if TYPE_CHECKING:
    from mlxd.transport.channel import Channel
    from mlxd.transport.server import TransportServer


class Inbox:
    """Messages on their way to the application; stops the socket from reading while more than `limit` wait."""

    def __init__(self, transport: Any, limit: int) -> None:
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._transport = transport
        self._limit = limit
        self._paused = False

    def put_nowait(self, message: dict[str, Any]) -> None:
        """Add a message; called by the protocol."""
        self._queue.put_nowait(message)
        if self._queue.qsize() >= self._limit and not self._paused:
            self._paused = True
            self._transport.pauseProducing()

    async def get(self) -> dict[str, Any]:
        """The ASGI `receive`."""
        message = await self._queue.get()
        if self._paused and self._queue.qsize() <= self._limit // 2:
            self._paused = False
            if self._transport.connected:
                self._transport.resumeProducing()
        return message


class WebSocket(WebSocketProtocol):  # type: ignore[misc]  # daphne has no types
    """One WebSocket connection. `channel` is the HTTP connection it grew from, which still counts and times it."""

    channel: Channel
    raw_path: bytes
    request_id: str
    server: TransportServer
    request: Any = None

    @property
    def shown_path(self) -> str:
        """The path as routes see it."""
        return unquote(self.raw_path.decode("ascii"))

    @override
    def onConnect(self, request: Any) -> Any:
        self._opened_s = self._heard_s = self._pinged_s = self.channel.server.now_s()
        return super().onConnect(request)

    def sweep(self, now_s: float) -> None:
        """Ping when quiet; give up when nothing comes back, or when the application never answers the handshake."""
        limits = self.channel.limits
        if self.state == self.STATE_CONNECTING and self.request is not None:
            if now_s - self._opened_s > limits.websocket_accept_s and hasattr(self, "handshake_deferred"):
                self.serverReject()
        elif self.state == self.STATE_OPEN:
            if now_s - self._heard_s > limits.websocket_silence_s:
                self.channel.abort()
            elif now_s - max(self._heard_s, self._pinged_s) > limits.websocket_ping_s:
                self._pinged_s = now_s
                self.sendPing()

    @override
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._heard_s = self.channel.server.now_s()
        super().onMessage(payload, isBinary)

    @override
    def onPong(self, payload: bytes) -> None:
        self._heard_s = self.channel.server.now_s()

    @override
    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        if self.request is not None:  # else the handshake failed before daphne knew of it
            super().onClose(wasClean, code, reason)

    @override
    def connectionLost(self, reason: Any) -> None:
        self.channel.server.census.closed(self.channel)
        self.channel.writable.set()
        super().connectionLost(reason)

    @override
    def sendData(self, *args: Any, **kwargs: Any) -> None:
        self.channel.counted(lambda: super(WebSocket, self).sendData(*args, **kwargs))

    @override
    def serverAccept(self, subprotocol: str | None = None) -> None:
        ids = {name.decode(): value.decode() for name, value in request_id_headers(self.request_id)}
        self._take_handshake().callback((subprotocol, ids))

    @override
    def serverClose(self, code: int | None = None) -> None:
        # autobahn's sendClose refuses the codes a server has most use for: 1001, 1008, 1009, 1011, 1013
        self.sendCloseFrame(code=1000 if code is None else code)

    def _take_handshake(self) -> Any:
        handshake = self.handshake_deferred
        del self.handshake_deferred
        return handshake

    @override
    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Sequence[Any] | None = None) -> None:
        """autobahn's refusal of a handshake, as JSON."""
        name = {403: "websocket_refused", 500: "internal_error"}.get(code, "invalid_handshake")
        refusal = Refusal(code, name, "The WebSocket was not opened.", permanent=code < 500)
        self.channel.server.refused(refusal, self.request_id)
        self.sendData(raw_refusal(refusal, self.shown_path, self.request_id))

    def app_ended(self, failed: bool) -> None:
        """The application is done with this socket; whatever state it left, the client is told."""
        if self.state == self.STATE_CONNECTING:
            if hasattr(self, "handshake_deferred"):
                self._take_handshake().errback(ConnectionDeny(code=500 if failed else 403, reason="no application"))
        elif self.state == self.STATE_OPEN:
            self.serverClose(code=1011 if failed else 1000)

    def say_goodbye(self) -> None:
        """The server is going away."""
        if self.state == self.STATE_OPEN:
            self.serverClose(code=1001)
        else:
            self.channel.abort()


class WebSockets(WebSocketFactory):  # type: ignore[misc]  # daphne has no types
    """Builds the protocol for the channel that is being upgraded."""

    protocol = WebSocket
    upgrading: Channel | None = None

    @override
    def buildProtocol(self, addr: Any) -> WebSocket:
        socket: WebSocket = super().buildProtocol(addr)
        channel = self.upgrading
        if channel is None:
            raise RuntimeError("a WebSocket can only grow from an HTTP connection")
        socket.channel = channel
        socket.raw_path = channel.requests[-1].path
        socket.request_id = channel.requests[-1].request_id if channel.requests else new_request_id()
        channel.websocket = socket
        channel.progress.enter(Phase.RUNNING, channel.server.now_s())
        return socket
