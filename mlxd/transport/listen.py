"""Listening sockets, bound before anything expensive happens."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from mlxd.transport.errors import BindFailed, PortInUse

_BACKLOG = 512
_FREE_PORT_TRIES = 16
_LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Listening:
    """Open sockets on one port. `missing` are addresses this machine does not have, with the reason."""

    sockets: tuple[socket.socket, ...]
    port: int
    addresses: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]


def addresses_for(host: str) -> tuple[str, ...]:
    """The addresses to bind for `host`. A loopback name means both loopbacks: whoever holds the other one would
    receive half of what is sent to `localhost`."""
    return _LOOPBACK if host in {"localhost", "[::1]", *_LOOPBACK} else (host.strip("[]"),)


def listen(host: str, port: int) -> Listening:
    """Bind and listen on `port` of every address of `host`; port 0 finds a port that is free on all of them.

    Raises PortInUse when another process listens on any of them, BindFailed for every other refusal. An address that
    this machine does not have (no IPv6) is reported in `missing`, as long as one other could be bound.
    """
    for _ in range(_FREE_PORT_TRIES if port == 0 else 1):
        try:
            return _listen_on_all(addresses_for(host), port)
        except PortInUse:
            if port != 0:
                raise
    raise PortInUse(host, port, "no port is free on all addresses")


def _listen_on_all(addresses: tuple[str, ...], port: int) -> Listening:
    sockets: list[socket.socket] = []
    bound: list[str] = []
    missing: list[tuple[str, str]] = []
    try:
        for address in addresses:
            try:
                opened = _listen_on(address, port)
            except BindFailed as error:
                if isinstance(error, PortInUse) or (address == addresses[-1] and not sockets):
                    raise
                missing.append((address, error.reason))
                continue
            sockets.append(opened)
            bound.append(address)
            port = opened.getsockname()[1]
    except BindFailed:
        for opened in sockets:
            opened.close()
        raise
    return Listening(tuple(sockets), port, tuple(bound), tuple(missing))


def _listen_on(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        opened = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _typed(error, address, port) from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((address, port))
        # Until it listens, a second process can bind the same address: with SO_REUSEADDR only listen() is exclusive.
        opened.listen(_BACKLOG)
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        raise _typed(error, address, port) from error
    return opened


def _typed(error: OSError, address: str, port: int) -> BindFailed:
    reason = error.strerror or type(error).__name__
    return (PortInUse if error.errno == errno.EADDRINUSE else BindFailed)(address, port, reason)
