"""Builds a channel per accepted connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, override

from daphne.http_protocol import HTTPFactory

from mlxd.transport.channel import Channel
from mlxd.transport.request import Request

if TYPE_CHECKING:
    from mlxd.transport.server import TransportServer


class Channels(HTTPFactory):  # type: ignore[misc]  # daphne has no types
    """HTTP/1.1 only: without Twisted's negotiating proxy there is nothing to negotiate. No access log is formatted."""

    def __init__(self, server: TransportServer) -> None:
        super().__init__(server)
        self.timeOut = None  # the server's sweep keeps every deadline

    @override
    def buildProtocol(self, addr: Any) -> Channel:
        channel = Channel(self.server)
        channel.factory = self
        channel.requestFactory = Request
        channel.timeOut = None
        return channel

    @override
    def startFactory(self) -> None:
        """Twisted would start a clock for its access log."""

    @override
    def stopFactory(self) -> None:
        """Nothing was started."""

    def log(self, request: Any) -> None:
        """The application logs its requests."""
