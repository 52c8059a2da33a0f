"""A copy of the database a day, the last three: what a damaged one is replaced by.

They have no content (what was said and read is in one place alone) and no open browsers. Whatever is taken out of the
database for good takes all copies with it; the next one is made without it.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from django.db.models import Model

from mlxd.ledger.models import BrowserSession, Difference, Memory, Spoken
from mlxd.paths import private_file, synced

KEPT: Final = 3
EVERY_S: Final = 86_400.0
LEFT_EMPTY: Final[tuple[type[Model], ...]] = (Spoken, Memory, Difference, BrowserSession)

_CHANGING: Final = threading.Lock()
"""Held while one is made: it has what was there when it was begun, and is found under its name only at the end."""
_DAY: Final = re.compile(r"\.copy-\d{8}")
_OBJECTS: Final = (
    "SELECT type, name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    " ORDER BY type DESC"  # tables before indexes
)


def copies(path: Path) -> list[Path]:
    """Those of a database, the newest first."""
    there = path.parent.glob(f"{path.name}.copy-*")
    return sorted((each for each in there if _DAY.fullmatch(each.name[len(path.name) :])), reverse=True)


def copy_is_due(path: Path, now_s: float) -> bool:
    """Whether the newest is older than a day; one from the future is as good as none."""
    return all(not 0 <= now_s - each.stat().st_mtime < EVERY_S for each in copies(path)[:1])


def make_copy(path: Path, now_s: float | None = None) -> Path:
    """Makes one, and removes the oldest and those of days to come. Raises `sqlite3.Error` or `OSError`; what was there
    stays then. Blocks."""
    day = time.strftime("%Y%m%d", time.localtime(now_s))
    made = path.with_name(f"{path.name}.copy-{day}")
    with _CHANGING:
        fresh = _written(path)
        synced(fresh).replace(made)
        later = [each for each in copies(path) if each.name > made.name]
        for old in (*later, *copies(path)[len(later) + KEPT :]):
            old.unlink(missing_ok=True)
    return made


def _written(path: Path) -> Path:
    fresh = path.with_name(f".{path.name}.copy")
    fresh.unlink(missing_ok=True)
    private_file(fresh)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("ATTACH DATABASE ? AS copy", [str(fresh)])
        database.execute("BEGIN")
        for statement in _statements(database):
            database.execute(statement)
        database.execute("COMMIT")
    return fresh


def remove_copies(path: Path) -> None:
    """For after something was taken out that has to be gone from them; waits for one that is being made, which may have
    it. Raises `OSError`."""
    with _CHANGING:
        for each in copies(path):
            each.unlink(missing_ok=True)


def remove_set_aside(path: Path, before_s: float) -> None:
    """Damaged files that were set aside so long ago go: they have what was said in them. Raises `OSError`."""
    for each in path.parent.glob(f"{path.name}.corrupt-*"):
        if each.stat().st_mtime < before_s:
            each.unlink(missing_ok=True)


def taken_from(copy: Path, path: Path) -> Path:
    """A file beside a database, whole and on the disk, to be put into its place. Raises `OSError`, `UnsafeStateDir`."""
    fresh = path.with_name(f".{path.name}.restored")
    private_file(fresh)
    shutil.copyfile(copy, fresh)
    return synced(fresh)


def _statements(database: sqlite3.Connection) -> Iterator[str]:
    """What fills the attached copy from the main database."""
    empty = {model._meta.db_table for model in LEFT_EMPTY}
    for kind, name, sql in database.execute(_OBJECTS).fetchall():
        head, _, rest = sql.partition('"')  # CREATE TABLE "name" …, as Django writes it
        yield f'{head}copy."{rest}'
        if kind == "table" and name not in empty:
            yield f'INSERT INTO copy."{name}" SELECT * FROM main."{name}"'  # noqa: S608  a name of ours
