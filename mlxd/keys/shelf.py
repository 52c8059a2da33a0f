"""Keys on the disk: a thread of their own, that waits for the journal's at most. Imported once Django is set up."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import structlog
from django.db import DatabaseError, connection, transaction

from mlxd.keys import rows
from mlxd.keys.browsers import Browser
from mlxd.keys.key import ApiKey, Usage
from mlxd.keys.keyring import KeysUnavailable
from mlxd.ledger.copies import remove_copies
from mlxd.ledger.database import open_database
from mlxd.ledger.journal import outage_name
from mlxd.start_errors import StartError

log = structlog.get_logger(__name__)


class SqliteKeys:
    """The database that Django's settings name, at `path`. It is made ready with the first key, if not `opened`."""

    def __init__(self, path: Path, *, opened: bool) -> None:
        self._path = path
        self._opened = opened
        self._thread = ThreadPoolExecutor(1, "keys")
        self._closed = False

    def open(self) -> None:
        """Blocks. Raises `StartError`, or what the disk fails with."""
        if not self._opened:
            open_database(self._path)
            self._opened = True

    async def add(self, key: ApiKey) -> None:
        await self._do(partial(rows.insert_key, key))

    async def remove(self, key_id: str) -> None:
        await self._do(partial(self._take_out, key_id))

    async def used(self, usages: Mapping[str, Usage]) -> None:
        await self._do(partial(rows.write_usage, usages))

    async def browser_seen(self, browser: Browser) -> None:
        await self._do(partial(rows.write_browser, browser))

    async def browsers_closed(self, digests: Iterable[bytes]) -> None:
        await self._do(partial(rows.delete_browsers, tuple(digests)))

    def close(self, usages: Mapping[str, Usage]) -> None:
        if self._closed:
            return
        self._closed = True
        self._thread.submit(self._last, usages)
        self._thread.shutdown()

    async def _do(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._written, work)

    def _take_out(self, key_id: str) -> None:
        rows.delete_key(key_id)
        # It must not come back with a copy; one that is begun before the commit would have it.
        transaction.on_commit(partial(remove_copies, self._path))

    def _last(self, usages: Mapping[str, Usage]) -> None:
        try:
            if usages:
                self._written(partial(rows.write_usage, usages))
        except KeysUnavailable as error:
            log.error("key_usage_not_written", reason=error.message)
        finally:
            connection.close()

    def _written(self, work: Callable[[], None]) -> None:
        try:
            self.open()
            with transaction.atomic():
                work()
        except (DatabaseError, sqlite3.Error, OSError) as error:
            raise KeysUnavailable(f"The database does not take it ({outage_name(error)}).") from error
        except StartError as error:
            raise KeysUnavailable(error.message) from error
