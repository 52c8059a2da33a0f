"""Keys while no daemon runs: the same rows, for the one command that holds the state directory's lock."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from mlxd.instance import claim
from mlxd.keys.key import MAX_KEYS, Usage, make_key, shown
from mlxd.paths import StateDir
from mlxd.start_errors import StartError


@contextmanager
def database(state: StateDir) -> Iterator[None]:
    """The database of a state directory, ready to be read and written. Raises `StartError`."""
    with claim(state):
        os.environ["MLXD_STATE_DIR"] = str(state.root)
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mlxd.settings")
        import django
        from django.db import DatabaseError, connection

        django.setup()
        from mlxd.ledger.database import open_database

        try:
            with redirect_stdout(sys.stderr):  # what is logged must not stand among lines that a shell reads
                open_database(state.database)
            yield
        except (DatabaseError, sqlite3.Error, OSError) as error:
            raise StartError(f"{state.database} cannot be used: {type(error).__name__}.") from error
        finally:
            connection.close()


def listed(state: StateDir) -> list[dict[str, Any]]:
    """All keys, as the daemon would tell them."""
    with database(state):
        from mlxd.keys.rows import stored_keys

        return [shown(key, usage) for key, usage in stored_keys()]


def added(state: StateDir, name: str, **wanted: Any) -> dict[str, Any]:
    """A new key, told with what is kept of it. Raises `InvalidParameter`, `StartError`."""
    with database(state):
        from mlxd.keys.rows import insert_key, stored_keys

        keys = [key for key, _ in stored_keys()]
        if len(keys) >= MAX_KEYS:
            raise StartError(f"There are {MAX_KEYS} keys.", cure="Remove one: `mlxd keys rm`.")
        names = {word for key in keys for word in (key.name, key.id)}
        secret, key = make_key(name, names.__contains__, **wanted)
        insert_key(key)
        return {**shown(key, Usage()), "key": secret}


def removed(state: StateDir, name: str) -> dict[str, Any] | None:
    """The key that went, by its name or its id; None where there is none."""
    with database(state):
        from mlxd.keys.rows import delete_key, stored_keys
        from mlxd.ledger.copies import remove_copies

        found = next((key for key, _ in stored_keys() if name in (key.name, key.id)), None)
        if found is None:
            return None
        delete_key(found.id)
        remove_copies(state.database)  # it must not come back with one of them
        return {"id": found.id, "name": found.name, "removed": True}
