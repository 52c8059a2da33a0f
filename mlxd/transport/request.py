"""One HTTP request on a connection: its body, its scope, and the way its answer reaches the wire."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, override
from urllib.parse import unquote

from daphne.http_protocol import WebRequest
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http_headers import Headers as WireHeaders

from mlxd.error_shapes import Headers, request_id_headers
from mlxd.transport.exchange import Exchange
from mlxd.transport.gate import Refusal, wants_websocket
from mlxd.transport.refusals import FAILED
from mlxd.transport.wire import new_request_id, refusal_response

if TYPE_CHECKING:
    from mlxd.transport.channel import Channel
    from mlxd.transport.server import TransportServer

# Ours to set: ids may not be forged by the application either, and framing is the transport's business.
_OWN_HEADERS = frozenset({b"x-request-id", b"request-id", b"server", b"connection", b"transfer-encoding"})


class Request(WebRequest):  # type: ignore[misc]  # daphne has no types
    """A request as Twisted parsed it. HTTP is run by an `Exchange`; WebSockets are handed over by daphne."""

    channel: Channel
    server: TransportServer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.request_id = new_request_id()
        self.exchange: Exchange | None = None
        super().__init__(*args, **kwargs)
        self._parsePOSTFormSubmission = False  # bodies belong to the application

    @override
    def gotLength(self, length: int | None) -> None:
        self.content = tempfile.SpooledTemporaryFile(max_size=self.channel.limits.body_memory_bytes)  # noqa: SIM115

    @override
    def handleContentChunk(self, data: bytes) -> None:
        self.channel.store(self, data)

    @override
    def process(self) -> None:
        if wants_websocket(self._flat_headers()):
            self.server.hand_over(self, super().process)
            return
        self.content.seek(0)
        self.exchange = Exchange(self, self.server)
        self.exchange.start(self._scope())

    def _flat_headers(self) -> Headers:
        named = self.requestHeaders.getAllRawHeaders()
        return [(name.lower(), value) for name, values in named for value in values]

    def _scope(self) -> dict[str, Any]:
        query_string = self.uri.partition(b"?")[2]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": self.clientproto.rpartition(b"/")[2].decode("ascii"),
            "method": self.method.decode("ascii"),
            "path": unquote(self.path.decode("ascii")),
            "raw_path": self.path,
            "root_path": "",  # daphne would take it from a request header of any client
            "scheme": "http",
            "query_string": query_string,
            "headers": app_headers(self._flat_headers()),
            "client": _address(self.client),
            "server": _address(self.host),
            "mlxd.request_id": self.request_id,
        }

    # ── Answering ─────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Hold status and headers ready; they leave with the first piece of the body."""
        self.setResponseCode(status)
        self.responseHeaders = WireHeaders()
        kept = [(name, value) for name, value in headers if name.lower() not in _OWN_HEADERS]
        for name, value in kept + request_id_headers(self.request_id):
            self.responseHeaders.addRawHeader(name, value)
        if self.server.draining or not self.channel.persistent:
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])

    def fail(self, refusal: Refusal = FAILED) -> None:
        """Answer with an error of our own. Only before the first byte."""
        self.server.refused(refusal, self.request_id)
        status, headers, body = refusal_response(refusal, unquote(self.path.decode("latin-1")), self.request_id)
        self.begin(status, headers)
        self.write(body)
        self.finish()

    @override
    def basic_error(self, status: int, status_text: bytes, body: str) -> None:
        """daphne's error page, as JSON."""
        if not self.finished and self.channel is not None and not self.startedWriting:
            code = "internal_error" if status >= 500 else "malformed_request"
            self.fail(Refusal(status, code, status_text.decode("ascii")))

    @override
    def finish(self) -> None:
        self.server.request_ended(self)
        super().finish()

    @override
    def connectionLost(self, reason: Failure) -> None:
        self.server.request_ended(self)
        if self.exchange is not None:
            self.exchange.disconnected()
        http.Request.connectionLost(self, reason)
        self.server.protocol_disconnected(self)


def app_headers(headers: Headers) -> Headers:
    """Headers for the application: those that a WSGI-minded reader could confuse (`_` for `-`) are left out."""
    return [(name, value) for name, value in headers if b"_" not in name and name != b"daphne-root-path"]


def _address(address: Any) -> list[Any] | None:
    return [str(address.host), address.port] if hasattr(address, "host") else None
