"""What can go wrong with the transport itself, as types."""

from __future__ import annotations


class BindFailed(OSError):
    """An address could not be bound. `host` and `port` say which."""

    code = "bind_failed"

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on {host} port {port}: {reason}")
        self.host = host
        self.port = port
        self.reason = reason


class PortInUse(BindFailed):
    """Another process listens there already."""

    code = "port_in_use"


class ClientDisconnected(OSError):
    """Raised by `send` once the client is gone, so that a producer stops; the transport expects it back."""

    code = "client_disconnected"
