"""One TCP connection that speaks HTTP/1.1: limits, the gate, deadlines and backpressure.

Twisted's channel parses; this subclass decides. It judges the head before Twisted makes room for a body, answers every
refusal itself as JSON and then lingers. How an answer is written is the `Outlet`'s business.

Life of a connection (`Phase`):

    IDLE ─ first byte ─> HEAD ─ judged ─> BODY ─ complete ─> RUNNING ─ answered ─> IDLE | FLUSHING
      └──────────────── any refusal ────────────────> LINGERING ─> closed

Twisted's own timers are off: the server's sweep calls `sweep` with the monotonic time.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, override
from urllib.parse import unquote

from twisted.python.failure import Failure
from twisted.web import http

from mlxd.transport.deadlines import Overdue, Phase, Progress, overdue
from mlxd.transport.gate import Refusal, check
from mlxd.transport.kernel import unacknowledged_bytes
from mlxd.transport.outlet import Outlet
from mlxd.transport.refusals import (
    BODY_UNSTORED,
    HEAD_TOO_LARGE,
    LATE_BODY,
    LATE_HEAD,
    MALFORMED,
    TARGET_TOO_LONG,
    TOO_MANY_CONNECTIONS,
    WASTEFUL_CHUNKS,
    body_too_large,
)
from mlxd.transport.wire import new_request_id, raw_refusal

if TYPE_CHECKING:
    from mlxd.transport.request import Request
    from mlxd.transport.server import TransportServer
    from mlxd.transport.websocket import WebSocket

logger = logging.getLogger(__name__)

_MAX_LENGTH_DIGITS = 18  # more is no length anybody means, and int() refuses strings beyond 4300 digits

# Framing allowed beside as much framing as body. A body of 32 MiB in chunks of one byte would keep the loop in the
# decoder for minutes (measured: 4 us each).
_FRAMING_BYTES = 96 * 1024
_HEARD_POLL_S = 0.002


class Channel(Outlet):
    """A connection of the hardened server. Lives on the event loop; no method may be called from another thread."""

    requests: list[Request]
    persistent: bool

    def __init__(self, server: TransportServer) -> None:
        super().__init__()
        self.server = server
        self.limits = server.limits
        self.maxHeaders = self.limits.header_count
        self.totalHeadersSize = self.limits.header_bytes
        self.MAX_LENGTH = self.limits.header_bytes
        self.progress = Progress(since_s=server.now_s())
        self.websocket: WebSocket | None = None
        self._wire_bytes = 0
        self._refused = False

    # ── Coming and going ──────────────────────────────────────────────────────────────────────────────────────────

    @override
    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.bufferSize = self.limits.write_high_water_bytes
        self.server.shrink_send_buffer(self.transport)
        if self.server.census.opened(self):
            return
        if self.server.census.may_linger():
            self.refuse(TOO_MANY_CONNECTIONS)
        else:
            self.abort()

    @override
    def connectionLost(self, reason: Failure) -> None:
        self.server.census.closed(self)
        self.writable.set()
        super().connectionLost(reason)

    def peer_host(self) -> str:
        """The address of the client."""
        return str(getattr(self.getPeer(), "host", ""))

    def abort(self) -> None:
        """Cut the connection with a reset: whatever has been sent so far cannot be taken for a whole answer."""
        if self.transport is not None:
            self.transport.abortConnection()

    def abort_when_heard(self) -> None:
        """As `abort`, once the client's machine has what was written: a reset takes back what is still on its way."""
        if self.transport is None or not self.transport.connected:
            return
        if self.progress.phase is not Phase.FLUSHING:
            self.progress.enter(Phase.FLUSHING, self.server.now_s())
        patient = self.server.now_s() - self.progress.since_s < self.limits.write_stall_s
        if patient and (self.buffered_bytes() or unacknowledged_bytes(self.transport.socket)):
            self.server.loop.call_later(_HEARD_POLL_S, self.abort_when_heard)
        else:
            self.abort()

    def close_when_flushed(self) -> None:
        """Close once what is written has left."""
        self.progress.enter(Phase.FLUSHING, self.server.now_s())
        self.loseConnection()

    # ── Refusing ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def shown_path(self) -> str:
        """The path as far as it is known, for choosing the shape of an error."""
        target: bytes = getattr(self, "_path", b"")
        return unquote(target.decode("latin-1").partition("?")[0])

    def refuse(self, refusal: Refusal) -> None:
        """Answer with `refusal`, stop listening to this client, and close when it has stopped sending."""
        if self._refused:
            return
        self._refused = True
        request = self.requests[-1] if self.requests else None
        request_id = request.request_id if request is not None else new_request_id()
        self.server.refused(refusal, request_id)
        if request is not None:
            self.server.request_ended(request)
        head_only = getattr(self, "_command", b"") == b"HEAD"
        self.transport.write(raw_refusal(refusal, self.shown_path, request_id, head_only=head_only))
        self._linger()

    def _linger(self) -> None:
        # Closing with unread bytes resets the connection, and a reset can overtake the answer: so say goodbye, read on.
        self.clearLineBuffer()
        self._wire_bytes = 0
        self.progress.enter(Phase.LINGERING, self.server.now_s())
        self._networkProducer.unregisterProducer()
        self._networkProducer.resumeProducing()
        self.transport.loseWriteConnection()

    @override
    def _respondToBadRequestAndDisconnect(self) -> None:
        knows_target = hasattr(self, "_command")
        if self._receivedHeaderSize > self.totalHeadersSize:
            self.refuse(HEAD_TOO_LARGE if knows_target else TARGET_TOO_LONG)
        elif self._receivedHeaderCount > self.maxHeaders:
            self.refuse(HEAD_TOO_LARGE)
        else:
            self.refuse(MALFORMED)

    @override
    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(HEAD_TOO_LARGE if hasattr(self, "_command") else TARGET_TOO_LONG)

    # ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    def dataReceived(self, data: bytes) -> None:
        self._wire_bytes += len(data)
        if self._refused:
            if self._wire_bytes > self.limits.linger_bytes:
                self.abort()
            return
        now_s = self.server.now_s()
        self.progress.heard_s = now_s
        if self.progress.phase is Phase.IDLE:
            self._wire_bytes = len(data)
            self.progress.enter(Phase.HEAD, now_s)
        super().dataReceived(data)

    @override
    def lineReceived(self, line: bytes) -> None:
        if self._refused:
            return
        if line[:1] in (b" ", b"\t") and hasattr(self, "_command"):
            self.refuse(MALFORMED)  # a folded header: proxies and servers disagree on what it means
            return
        super().lineReceived(line)

    @override
    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        if header == b"Content-Length" and data.isdigit() and len(data) > _MAX_LENGTH_DIGITS:
            self.refuse(body_too_large(self.limits))
            return False
        if header == b"Transfer-Encoding" and (data.lower() != b"chunked" or self._version != b"HTTP/1.1"):
            self.refuse(MALFORMED)
            return False
        return bool(super()._maybeChooseTransferDecoder(header, data))

    @override
    def allHeadersReceived(self) -> None:
        if self._refused:
            return
        refusal = self._judge()
        if refusal is not None:
            self.refuse(refusal)
            return
        self.server.request_began(self.requests[-1])
        self.progress.enter(Phase.BODY, self.server.now_s())
        super().allHeadersReceived()

    def _judge(self) -> Refusal | None:
        named = self.requests[-1].requestHeaders.getAllRawHeaders()
        headers = [(name, value) for name, values in named for value in values]
        method, target = self._command.decode("latin-1"), self._path.decode("latin-1")
        refusal = check(self.server.gate, method, target, headers)
        if refusal is None and self.length is not None and self.length > self.limits.body_bytes:
            return body_too_large(self.limits)
        return refusal

    @override
    def checkPersistence(self, request: http.Request, version: bytes) -> bool:
        values = request.requestHeaders.getRawHeaders(b"Connection") or []
        tokens = {token.strip().lower() for value in values for token in value.split(b",")}
        return version == b"HTTP/1.1" and b"close" not in tokens

    @override
    def rawDataReceived(self, data: bytes) -> None:
        if self._refused:
            return
        if self._handlingRequest:
            if sum(map(len, self._dataBuffer)) + len(data) > self.limits.pipelined_bytes:
                self.abort()  # Twisted would stop reading here, and then a disconnect goes unnoticed
                return
        elif self._wire_bytes > 2 * self.progress.body_bytes + len(data) + _FRAMING_BYTES:
            self.refuse(WASTEFUL_CHUNKS)
            return
        super().rawDataReceived(data)

    def store(self, request: Request, data: bytes) -> None:
        """Take a piece of the body into `request`, or refuse."""
        if self._refused:
            return
        self.progress.body_bytes += len(data)
        if self.progress.body_bytes > self.limits.body_bytes:
            self.refuse(body_too_large(self.limits))
            return
        try:
            request.content.write(data)
        except OSError:
            self.refuse(BODY_UNSTORED)

    @override
    def allContentReceived(self) -> None:
        if self._refused:
            return
        self.progress.enter(Phase.RUNNING, self.server.now_s())
        super().allContentReceived()

    @override
    def requestDone(self, request: http.Request) -> None:
        if self.persistent and not self.server.draining:
            self.progress.enter(Phase.IDLE, self.server.now_s())
        else:
            self.persistent = False
            self.progress.enter(Phase.FLUSHING, self.server.now_s())
        super().requestDone(request)

    # ── Time ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def sweep(self, now_s: float) -> None:
        """Look at the clock once; called a few times per second by the server."""
        self.progress.wrote(self.queued_bytes, self.buffered_bytes(), now_s)
        if self.websocket is not None:
            self.websocket.sweep(now_s)
        match overdue(self.progress, self.limits, now_s):
            case Overdue.HEAD:
                self.refuse(LATE_HEAD)
            case Overdue.BODY:
                self.refuse(LATE_BODY)
            case Overdue.IDLE | Overdue.LINGER:
                self.loseConnection()
            case Overdue.READER:
                logger.info("reader made no progress for %.0f s: connection aborted", self.limits.write_stall_s)
                self.abort()
