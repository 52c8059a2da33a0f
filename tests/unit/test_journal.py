"""The journal over a real database: durable in order, and out of nobody's way when the disk is."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from django.db import IntegrityError, OperationalError
from pytest_django.plugin import DjangoDbBlocker

from mlxd.ledger import log_upkeep, purge
from mlxd.ledger.database import lay_out_log, open_database
from mlxd.ledger.insert import insert
from mlxd.ledger.journal import Journal, Write
from mlxd.ledger.models import Session
from mlxd.ledger.ticket import Ticket, settle
from tests.ledger_database import database_at

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SOON_S = 60.0


@pytest.fixture
def path(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as place:
        open_database(place)
        yield place


@contextmanager
def journal(**settings: object) -> Iterator[Journal]:
    """Of a disk that is waited for, unless the test says for how long: a busy machine's stalls for seconds."""
    writer = Journal(first=lay_out_log, **{"stall_s": SOON_S} | settings)  # type: ignore[arg-type]
    writer.start()
    try:
        yield writer
    finally:
        assert writer.stop(SOON_S)


def row(name: str) -> Write:
    return lambda: Session.objects.bulk_create([Session(id=name, began_at=NOW, touched_at=NOW)])[0] and None


def stored(path: Path) -> list[str]:
    """Seen through another connection: what is not committed is not there."""
    with closing(sqlite3.connect(path)) as database:
        return [name for (name,) in database.execute("SELECT id FROM ledger_session ORDER BY rowid")]


def until(fact: Callable[[], bool]) -> None:
    until_s = time.monotonic() + SOON_S
    while not fact():
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.005)


async def test_durable_means_that_others_can_read_it(path: Path) -> None:
    with journal() as writer:
        for number in range(20):
            ticket = writer.put(row(f"s{number}"), urgent=True)
            assert await writer.durable(ticket)
            assert stored(path)[-1] == f"s{number}"


async def test_nothing_is_written_on_the_callers_thread(path: Path) -> None:
    threads: list[str] = []
    with journal() as writer:
        await writer.durable(writer.put(lambda: threads.append(threading.current_thread().name), urgent=True))
    assert threads == ["journal"]


async def test_what_waits_together_shares_a_transaction(path: Path) -> None:
    with journal() as writer:
        await writer.durable(writer.put(row("first"), urgent=True))
        batches = writer.view().batches
        tickets = [writer.put(row(f"s{number}")) for number in range(100)]
        assert await asyncio.gather(*map(writer.durable, tickets)) == [True] * 100
        assert writer.view().batches - batches <= 3
    assert stored(path) == ["first", *(f"s{number}" for number in range(100))]


def test_the_end_writes_what_waits(path: Path) -> None:
    with journal() as writer:
        for number in range(50):
            writer.put(row(f"s{number}"))
    assert len(stored(path)) == 50


async def test_a_refused_write_takes_no_other_with_it(path: Path) -> None:
    def refused() -> None:
        raise IntegrityError("UNIQUE")

    def surrogate() -> None:
        Session.objects.create(id="\ud800", began_at=NOW, touched_at=NOW)

    with journal() as writer:
        tickets = [writer.put(write) for write in (row("a"), refused, row("b"), surrogate, row("c"))]
        assert await asyncio.gather(*map(writer.durable, tickets)) == [True, False, True, False, True]
        assert writer.view().refused == 2 and writer.view().state == "ok"
    assert stored(path) == ["a", "b", "c"]


async def test_a_disk_that_fails_is_not_waited_for_and_loses_nothing_when_it_recovers(path: Path) -> None:
    working = threading.Event()

    def write(name: str) -> Write:
        def attempt() -> None:
            if not working.is_set():
                raise OperationalError("database or disk is full")
            row(name)()

        return attempt

    with journal(retry_s=0.2) as writer:
        first = writer.put(write("s0"), urgent=True)
        assert not await writer.durable(first)
        began_s = time.monotonic()
        assert not await writer.durable(writer.put(write("s1"), urgent=True))
        assert time.monotonic() - began_s < 5, "nobody waits while it is known to fail"
        until(lambda: writer.view().waiting == 2)  # it may be at another try
        assert (writer.view().state, writer.view().undurable) == ("disk_full", 2)
        working.set()
        until(lambda: writer.view().state == "ok")
        assert await writer.durable(writer.put(write("s2"), urgent=True))
    assert stored(path) == ["s0", "s1", "s2"]


