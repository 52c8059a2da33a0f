"""A database that was damaged, in many ways: mlxd starts, with what can be read, a copy or nothing, and then again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from mlxd.ledger import whole
from mlxd.ledger.content import stored_memories
from mlxd.ledger.database import Opened, open_database
from mlxd.ledger.models import Session, Turn
from mlxd.ledger.rows import stored_turns
from mlxd.ledger.shelf import Shelf
from tests.ledger_database import database_at

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TURNS = 60


@pytest.fixture
def path(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as place:
        open_database(place)
        Session.objects.create(id="s", began_at=NOW, touched_at=NOW)
        sealed = {"edge": "extend", "known_messages": 1, "messages": 2, "hashes": bytes(64), "ends": bytes(32)}
        Turn.objects.bulk_create(
            Turn(public_id=f"t{n}", session_id="s", line="l", head=b"h", tools=b"t", at=NOW, **sealed)
            for n in range(TURNS)
        )
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        yield place


def known() -> list[str]:
    """The turns of which a start learns."""
    shelf = Shelf()
    shelf.load()
    return [turn.id for turn in stored_turns(1000, stored_memories(shelf.count))]


def flipped(data: bytearray, random: Random) -> None:
    for _ in range(random.choice([1, 8, 64])):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def schema(data: bytearray, random: Random) -> None:
    """Names of tables and columns, which no check of SQLite's compares with anything."""
    for _ in range(4):
        data[random.randrange(100, 16384)] = random.choice(b"z\xcc\0")


def head(data: bytearray, random: Random) -> None:
    data[random.randrange(100)] = random.randrange(256)


def cut(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data)) :]


def shifted(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.randrange(1, 5000)]


def page(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data) // 4096) * 4096
    data[at : at + 4096] = random.randbytes(4096)


@pytest.mark.parametrize("spoil", [flipped, schema, head, cut, shifted, page])
def test_a_start_goes_on_whatever_was_damaged(path: Path, spoil: Callable[[bytearray, Random], None]) -> None:
    sound = path.read_bytes()
    for seed in range(8):
        for beside in path.parent.iterdir():
            beside.unlink()
        data = bytearray(sound)
        spoil(data, Random(seed))
        path.write_bytes(data)
        path.chmod(0o600)
        opened = open_database(path)
        assert known() == [] if opened.set_aside else len(known()) <= TURNS
        connection.close()
        assert open_database(path) == Opened(), "what it made of it is whole"
        connection.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [("at", "'yesterday'"), ("at", "NULL"), ("messages", "'many'"), ("edge", "'sideways'"), ("hashes", "'text'")],
)
def test_one_row_that_cannot_be_read_costs_no_other(path: Path, column: str, value: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA writable_schema=ON")
        cursor.execute("UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'ledger_turn'")
        cursor.execute("PRAGMA writable_schema=RESET")
        cursor.execute("PRAGMA ignore_check_constraints=ON")
        cursor.execute(f"UPDATE ledger_turn SET {column} = {value} WHERE public_id = 't7'")
    assert known() == [f"t{n}" for n in range(TURNS) if n != 7]


@pytest.mark.parametrize(
    ("code", "of_the_file"),
    [
        ("SQLITE_FULL", False),
        ("SQLITE_BUSY", False),
        ("SQLITE_IOERR_READ", False),
        ("SQLITE_CANTOPEN", False),
        ("SQLITE_CORRUPT_INDEX", True),
        ("SQLITE_NOTADB", True),
        ("SQLITE_IOERR_SHORT_READ", True),
    ],
)
def test_trouble_of_the_disk_is_no_damage(code: str, of_the_file: bool) -> None:
    error = sqlite3.OperationalError(code)
    error.sqlite_errorcode = getattr(sqlite3, code)
    assert whole.is_damage(error) is of_the_file
