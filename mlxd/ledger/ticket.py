"""What became of one write: waited for on an event loop, settled on the journal's thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress

type Waiter = asyncio.Future[bool]


class Ticket:
    """Settled once; what comes later says nothing new, even if the write is made after all."""

    __slots__ = ("_durable", "_lock", "_waiters")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._durable: bool | None = None
        self._waiters: list[tuple[asyncio.AbstractEventLoop, Waiter]] = []

    @property
    def durable(self) -> bool | None:
        """None while nobody knows."""
        return self._durable

    def settled(self, *, durable: bool) -> Sequence[tuple[asyncio.AbstractEventLoop, Waiter]]:
        """Who has to be told of it now."""
        with self._lock:
            if self._durable is not None:
                return ()
            self._durable = durable
            waiters, self._waiters = self._waiters, []
        return waiters

    async def wait(self, timeout_s: float) -> bool:
        """Whether it is durable; False when that is not known in time."""
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        with self._lock:
            if self._durable is not None:
                return self._durable
            self._waiters.append((loop, waiter))
        try:
            return await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return False


def settle(tickets: Iterable[Ticket], *, durable: bool) -> None:
    """Tells all who wait for them. From any thread.

    A loop is woken once and at last: woken for each, it would take the interpreter away from who is telling the others.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[Waiter]] = {}
    for ticket in tickets:
        for loop, waiter in ticket.settled(durable=durable):
            by_loop.setdefault(loop, []).append(waiter)
    for loop, waiters in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, waiters, durable)


def _tell(waiters: Iterable[Waiter], durable: bool) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(durable)
