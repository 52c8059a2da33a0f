"""An upgrade of the database that is killed, at whatever statement: the old schema is there or the new one."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from mlxd.ledger.database import Opened, open_database
from mlxd.ledger.models import Session
from tests.ledger_database import database_at

NOW = datetime(2026, 1, 2, tzinfo=UTC)
type Found = tuple[frozenset[str], frozenset[str]]


@pytest.fixture
def path(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    """A database as the first version left it, with a session in it."""
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as place:
        place.touch(0o600)
        call_command("migrate", "ledger", "0001", verbosity=0, skip_checks=True)
        Session.objects.create(id="s", began_at=NOW, touched_at=NOW)
        connection.close()
        yield place


def found(path: Path) -> Found:
    """The migrations that were written down, and what is there of tables and indexes."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT id FROM ledger_session").fetchall() == [("s",)]
        applied = database.execute("SELECT name FROM django_migrations WHERE app = 'ledger'").fetchall()
        objects = database.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    return frozenset(name for (name,) in applied), frozenset(sql for (sql,) in objects)


def image(path: Path, folder: Path) -> Path:
    """What kill -9 leaves at this moment: the database and its log, as they are on the disk."""
    folder.mkdir()
    for ending in ("", "-wal", "-journal"):
        beside = path.with_name(path.name + ending)
        if beside.exists():
            shutil.copy(beside, folder / beside.name)
    return folder / path.name


def test_whenever_it_is_killed_all_of_it_was_done_or_nothing(path: Path, tmp_path: Path) -> None:
    images = [image(path, tmp_path / "before")]

    def watch(execute: Callable[..., Any], *statement: Any) -> Any:
        images.append(image(path, tmp_path / f"at{len(images)}"))
        return execute(*statement)

    with connection.execute_wrapper(watch):
        assert open_database(path) == Opened()
    images.append(image(path, tmp_path / "after"))
    old, new = found(images[0]), found(images[-1])
    assert len(old[0]) == 1 and len(new[0]) > 4 and len(images) > 50
    for each in images:
        assert found(each) in (old, new), f"{each.parent.name} of {len(images)}"


def test_what_was_killed_is_upgraded_at_the_next_start(path: Path, tmp_path: Path) -> None:
    before = image(path, tmp_path / "before")

    class Killed(BaseException):
        pass

    def kill(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if "ledger_audit" in sql:  # of the last migration
            raise Killed
        return execute(sql, *rest)

    with pytest.raises(Killed), connection.execute_wrapper(kill):
        open_database(path)
    connection.close()
    assert found(path) == found(before)
    assert open_database(path) == Opened() and found(path) != found(before)
