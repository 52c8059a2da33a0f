"""The server: daphne in process, subclassed, with its life in the caller's hands.

    server = TransportServer(app, host="127.0.0.1", port=8080)
    server.bind()             # typed PortInUse at once; clients may connect from here on and wait
    server.run()              # main thread; returns after stop()

    server.stop_listening()   # drain: the port is closed, what runs goes on, `in_flight` counts down
    server.stop()             # end: finished answers are flushed, the rest is reset

Importing this module imports daphne.server, which installs Twisted's asyncio reactor for the whole process.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from daphne.server import Server
from twisted.internet import defer, reactor
from twisted.internet.interfaces import IListeningPort
from twisted.logger import globalLogBeginner

from mlxd.transport.census import Census
from mlxd.transport.deadlines import Phase
from mlxd.transport.exchange import failure_site
from mlxd.transport.factory import Channels
from mlxd.transport.gate import GateConfig, Refusal
from mlxd.transport.limits import TransportLimits
from mlxd.transport.listen import Listening, listen
from mlxd.transport.request import Request, app_headers
from mlxd.transport.websocket import Inbox, WebSocket, WebSockets

logger = logging.getLogger(__name__)

type Message = dict[str, Any]


class Application(Protocol):
    """An ASGI 3 application, called with keywords."""

    def __call__(
        self,
        *,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> Coroutine[Any, Any, None]: ...


class TransportServer(Server):  # type: ignore[misc]  # daphne has no types
    """Serves one ASGI application on one port. One per process: the reactor cannot be started twice."""

    application: Application

    def __init__(
        self,
        app: Application,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: TransportLimits | None = None,
        gate: GateConfig | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        """`port` 0 takes a free one. `gate.port` is filled in when bound. `on_ready` is called once, on the loop, when
        connections are being served."""
        self.limits = limits or TransportLimits()
        super().__init__(
            app,
            endpoints=["bound by bind()"],
            signal_handlers=False,
            http_timeout=None,
            server_name="",
            websocket_max_message_size=self.limits.websocket_message_bytes,
            websocket_max_frame_size=self.limits.websocket_message_bytes,
        )
        self.gate = gate or GateConfig()
        self.host = host
        self.requested_port = port
        self.draining = False
        self.refusals: Counter[str] = Counter()
        self.loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop
        self._on_ready = on_ready
        self._listening: Listening | None = None
        self._ports: list[IListeningPort] = []
        self.census = Census(self.limits)
        self._in_flight: set[Request] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    # ── Life ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def bind(self) -> Listening:
        """Open the port. Raises PortInUse or BindFailed (mlxd.transport.errors). Idempotent."""
        if self._listening is None:
            self._listening = listen(self.host, self.requested_port)
            self.gate = replace(self.gate, port=self._listening.port)
        return self._listening

    @property
    def port(self) -> int:
        """The bound port."""
        return self.bind().port

    @property
    def in_flight(self) -> int:
        """HTTP requests between a complete head and a complete answer. WebSockets are not counted."""
        return len(self._in_flight)

    def run(self) -> None:
        """Serve until `stop`. Blocks; main thread only."""
        listening = self.bind()
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(_note_loop_failure)
        globalLogBeginner.beginLoggingTo([_note_twisted_failure], redirectStandardIO=False, discardBuffer=True)
        self.connections: dict[WebSocket, asyncio.Task[None]] = {}
        self.http_factory = Channels(self)
        self.ws_factory = self._websockets()
        for opened in listening.sockets:
            port = reactor.adoptStreamPort(opened.fileno(), opened.family, self.http_factory)
            self._ports.append(port)
            opened.close()  # adopted as a duplicate; this one would keep the port open after stop_listening
        reactor.addSystemEventTrigger("before", "shutdown", self._end)
        self.loop.call_soon(self._sweep)
        if self._on_ready is not None:
            self.loop.call_soon(self._on_ready)
        if not self._stopping:
            reactor.run(installSignalHandlers=False)

    def _websockets(self) -> WebSockets:
        factory = WebSockets(self, server="")
        factory.setProtocolOptions(
            autoPingInterval=0,  # autobahn's pings are timed by the wall clock
            failByDrop=False,  # say 1009 before leaving
            allowNullOrigin=False,
            openHandshakeTimeout=self.websocket_handshake_timeout,
            maxMessagePayloadSize=self.websocket_max_message_size,
            maxFramePayloadSize=self.websocket_max_frame_size,
        )
        return factory

    def stop_listening(self) -> None:
        """Close the port and every idle connection; what is running goes on. On the loop."""
        self.draining = True
        for port in self._ports:
            port.stopListening()
        self._ports.clear()
        for channel in self.census:
            if channel.progress.phase is Phase.IDLE:
                channel.close_when_flushed()

    def abort_all(self) -> None:
        """Reset every connection that waits for an answer; WebSockets are told goodbye. On the loop."""
        for channel in self.census:
            if channel.websocket is not None:
                channel.websocket.say_goodbye()
            elif channel.progress.phase is not Phase.FLUSHING:
                channel.abort()

    def stop(self) -> None:
        """End `run`. From any thread and from a signal handler; idempotent."""
        self._stopping = True
        self.loop.call_soon_threadsafe(self._stop_reactor)

    def _stop_reactor(self) -> None:
        if reactor.running:
            reactor.stop()

    def _end(self) -> defer.Deferred[None]:
        return defer.Deferred.fromFuture(asyncio.ensure_future(self._wind_up(), loop=self.loop))

    async def _wind_up(self) -> None:
        """Let finished answers leave and applications clean up; cancel those that do not, then cut what is left."""
        self.stop_listening()
        self.abort_all()
        await self._emptied(self.limits.shutdown_grace_s / 2)
        for task in self._tasks:
            task.cancel()
        await self._emptied(self.limits.shutdown_grace_s / 2)
        for channel in self.census:
            channel.abort()

    async def _emptied(self, within_s: float) -> None:
        deadline_s = self.now_s() + within_s
        while (self._tasks or len(self.census) > 0) and self.now_s() < deadline_s:  # noqa: ASYNC110  # once per process
            await asyncio.sleep(0.01)

    # ── Connections (called by Channel) ───────────────────────────────────────────────────────────────────────────

    def now_s(self) -> float:
        """Monotonic time of the event loop."""
        return self.loop.time()

    def shrink_send_buffer(self, transport: Any) -> None:
        """Fix the kernel's share of unsent bytes, so that a reader who stops is noticed before megabytes are gone."""
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.kernel_send_buffer_bytes)

    def refused(self, refusal: Refusal, request_id: str) -> None:
        """Count and log an answer the transport gave by itself."""
        self.refusals[refusal.code] += 1
        logger.info("refused status=%d code=%s request_id=%s", refusal.status, refusal.code, request_id)

    def _sweep(self) -> None:
        now_s = self.now_s()
        for channel in self.census:
            channel.sweep(now_s)
        self.loop.call_later(self.limits.sweep_interval_s(), self._sweep)

    # ── Requests (called by Request and Exchange) ─────────────────────────────────────────────────────────────────

    def request_began(self, request: Request) -> None:
        """Count a request whose head has passed the gate."""
        self._in_flight.add(request)

    def request_ended(self, request: Request) -> None:
        """Count it no longer. Idempotent."""
        self._in_flight.discard(request)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine on the loop and keep it from being collected."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ── WebSockets (called by daphne) ─────────────────────────────────────────────────────────────────────────────

    def hand_over(self, request: Request, upgrade: Callable[[], object]) -> None:
        """Turn the request's connection into a WebSocket."""
        self.request_ended(request)
        self.ws_factory.upgrading = request.channel
        try:
            upgrade()
        finally:
            self.ws_factory.upgrading = None
            request.content.close()

    def protocol_connected(self, protocol: Any) -> None:
        """daphne's registry; here connections register themselves."""

    def protocol_disconnected(self, protocol: Any) -> None:
        task = self.connections.pop(protocol, None)
        if task is not None and not task.done():
            self.loop.call_later(self.limits.disconnect_grace_s, task.cancel)

    def create_application(self, protocol: WebSocket, scope: Message) -> Inbox:
        """Start the application for a WebSocket; HTTP requests have their own Exchange."""
        scope |= {
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "path": protocol.shown_path,
            "raw_path": protocol.raw_path,
            "root_path": "",
            "scheme": "ws",
            "headers": app_headers(scope["headers"]),
            "mlxd.request_id": protocol.request_id,
        }
        inbox = Inbox(protocol.transport, self.limits.websocket_queue)
        self.connections[protocol] = self.spawn(self._run_websocket(protocol, scope, inbox))
        return inbox

    async def _run_websocket(self, protocol: WebSocket, scope: Message, inbox: Inbox) -> None:
        failed = False
        try:
            await self.application(scope=scope, receive=inbox.get, send=partial(self.handle_reply, protocol))
        except asyncio.CancelledError:
            failed = True
        except Exception as error:
            failed = True
            logger.error("application failed: %s request_id=%s", failure_site(error), protocol.request_id)
        protocol.app_ended(failed)

    async def handle_reply(self, protocol: WebSocket, message: Message) -> None:
        """The ASGI `send` of a WebSocket; waits for room like that of HTTP, and is silent once the socket is gone."""
        if protocol in self.connections:
            protocol.handle_reply(message)
            await protocol.channel.writable.wait()


def _note_loop_failure(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    what = failure_site(error) if isinstance(error, BaseException) else context.get("message", "unknown")
    logger.error("unhandled on the event loop: %s", what)


def _note_twisted_failure(event: dict[str, Any]) -> None:
    failure = event.get("log_failure")
    if failure is not None:
        logger.error("unhandled in the transport: %s", failure_site(failure.value))
