"""The write-ahead log goes into the database beside the thread that writes, and never within an answer's commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.db import connection, transaction
from pytest_django.plugin import DjangoDbBlocker

from mlxd.ledger.database import open_database
from mlxd.ledger.insert import insert
from mlxd.ledger.log_upkeep import LogUpkeep, take_over
from mlxd.ledger.models import Session
from tests.ledger_database import database_at

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ENOUGH = 1100
"""Commits of at least two pages each. SQLite by itself takes the log over at a thousand."""


@pytest.fixture
def path(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as place:
        open_database(place)
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA synchronous=OFF")
        yield place


def write(name: str) -> None:
    with transaction.atomic():
        insert(Session, id=name, began_at=NOW, touched_at=NOW)


def test_no_commit_takes_the_log_over(path: Path) -> None:
    write("canary")
    for number in range(ENOUGH):
        write(f"s{number}")

    assert b"canary" not in path.read_bytes()
    with closing(sqlite3.connect(path)) as database:  # nothing of it is lost: others read it from the log
        assert database.execute("SELECT count(*) FROM ledger_session").fetchone() == (ENOUGH + 1,)


def test_it_is_taken_over_once_it_holds_enough(path: Path) -> None:
    upkeep = LogUpkeep(path, every_writes=3)
    write("canary")
    upkeep.wrote(2)
    assert b"canary" not in path.read_bytes()

    upkeep.wrote(1)
    upkeep.close()

    assert b"canary" in path.read_bytes()


def test_who_reads_in_it_holds_it_back_and_nobody_waits(path: Path) -> None:
    write("before")
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ledger_session").fetchone()
        write("canary")
        assert take_over() > 0
        assert b"canary" not in path.read_bytes()

    assert take_over() == 0
    assert b"canary" in path.read_bytes()
