"""What became of one write: waited for on an event loop, settled on the journal's thread."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class Ticket:
    """Settled once; what comes later says nothing new, even if the write is made after all."""

    __slots__ = ("_durable", "_lock", "_waiters")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._durable: bool | None = None
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[bool]]] = []

    @property
    def durable(self) -> bool | None:
        """None while nobody knows."""
        return self._durable

    def settle(self, *, durable: bool) -> None:
        """From any thread."""
        with self._lock:
            if self._durable is not None:
                return
            self._durable = durable
            waiters, self._waiters = self._waiters, []
        for loop, waiter in waiters:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_tell, waiter, durable)

    async def wait(self, timeout_s: float) -> bool:
        """Whether it is durable; False when that is not known in time."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        with self._lock:
            if self._durable is not None:
                return self._durable
            self._waiters.append((loop, waiter))
        try:
            return await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return False


def _tell(waiter: asyncio.Future[bool], durable: bool) -> None:
    if not waiter.done():
        waiter.set_result(durable)
