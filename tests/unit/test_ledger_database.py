"""Opening the database: fresh, again, newer, damaged, open to others, and on a disk that will not have it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from mlxd.ledger import database
from mlxd.ledger.database import NewerSchema, Opened, lay_out_log, open_database
from mlxd.ledger.models import Session
from mlxd.start_errors import UnsafeStateDir
from tests.ledger_database import database_at

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as place:
        yield place


def kept(name: str = "s") -> None:
    Session.objects.create(id=name, began_at=NOW, touched_at=NOW)


def names() -> list[str]:
    return sorted(Session.objects.values_list("id", flat=True))


def one(query: str) -> object:
    with connection.cursor() as cursor:
        return cursor.execute(query).fetchone()[0]


def test_a_fresh_one_has_the_settings_that_keep_what_was_acknowledged(path: Path) -> None:
    old = os.umask(0o022)  # not the daemon's: the file is private whatever the process is
    try:
        assert open_database(path) == Opened()
        kept()
    finally:
        os.umask(old)
    assert one("PRAGMA journal_mode") == "wal"
    assert one("PRAGMA synchronous") == 2
    assert one("PRAGMA foreign_keys") == 1
    assert one("PRAGMA busy_timeout") == 5000
    assert connection.transaction_mode == "IMMEDIATE"  # type: ignore[attr-defined]
    for ending in ("", "-wal", "-shm"):
        assert stat.S_IMODE(path.with_name(path.name + ending).stat().st_mode) == 0o600
    assert not path.with_name(f"{path.name}.bak").exists()


def test_opened_again_it_is_the_same_and_nothing_is_backed_up(path: Path) -> None:
    open_database(path)
    kept()
    assert open_database(path) == Opened() and names() == ["s"]
    assert not path.with_name(f"{path.name}.bak").exists()


def test_before_a_migration_it_is_copied_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_database(path)
    kept()
    backup = path.with_name(f"{path.name}.bak")
    seen: list[bool] = []
    with connection.cursor() as cursor:  # as an older version left it
        cursor.execute("DELETE FROM django_migrations WHERE app = 'ledger'")
    monkeypatch.setattr(database, "call_command", lambda *_, **__: seen.append(backup.exists()))
    open_database(path)
    assert seen == [True] and stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("SELECT id FROM ledger_session").fetchall() == [("s",)]


def test_one_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    open_database(path)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_migrations(app, name, applied) VALUES ('ledger', '9999_later', '2030-01-01')"
        )
    connection.close()
    before = path.read_bytes()
    with pytest.raises(NewerSchema) as refusal:
        open_database(path)
    assert refusal.value.exit_code == 2 and "9999_later" in refusal.value.message and refusal.value.cure
    assert path.read_bytes() == before


@pytest.mark.parametrize("spoil", ["text", "zeros", "header", "middle", "cut"])
def test_a_damaged_one_is_set_aside(path: Path, spoil: str) -> None:
    open_database(path)
    Session.objects.bulk_create(Session(id=f"s{number}", began_at=NOW, touched_at=NOW) for number in range(500))
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    whole = path.read_bytes()
    path.write_bytes(
        {
            "text": b"not a database at all, but long enough to be looked at " * 100,
            "zeros": bytes(len(whole)).replace(b"\0", b"\1", 100),
            "header": b"\xff" * 100 + whole[100:],
            "middle": whole[:8192] + b"\xa5" * 16384 + whole[24576:],
            "cut": whole[: len(whole) // 2],
        }[spoil]
    )
    aside = open_database(path).set_aside
    assert aside.startswith("mlxd.sqlite3.corrupt-") and path.with_name(aside).exists()
    kept()
    assert names() == ["s"]


def test_one_that_others_can_read_is_refused(path: Path) -> None:
    open_database(path)
    connection.close()
    path.chmod(0o644)
    with pytest.raises(UnsafeStateDir):
        open_database(path)


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch(0o600)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeStateDir):
        open_database(path)
    assert (tmp_path / "elsewhere").stat().st_size == 0


def test_the_log_gets_its_length_and_the_rows_stay(path: Path) -> None:
    open_database(path)
    kept()
    lay_out_log()
    lay_out_log()
    assert path.with_name(f"{path.name}-wal").stat().st_size >= database.WAL_BYTES
    assert names() == ["s"] and "ledger_ballast" not in connection.introspection.table_names()
