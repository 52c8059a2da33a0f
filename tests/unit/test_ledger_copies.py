"""The copy of a day: what it holds, that it replaces a damaged database, and that what was deleted is not in it."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from mlxd.keys import shelf
from mlxd.keys.shelf import SqliteKeys
from mlxd.ledger import copies as copies_module
from mlxd.ledger.copies import EVERY_S, KEPT, copies, copy_is_due, make_copy, remove_set_aside
from mlxd.ledger.database import Opened, open_database
from mlxd.ledger.models import BrowserSession, Key, Session, Spoken
from mlxd.ledger.purge import empty_log
from tests.ledger_database import database_at

NOW = datetime(2026, 1, 2, tzinfo=UTC)
NOW_S, DAY_S = NOW.timestamp(), 86_400
CANARY = b"canary7f3a"


@pytest.fixture
def path(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    """A database with a session, a key, an open browser and something that was said."""
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as place:
        open_database(place)
        Session.objects.create(id="s", began_at=NOW, touched_at=NOW)
        Key.objects.create(id="k", digest=b"d" * 32, name="n", scopes="infer", created_at=NOW)
        BrowserSession.objects.create(digest=b"b" * 32, created_at=NOW, seen_at=NOW)
        Spoken.objects.create(place=b"p" * 16, body=CANARY, size=len(CANARY), at=NOW)
        yield place


def spoil(path: Path) -> None:
    connection.close()
    path.write_bytes(b"no database " * 1000)


def counted(*tables: type[Session | Key | BrowserSession | Spoken]) -> list[int]:
    return [table._default_manager.count() for table in tables]


def test_a_copy_has_everything_but_what_was_said(path: Path) -> None:
    copy = make_copy(path, NOW_S)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert CANARY not in copy.read_bytes()
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(copy)) as other:
        assert one.execute(schema).fetchall() == other.execute(schema).fetchall()
        for (table,) in one.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        ).fetchall():
            rows = f"SELECT * FROM {table}"
            left_out = table in ("ledger_spoken", "ledger_memory", "ledger_difference", "ledger_browsersession")
            assert other.execute(rows).fetchall() == ([] if left_out else one.execute(rows).fetchall()), table


def test_one_a_day_and_the_last_three_stay(path: Path) -> None:
    assert copy_is_due(path, NOW_S)
    for day in range(5):
        copy = make_copy(path, NOW_S + day * DAY_S)
        os.utime(copy, (NOW_S + day * DAY_S,) * 2)
    assert len(copies(path)) == KEPT and copies(path)[0] == copy
    made_s = NOW_S + 4 * DAY_S
    assert not copy_is_due(path, made_s) and not copy_is_due(path, made_s + EVERY_S - 1)
    assert copy_is_due(path, made_s + EVERY_S) and copy_is_due(path, made_s - 1), "a clock that was put back"
    assert not list(path.parent.glob(".*")), "nothing is left behind"


def test_the_newest_whole_copy_takes_the_place_of_a_damaged_database(path: Path) -> None:
    make_copy(path, NOW_S)
    Session.objects.create(id="later", began_at=NOW, touched_at=NOW)
    good = make_copy(path, NOW_S + DAY_S)
    make_copy(path, NOW_S + 2 * DAY_S).write_bytes(b"damaged itself " * 1000)
    spoil(path)
    opened = open_database(path)
    assert opened.restored == good.name and path.with_name(opened.set_aside).exists()
    assert counted(Session, Key, BrowserSession, Spoken) == [2, 1, 0, 0]
    assert open_database(path) == Opened()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and good.exists()


def test_without_room_for_a_copy_the_next_start_puts_it_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = make_copy(path, NOW_S)
    spoil(path)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfile", Mock(side_effect=OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            open_database(path)
    assert open_database(path).restored == good.name
    assert counted(Session, Key) == [1, 1]


def test_without_a_whole_copy_a_fresh_one_is_begun(path: Path) -> None:
    make_copy(path, NOW_S).write_bytes(b"damaged itself " * 1000)
    spoil(path)
    opened = open_database(path)
    assert opened.set_aside and not opened.restored
    assert counted(Session, Key) == [0, 0]


def test_a_database_that_cannot_be_read_leaves_the_copies_as_they_are(path: Path) -> None:
    good = make_copy(path, NOW_S)
    before = good.read_bytes()
    spoil(path)
    with pytest.raises(sqlite3.DatabaseError):
        make_copy(path, NOW_S)
    assert copies(path) == [good] and good.read_bytes() == before


def test_the_tables_of_somebody_else_are_no_ledger(path: Path) -> None:
    good = make_copy(path, NOW_S)
    connection.close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("ALTER TABLE ledger_session RENAME COLUMN owner TO ownes")
    assert open_database(path).restored == good.name
    assert counted(Session) == [1]


async def test_a_key_that_was_removed_does_not_come_back(path: Path) -> None:
    make_copy(path, NOW_S)
    keys = SqliteKeys(path, opened=True)
    await keys.remove("k")
    keys.close({})
    assert not copies(path) and path.exists()


@pytest.mark.parametrize("step", ["synced", "_statements"])
async def test_nor_with_a_copy_that_is_made_meanwhile(path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has read the key, or is about to, when that is removed."""
    keys, loop, real = SqliteKeys(path, opened=True), asyncio.get_running_loop(), getattr(copies_module, step)
    removed: list[Future[None]] = []

    def meanwhile(*given: Any) -> Any:
        removed.append(asyncio.run_coroutine_threadsafe(keys.remove("k"), loop))
        with closing(sqlite3.connect(path)) as database:
            while database.execute("SELECT 1 FROM ledger_key").fetchone():
                time.sleep(0.001)
        return real(*given)

    monkeypatch.setattr(copies_module, step, meanwhile)
    await asyncio.to_thread(make_copy, path, NOW_S)
    await asyncio.wrap_future(removed[0])
    keys.close({})
    assert not copies(path)


async def test_a_key_is_gone_before_its_copies_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is begun in between would have it."""
    seen: list[int] = []

    def look(_: Path) -> None:
        with closing(sqlite3.connect(path)) as database:
            seen.extend(database.execute("SELECT count(*) FROM ledger_key").fetchone())

    monkeypatch.setattr(shelf, "remove_copies", look)
    keys = SqliteKeys(path, opened=True)
    await keys.remove("k")
    keys.close({})
    assert seen == [0]


def test_a_copy_of_a_day_to_come_goes(path: Path) -> None:
    """A clock that was put back would have one made each hour, and that one put in the place of a damaged database."""
    wrong = make_copy(path, NOW_S + 400 * DAY_S)
    os.utime(wrong, (NOW_S + 400 * DAY_S,) * 2)
    right = make_copy(path, NOW_S)
    os.utime(right, (NOW_S,) * 2)
    assert copies(path) == [right] and not copy_is_due(path, NOW_S + 1)


def test_what_was_forgotten_does_not_come_back(path: Path) -> None:
    make_copy(path, NOW_S)
    assert empty_log(path)
    assert not copies(path) and path.exists()


def test_what_was_set_aside_goes_in_its_time(path: Path) -> None:
    spoil(path)
    aside = path.with_name(open_database(path).set_aside)
    written_s = aside.stat().st_mtime
    remove_set_aside(path, written_s - 1)
    assert aside.exists()
    remove_set_aside(path, written_s + 1)
    assert not aside.exists() and path.exists()
