"""What is written leaves at once, whole and in order, and not at all once the connection is being cut."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.tcp import Connection

from mlxd.transport.outlet import Outlet

KERNEL_BYTES = 4096


@dataclass
class Loop:
    """As much of a reactor as a connection needs; `turn` sends what waits, as a real one would."""

    waiting: list[Any] = field(default_factory=list)
    later: list[Any] = field(default_factory=list)

    def addWriter(self, one: Any) -> None:  # noqa: N802  # Twisted's names
        self.waiting = [one]

    def removeWriter(self, one: Any) -> None:  # noqa: N802
        self.waiting = []

    def removeReader(self, one: Any) -> None:  # noqa: N802
        """Nothing is read here."""

    def callLater(self, delay_s: float, call: Any, *args: Any) -> None:  # noqa: N802
        self.later.append(call)

    def turn(self) -> None:
        for one in self.waiting:
            one.doWrite()


@contextmanager
def connected() -> Iterator[tuple[Outlet, socket.socket, Loop]]:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    theirs.setblocking(False)
    outlet, loop = Outlet(), Loop()
    outlet.transport = Connection(ours, outlet, loop)
    outlet.transport.connected = True
    with ours, theirs:
        yield outlet, theirs, loop


def heard(theirs: socket.socket) -> bytes:
    try:
        return theirs.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_a_piece_leaves_without_a_turn_of_the_loop() -> None:
    with connected() as (outlet, theirs, loop):
        outlet.writeSequence([b"5\r\n", b"token", b"\r\n"])
        assert heard(theirs) == b"5\r\ntoken\r\n"
        assert not loop.waiting
        assert (outlet.queued_bytes, outlet.buffered_bytes()) == (10, 0)


acts = st.lists(st.one_of(st.integers(1, 20_000), st.sampled_from(("read", "turn"))), max_size=30)


@given(acts=acts)
def test_everything_arrives_once_and_in_order(acts: list[int | str]) -> None:
    written = received = b""
    with connected() as (outlet, theirs, loop):
        for number, act in enumerate(acts):
            if isinstance(act, int):
                piece = bytes([number + 1]) * act
                outlet.write(piece)
                written += piece
            elif act == "read":
                received += heard(theirs)
            else:
                loop.turn()
            assert outlet.queued_bytes == len(written)
            assert bool(loop.waiting) == bool(outlet.buffered_bytes())
        while more := heard(theirs) or outlet.buffered_bytes():
            received += more if isinstance(more, bytes) else b""
            loop.turn()
    assert received == written


@pytest.mark.parametrize("end", ["abortConnection", "loseConnection", "loseWriteConnection"])
def test_nothing_overtakes_the_end(end: str) -> None:
    """The end of a torn answer would make it look whole."""
    with connected() as (outlet, theirs, _):
        outlet.write(b"half an answer")
        getattr(outlet.transport, end)()
        outlet.write(b"0\r\n\r\n")
        assert heard(theirs) == b"half an answer"


def test_a_broken_connection_is_left_to_the_loop() -> None:
    with connected() as (outlet, theirs, loop):
        theirs.close()
        outlet.write(b"too late")
        assert loop.waiting, "it finds out when it sends"
        assert outlet.buffered_bytes() == 8
