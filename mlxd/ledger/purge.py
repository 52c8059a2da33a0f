"""Takes a session out of the database so that nothing of it is left in its files. Blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from django.db import connection

from inference.conversation.healing import Said
from mlxd.ledger import spoken_bytes
from mlxd.ledger.copies import remove_copies
from mlxd.ledger.journal import Write
from mlxd.ledger.sealed import Unreadable

TRIES_MS = 500
"""For readers to let go of the log."""

_SPOKEN = (
    "SELECT place, body FROM ledger_spoken WHERE turn_id IN (SELECT public_id FROM ledger_turn WHERE session_id = %s)"
    " UNION ALL SELECT place, body FROM ledger_spoken WHERE turn_id IS NULL AND session = %s"
)
_TURNS = "SELECT count(*) FROM ledger_turn WHERE session_id = %s"
_DELETES = (
    "DELETE FROM ledger_spoken WHERE turn_id IS NULL AND session = %s",
    "DELETE FROM ledger_generation WHERE turn_id IS NULL AND session = %s",
    "DELETE FROM ledger_session WHERE id = %s",  # its turns go with it, and what hangs on them
)


def session_delete(session_id: str, forget: Callable[[Said], None], deleted: Callable[[int], None]) -> Write:
    """Takes out a session's turns and what became no turn of it, and overwrites them; `forget` is told of all that was
    said in it, `deleted` how many rows were its own: it, its turns, and answers and requests without one."""

    def write() -> None:
        with connection.cursor() as cursor:
            rows = cursor.execute(_SPOKEN, [session_id, session_id]).fetchall()
            (count,) = cursor.execute(_TURNS, [session_id]).fetchone()
            count += sum(cursor.execute(statement, [session_id]).rowcount for statement in _DELETES)
        for place, body in rows:
            turn = spoken_bytes.decoded(bytes(body), bytes(place))
            if not isinstance(turn, Unreadable):
                forget(Said(bytes(place), turn))
        deleted(count)

    return write


def empty_log(path: Path) -> bool:
    """Takes the write-ahead log over and cuts it to nothing, and removes the copies, that from before the last upgrade
    too: all have what was deleted. False: somebody reads in the log, and it is as it was."""
    remove_copies(path)
    path.with_name(f"{path.name}.bak").unlink(missing_ok=True)
    return cut_log()


def cut_log() -> bool:
    """Takes the write-ahead log over and cuts it to nothing. False: somebody reads in it, and it is as it was."""
    with connection.cursor() as cursor:
        (patience_ms,) = cursor.execute("PRAGMA busy_timeout").fetchone()
        cursor.execute(f"PRAGMA busy_timeout={TRIES_MS}")
        busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        cursor.execute(f"PRAGMA busy_timeout={patience_ms}")
    return not busy