async def test_what_waits_for_a_broken_disk_is_bounded(path: Path) -> None:
    working = threading.Event()

    def write(name: str) -> Write:
        def attempt() -> None:
            if not working.is_set():
                raise OperationalError("disk I/O error")
            row(name)()

        return attempt

    with journal(retry_s=0.2, max_waiting=5) as writer:
        await writer.durable(writer.put(write("s0"), urgent=True))
        for number in range(1, 20):
            writer.put(write(f"s{number}"))
        until(lambda: (writer.view().waiting, writer.view().dropped) == (5, 15))  # it may be at another try
        working.set()
        until(lambda: writer.view().state == "ok")
    assert stored(path) == [f"s{number}" for number in range(15, 20)]


async def test_a_stalled_disk_is_left_behind(path: Path) -> None:
    """Somebody holds the database: answers end after `stall_s`, and those after it at once."""
    with closing(sqlite3.connect(path, isolation_level=None)) as holder, journal(stall_s=0.2, retry_s=0.1) as writer:
        await writer.durable(writer.put(row("before"), urgent=True))
        holder.execute("BEGIN IMMEDIATE")
        assert not await writer.durable(writer.put(row("s0"), urgent=True))
        until(lambda: writer.view().state != "ok")  # its thread may have begun later than the wait
        writer._stall_s = 60
        began_s = time.monotonic()
        assert not await writer.durable(writer.put(row("s1"), urgent=True))
        assert time.monotonic() - began_s < 20
        holder.execute("ROLLBACK")
        until(lambda: writer.view().waiting == 0 and writer.view().state == "ok")
    assert stored(path) == ["before", "s0", "s1"]


async def test_a_waiter_that_goes_away_stops_nothing(path: Path) -> None:
    with journal() as writer:
        ticket = writer.put(row("s"), urgent=True)
        waiting = asyncio.create_task(writer.durable(ticket))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        until(lambda: ticket.durable is True)
    assert stored(path) == ["s"]


async def test_who_waits_for_one_commit_is_told_by_one_call_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    tickets, woken, loop = [Ticket() for _ in range(8)], list[object](), asyncio.get_running_loop()
    waiting = [asyncio.create_task(ticket.wait(60.0)) for ticket in tickets]
    await asyncio.sleep(0)  # a turn of the loop: all of them wait
    waiting[0].cancel()
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda tell, *args: woken.append(loop.call_soon(tell, *args)))
    settle(tickets, durable=True)
    settle(tickets, durable=False)  # too late

    assert await asyncio.gather(*waiting[1:]) == [True] * 7
    assert waiting[0].cancelled() and len(woken) == 1 and await tickets[0].wait(0.0)


def test_the_chore_runs_between_and_until_there_is_no_more(path: Path) -> None:
    left = [3]

    def chore() -> bool:
        left[0] -= 1
        return left[0] > 0

    with journal(chore=chore, chore_s=100) as writer:
        until(lambda: left[0] == 0)
        writer.put(row("s"), urgent=True)
        until(lambda: writer.view().waiting == 0)
    assert left == [0] and stored(path) == ["s"]


async def test_a_reader_that_stays_lets_the_log_grow_so_far_and_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_upkeep, "MAX_LOG_BYTES", 12 << 20)
    monkeypatch.setattr(purge, "TRIES_MS", 20)
    log, names = path.with_name(f"{path.name}-wal"), [f"s{number}" for number in range(20)]

    def large(name: str) -> Write:
        return lambda: insert(Session, id=name, owner="x" * (1 << 20), began_at=NOW, touched_at=NOW)

    with journal(retry_s=0.1, ready=partial(log_upkeep.refuse_long_log, path)) as writer:
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM ledger_session").fetchone()
            for name in names:
                await writer.durable(writer.put(large(name), urgent=True))
            until(lambda: writer.view().state == "log_held")
            assert log.stat().st_size < 14 << 20 and writer.view().waiting > 5
        until(lambda: writer.view().waiting == 0 and writer.view().state == "ok")
    assert stored(path) == names
