"""One thread that reads the database, each time for so long and no longer.

SQLite is told to give a query up that takes too long, so that the next one does not wait for it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from django.db import DatabaseError, connection

from mlxd.ledger.database import close_connection
from mlxd.ledger.journal import outage_name
from mlxd.ledger.ledger import LedgerUnavailable

CLOSE_S = 2.0


class Reader:
    """`ask` is for the event loop, `submit` and `close` are for any thread."""

    def __init__(self, name: str, limit_s: float) -> None:
        """`limit_s` counts from the question on, others before it included."""
        self._thread = ThreadPoolExecutor(1, name)
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._asking: tuple[Callable[[], object], sqlite3.Connection] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Work that nobody waits for, and that has all the time it needs."""
        self._thread.submit(work)

    async def ask[T](self, ask: Callable[..., T], *about: object) -> T:
        """The answer of a question that blocks. Raises `LedgerUnavailable`."""
        work = partial(ask, *about)
        answer = self._thread.submit(self._answer, work)
        try:
            async with asyncio.timeout(self._limit_s):
                return await asyncio.wrap_future(answer)
        except TimeoutError:
            raise LedgerUnavailable(f"The ledger did not answer within {self._limit_s:g} s.") from None
        except DatabaseError as error:
            raise LedgerUnavailable(f"The ledger cannot be read ({outage_name(error)}).") from error
        finally:
            self._give_up(work, answer)

    def close(self) -> None:
        """Blocks until the thread has done what it was given, `CLOSE_S` at most; the rest is done behind it."""
        closed = self._thread.submit(close_connection)
        self._thread.shutdown(wait=False)
        wait([closed], CLOSE_S)

    def _answer[T](self, work: Callable[[], T]) -> T:
        connection.ensure_connection()
        with self._lock:
            self._asking = (work, connection.connection)
        try:
            return work()
        finally:
            with self._lock:
                self._asking = None

    def _give_up(self, work: Callable[[], object], answer: Future[Any]) -> None:
        """Nobody waits any more: for a query that still runs, or for nothing."""
        with self._lock:
            if not answer.cancel() and self._asking is not None and self._asking[0] is work:
                self._asking[1].interrupt()
