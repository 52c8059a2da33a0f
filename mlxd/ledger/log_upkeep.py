"""Takes the write-ahead log into the database beside the thread that writes, so that no answer waits for it.

SQLite does it by itself within the commit that makes the log long: two more syncs and a thousand pages, for which all
waited who had an answer to end. A passive checkpoint holds up no writer. The log begins anew once all of it was taken
over and nobody reads in it, so one that was overtaken by writes is repeated. The same thread makes the copy of the day.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from django.db import DatabaseError, OperationalError, connection

from mlxd.ledger.copies import copy_is_due, make_copy, remove_set_aside
from mlxd.ledger.database import close_connection
from mlxd.ledger.journal import outage_name
from mlxd.ledger.purge import cut_log, empty_log

EVERY_WRITES: Final = 30
"""27 pages each: five sixths of the log's length, so that it does not grow while it is taken over."""
MAX_REPEATS: Final = 4
CLOSE_S: Final = 5.0
DAY_S: Final = 86_400.0
MAX_LOG_BYTES: Final = 48 << 20
"""It has 8 MB, unless somebody reads in it for hours. One batch of writes comes on top: 64 MB, but for odd ones."""

log = structlog.get_logger(__name__)


class LogUpkeep:
    """`wrote` is for the thread that writes, and never waits for the disk."""

    def __init__(self, path: Path, every_writes: int = EVERY_WRITES) -> None:
        """`path` is that of the database."""
        self._path = path
        self._every_writes = every_writes
        self._to_be_emptied = False
        self._writes = 0
        self._busy = threading.Event()
        self._thread = ThreadPoolExecutor(1, "ledger-log")

    def wrote(self, count: int) -> None:
        """So many writes are in the log that were not."""
        self._writes += count
        if self._writes >= self._every_writes and not self._busy.is_set():
            self._writes = 0
            self._busy.set()
            with suppress(RuntimeError):  # it was closed
                self._thread.submit(self._take_over)

    def look_after(self, days: float) -> None:
        """Makes the copy of the day, if it is due, and removes what was set aside so many days ago (0: nothing)."""
        with suppress(RuntimeError):  # it was closed
            self._thread.submit(self._look_after, days)

    def empty(self) -> Future[None]:
        """Soon nothing is left of what was deleted, behind who reads in it now. From any thread."""
        return self._thread.submit(self._empty)

    def close(self) -> None:
        """Waits a while for what is under way."""
        wait([self._thread.submit(close_connection)], CLOSE_S)
        self._thread.shutdown(wait=False)

    def _empty(self) -> None:
        self._to_be_emptied = True
        self._take_over()

    def _look_after(self, days: float) -> None:
        now_s = time.time()
        try:
            if days:
                remove_set_aside(self._path, now_s - days * DAY_S)
            if copy_is_due(self._path, now_s):
                make_copy(self._path)
        except (sqlite3.Error, OSError) as error:
            log.warning("database_not_copied", reason=outage_name(error))

    def _take_over(self) -> None:
        try:
            if self._to_be_emptied:
                self._to_be_emptied = not empty_log(self._path)
            for _ in range(MAX_REPEATS):
                if take_over() == 0:
                    return
        except (DatabaseError, OSError) as error:
            log.warning("log_not_taken_over", reason=outage_name(error))
            connection.close()  # the file may be another one when it works again
        finally:
            self._busy.clear()


def refuse_long_log(path: Path) -> None:
    """Begins the log of the database at `path` anew where it is too long.

    Raises `OperationalError` where somebody reads in it, so that it cannot be: it would grow until the disk is full.
    """
    try:
        size = path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        return
    if size >= MAX_LOG_BYTES and not cut_log():
        raise OperationalError("the write-ahead log is held by a reader")


def take_over() -> int:
    """Takes over what no reader holds back; how many pages were left."""
    with connection.cursor() as cursor:
        _, pages, taken = cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return max(0, int(pages) - int(taken))
