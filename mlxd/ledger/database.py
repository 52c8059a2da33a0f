"""Opens the database when a daemon starts: whole, of a schema we know, backed up before it is changed, and private.

A file that is no whole database is set aside, and the newest copy that is whole takes its place, or a fresh one; one
that a newer mlxd has written is refused and left as it is. An upgrade is one transaction: whenever it is killed, the
old schema or the new one is there. Only a holder of the state directory's lock may call this.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import structlog
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

from mlxd.ledger.copies import copies, taken_from
from mlxd.ledger.whole import Damaged, is_damage, refuse_damaged, refuse_foreign_tables
from mlxd.paths import private_file, synced
from mlxd.start_errors import StartError

WAL_BYTES = 4_000_000
"""Laid out at start, before anybody waits: a commit into a log that already has its length took 2.9 ms at p95, one that
makes it longer 5.9 (a busy virtual disk)."""

log = structlog.get_logger(__name__)


class NewerSchema(StartError):
    """A newer mlxd has changed the database; this one would not know what it means."""


@dataclass(frozen=True, slots=True)
class Opened:
    """`set_aside` is the name of a damaged file that was found, `restored` that of the copy which took its place."""

    set_aside: str = ""
    restored: str = ""


def open_database(path: Path) -> Opened:
    """Makes the database ready for this version.

    Raises `NewerSchema`, `UnsafeStateDir`, or `OperationalError` where the disk will not have it.
    """
    try:
        _open(path)
        return Opened()
    except Damaged as damage:
        reason, aside = str(damage), ""
    for copy in copies(path):
        fresh = taken_from(copy, path)  # first: without room for it, the next start must find the damaged one again
        aside = aside or _set_aside(path, reason)
        try:
            fresh.replace(path)
            _open(path)
        except (Damaged, NewerSchema) as error:
            log.warning("copy_not_used", file=copy.name, reason=str(error))
            _move(path, None)
        else:
            log.warning("database_restored", file=copy.name)
            return Opened(aside, copy.name)
    aside = aside or _set_aside(path, reason)
    _open(path)
    return Opened(aside)


def _open(path: Path) -> None:
    private_file(path)
    refuse_damaged(path)
    try:
        _refuse_newer(path)
        if MigrationExecutor(connection).migration_plan(_targets()):
            _back_up(path)
            _upgrade()
        refuse_foreign_tables()
    except (DatabaseError, sqlite3.Error, UnicodeDecodeError) as error:
        if is_damage(error):
            raise Damaged(str(error)) from error
        raise
    finally:
        connection.close()


def _upgrade() -> None:
    """All migrations or none. Each by itself is written down as applied after it was: killed between the two, it could
    never be applied again."""
    connection.disable_constraint_checking()  # within a transaction SQLite would take no notice
    with transaction.atomic(durable=True):
        call_command("migrate", verbosity=0, interactive=False, skip_checks=True)


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


def _set_aside(path: Path, reason: str) -> str:
    """Moves it away under a name that nothing has; the name."""
    aside = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}-")
    _move(path, aside)
    log.error("database_set_aside", reason=reason, file=aside.name)
    return aside.name


def _move(path: Path, aside: Path | None) -> None:
    """With its log, which goes first: beside another file it would be taken for that one's. None: away with it."""
    for ending in ("-wal", "-shm", "-journal", ""):
        beside = path.with_name(path.name + ending)
        if aside is None:
            beside.unlink(missing_ok=True)
        elif beside.exists():
            beside.rename(aside.with_name(aside.name + ending))


def _refuse_newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'django_migrations'").fetchone():
            return
        applied = set(database.execute("SELECT app, name FROM django_migrations"))
    ours = {name for app, name in MigrationLoader(None).disk_migrations or () if app == "ledger"}
    unknown = sorted(name for app, name in applied if app == "ledger" and name > max(ours) and name not in ours)
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
    synced(fresh).replace(path.with_name(f"{path.name}.bak"))
