"""Is a file a whole database, with the tables that mlxd reads, and is the file to blame for an error or the disk?"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from django.apps import apps
from django.db import DatabaseError, connection

CHECK_BELOW_BYTES: Final = 256 * 1024 * 1024
"""A larger file is checked by its header and schema only: a whole check reads it all."""

_MAGIC: Final = b"SQLite format 3\0"
_VERSIONS_AT: Final = slice(18, 20)
"""Formats to write and to read. SQLite opens a file for reading alone where the first is beyond it."""
_OF_THE_FILE: Final = frozenset(
    {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
)


class Damaged(Exception):
    """The file is no database of ours, or not a whole one. `str()` says why."""


def refuse_damaged(path: Path) -> None:
    """Raises `Damaged`, or what the disk fails with."""
    with path.open("rb") as file:
        head = file.read(100)
    if head and (head[:16] != _MAGIC or not {*head[_VERSIONS_AT]} <= {1, 2}):
        raise Damaged("it is no database")
    try:
        with closing(sqlite3.connect(path)) as database:
            database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if path.stat().st_size <= CHECK_BELOW_BYTES:
                (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
                if found != "ok":
                    raise Damaged("it is damaged")
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if is_damage(error):
            raise Damaged(str(error)) from error
        raise


def refuse_foreign_tables() -> None:
    """Raises `DatabaseError` where the tables are not those of this version's models. Reads no row.

    A column that is not there SQLite would take for a string, were it named without its table.
    """
    quote = connection.ops.quote_name
    with connection.cursor() as cursor:
        for model in apps.get_app_config("ledger").get_models():
            table = quote(model._meta.db_table)
            columns = [f"{table}.{quote(str(field.column))}" for field in model._meta.local_concrete_fields]
            cursor.execute(f"SELECT {', '.join(columns)} FROM {table} LIMIT 0")  # noqa: S608  names of ours


def is_damage(error: BaseException) -> bool:
    """Whether it is about what is in the file; everything else is trouble of the disk, and may pass."""
    cause = error.__cause__ if isinstance(error, DatabaseError) else error
    if isinstance(cause, UnicodeDecodeError):  # SQLite's message quotes the file
        return True
    if not isinstance(cause, sqlite3.Error):
        return False
    code: int | None = getattr(cause, "sqlite_errorcode", None)  # none: Python could not decode what it read
    return code is None or code & 0xFF in _OF_THE_FILE or code == sqlite3.SQLITE_IOERR_SHORT_READ
