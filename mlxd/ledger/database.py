"""Opens the database when a daemon starts: whole, of a schema we know, backed up before it is changed, and private.

A file that is no whole database is set aside and a fresh one begun; one that a newer mlxd has written is refused and
left as it is. Only a holder of the state directory's lock may call this.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import structlog
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

from mlxd.paths import private_file
from mlxd.start_errors import StartError

CHECK_BELOW_BYTES = 256 * 1024 * 1024
"""A larger file is checked by its header and schema only: a whole check reads it all."""

WAL_BYTES = 4_000_000
"""Laid out at start, before anybody waits: a commit into a log that already has its length took 2.9 ms at p95, one that
makes it longer 5.9 (a busy virtual disk)."""

log = structlog.get_logger(__name__)


class NewerSchema(StartError):
    """A newer mlxd has changed the database; this one would not know what it means."""


def open_database(path: Path) -> str:
    """Makes the database ready for this version. The name of the file that was set aside for it, "" if none.

    Raises `NewerSchema`, `UnsafeStateDir`, or `OperationalError` where the disk will not have it.
    """
    private_file(path)
    aside = _set_aside_unless_whole(path)
    _refuse_newer(path)
    private_file(path)
    if MigrationExecutor(connection).migration_plan(_targets()):
        _back_up(path)
        call_command("migrate", verbosity=0, interactive=False, skip_checks=True)
    connection.close()
    return aside


def close_connection() -> None:
    """Closes that of the thread it runs on; `connection.close` is that of the thread which names it."""
    connection.close()


def lay_out_log() -> None:
    """Gives the write-ahead log its length. On the thread that will write."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS ledger_ballast (filler BLOB)")
        cursor.execute("INSERT INTO ledger_ballast VALUES (zeroblob(%s))", [WAL_BYTES])
        cursor.execute("DROP TABLE ledger_ballast")  # its pages are free again for rows
        cursor.execute("PRAGMA wal_checkpoint(RESTART)")


def _targets() -> list[tuple[str, str | None]]:
    return list(MigrationLoader(connection).graph.leaf_nodes())


def _set_aside_unless_whole(path: Path) -> str:
    reason = _fault(path)
    if not reason:
        return ""
    aside = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}")
    for ending in ("", "-wal", "-shm"):
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + ending))
    log.error("database_set_aside", reason=reason, file=aside.name)
    return aside.name


def _fault(path: Path) -> str:
    """Why the file is no whole database, "" if it is one."""
    try:
        with closing(sqlite3.connect(path)) as database:
            database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if path.stat().st_size > CHECK_BELOW_BYTES:
                return ""
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            return "" if found == "ok" else "it is damaged"
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        return str(error)


def _refuse_newer(path: Path) -> None:
    if not path.exists():  # it was set aside
        return
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'django_migrations'").fetchone():
            return
        applied = set(database.execute("SELECT app, name FROM django_migrations"))
    unknown = sorted(
        name for app, name in applied - set(MigrationLoader(None).disk_migrations or ()) if app == "ledger"
    )
    if unknown:
        raise NewerSchema(
            f"The database {path} was written by a newer mlxd ({unknown[-1]}).",
            cure=f"Upgrade mlxd again, or move the file away to begin a new one: mv {path} {path}.newer",
        )


def _back_up(path: Path) -> None:
    """A whole copy beside it, unless there is nothing in it yet. Only the last one is kept."""
    if not connection.introspection.table_names():
        return
    fresh = path.with_name(f".{path.name}.bak")
    fresh.unlink(missing_ok=True)
    private_file(fresh)
    with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(fresh)) as copy:
        database.backup(copy)
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path.with_name(f"{path.name}.bak"))
