"""The ledger's disk: a thread that writes, one that looks answers up for requests, and one that answers questions.
Imported once Django is set up."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import structlog
from django.db import DatabaseError, connection

from inference.conversation.healing import HealingStore, Place, Said, Seek
from inference.conversation.lineage import MAX_TURNS, Lineage
from inference.conversation.turn_chain import Turn
from inference.prefix_store import AuditResult
from mlxd.ledger.audits import audit_write
from mlxd.ledger.content import content_write, stored_memories
from mlxd.ledger.database import lay_out_log, open_database
from mlxd.ledger.journal import Journal, JournalView, Write, outage_name
from mlxd.ledger.ledger import Ledger
from mlxd.ledger.log_upkeep import LogUpkeep, refuse_long_log
from mlxd.ledger.purge import session_delete
from mlxd.ledger.reader import Reader
from mlxd.ledger.record import GenerationRecord
from mlxd.ledger.retention import sweep
from mlxd.ledger.rows import generation_write, stored_turns, turn_write
from mlxd.ledger.shelf import Shelf

MAX_WAITING_CONTENT = 1000
"""While the disk is out and more than this waits for it, content is left out: it is the larger part by far."""
SEEK_S = 5.0
"""A request waits so long for answers on the disk, then it is read as it was sent. To restore 2000 answers of 1000 ids,
which the same thread does at start, took 1.5 s on a busy machine."""

READ_S = 5.0
"""A question about the ledger waits so long, then it is told that there is no answer now."""
EMPTY_S = 2.0
"""For those who read in the write-ahead log; it is emptied behind them in any case."""

log = structlog.get_logger(__name__)


def open_ledger(path: Path, *, days: float) -> Ledger:
    """Opens the database, takes in its newest turns and begins to write. Blocks.

    Raises `StartError` where a person has to decide; a disk that fails gives a ledger in memory.
    """
    try:
        opened = open_database(path)
        shelf, lineage = Shelf(), Lineage()
        shelf.load()
        lineage.restore(stored_turns(MAX_TURNS, stored_memories(shelf.count)))
    except (DatabaseError, sqlite3.Error, OSError) as error:
        log.error("ledger_in_memory_only", reason=outage_name(error))
        return Ledger(why=outage_name(error))
    finally:
        connection.close()
    upkeep = LogUpkeep(path)

    def chore() -> bool:
        upkeep.look_after(days)
        return sweep(days)

    journal = Journal(first=lay_out_log, chore=chore, wrote=upkeep.wrote, ready=partial(refuse_long_log, path))
    return Ledger(SqliteDisk(journal, shelf, upkeep), lineage, set_aside=opened.set_aside, restored=opened.restored)


class SqliteDisk:
    """The database that Django's settings name."""

    def __init__(self, journal: Journal, shelf: Shelf, upkeep: LogUpkeep) -> None:
        self._journal = journal
        self._shelf = shelf
        self._upkeep = upkeep
        self._seeker = Reader("ledger-seek", SEEK_S)
        self._reader = Reader("ledger-read", READ_S)
        self._closed = False
        journal.start()

    async def keep(self, turn: Turn, record: GenerationRecord, said: Sequence[Said], *, named: bool) -> None:
        content = self._content(said, turn.at_s, turn)
        ticket = self._journal.put(turn_write(turn, record, content, named=named), urgent=True)
        await self._journal.durable(ticket)

    def note(self, record: GenerationRecord, said: Sequence[Said]) -> None:
        self._journal.put(generation_write(record, self._content(said, record.began_s, session=record.session)))

    def _content(self, said: Sequence[Said], at_s: float, turn: Turn | None = None, session: str = "") -> Write | None:
        if self._journal.view().waiting >= MAX_WAITING_CONTENT:
            self._shelf.count("left_out")
            return None
        for one in said:
            self._shelf.add(one.place)
        return content_write(said, at_s, turn, session)

    async def forget(self, session_id: str, forget: Callable[[Said], None]) -> int | None:
        counted: list[int] = []
        ticket = self._journal.put(session_delete(session_id, forget, counted.append), urgent=True)
        if not await self._journal.durable(ticket):
            return None
        await asyncio.wait([asyncio.wrap_future(self._upkeep.empty())], timeout=EMPTY_S)
        return counted[-1]

    def audited(self, result: AuditResult) -> None:
        self._journal.put(audit_write(result, time.time()))

    def restore(self, store: HealingStore) -> None:
        self._seeker.submit(partial(self._restore, store))

    def _restore(self, store: HealingStore) -> None:
        try:
            for place in self._shelf.newest(store.max_turns):
                if not store.restore(place, self._shelf.turns(place)):
                    return
        except DatabaseError as error:
            log.warning("answers_not_restored", reason=outage_name(error))

    def may_hold(self, place: Place) -> bool:
        return self._shelf.may_hold(place)

    async def seek[T](self, work: Callable[[Seek], T]) -> T:
        return await self._seeker.ask(work, self._shelf.turns)

    @property
    def shelf_counts(self) -> dict[str, int]:
        return self._shelf.counts

    async def read[T](self, ask: Callable[..., T], *about: object) -> T:
        return await self._reader.ask(ask, *about)

    def view(self) -> JournalView:
        return self._journal.view()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._journal.stop():
            log.error("ledger_not_complete", **asdict(self._journal.view()))
        self._upkeep.close()
        self._seeker.close()
        self._reader.close()
