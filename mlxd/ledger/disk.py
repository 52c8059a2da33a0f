"""The ledger's disk: one thread that writes, one that reads. Imported once Django is set up."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import structlog
from django.db import DatabaseError, connection

from inference.conversation.lineage import MAX_TURNS, Lineage
from inference.conversation.turn_chain import Turn
from mlxd.ledger.database import lay_out_log, open_database
from mlxd.ledger.journal import Journal, JournalView, outage_name
from mlxd.ledger.ledger import Ledger, LedgerUnavailable
from mlxd.ledger.record import GenerationRecord
from mlxd.ledger.retention import sweep
from mlxd.ledger.rows import generation_write, stored_turns, turn_write

log = structlog.get_logger(__name__)


def open_ledger(path: Path, *, days: float) -> Ledger:
    """Opens the database, takes in its newest turns and begins to write. Blocks.

    Raises `StartError` where a person has to decide; a disk that fails gives a ledger in memory.
    """
    try:
        set_aside = open_database(path)
        lineage = Lineage()
        lineage.restore(stored_turns(MAX_TURNS))
    except (DatabaseError, sqlite3.Error, OSError) as error:
        log.error("ledger_in_memory_only", reason=outage_name(error))
        return Ledger(why=outage_name(error))
    finally:
        connection.close()
    return Ledger(SqliteDisk(Journal(first=lay_out_log, chore=partial(sweep, days))), lineage, set_aside=set_aside)


class SqliteDisk:
    """The database that Django's settings name."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._reader = ThreadPoolExecutor(1, "ledger-read")
        self._closed = False
        journal.start()

    async def keep(self, turn: Turn, record: GenerationRecord, *, named: bool) -> None:
        ticket = self._journal.put(turn_write(turn, record, named=named), urgent=True)
        await self._journal.durable(ticket)

    def note(self, record: GenerationRecord) -> None:
        self._journal.put(generation_write(record))

    async def read[T](self, ask: Callable[..., T], *about: object) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, partial(ask, *about))
        except DatabaseError as error:
            raise LedgerUnavailable(f"The ledger cannot be read ({outage_name(error)}).") from error

    def view(self) -> JournalView:
        return self._journal.view()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._journal.stop():
            log.error("ledger_not_complete", **asdict(self._journal.view()))
        self._reader.submit(connection.close)
        self._reader.shutdown(wait=False)
