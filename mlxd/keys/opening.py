"""What a process starts with: the keys and open browsers that earlier ones kept. Imported once Django is set up."""

from __future__ import annotations

import sqlite3
import time

import structlog
from django.db import DatabaseError, connection

from mlxd.keys import rows
from mlxd.keys.access import Access
from mlxd.keys.browsers import Browsers
from mlxd.keys.keyring import Keyring
from mlxd.keys.shelf import SqliteKeys
from mlxd.ledger.journal import outage_name
from mlxd.paths import StateDir

log = structlog.get_logger(__name__)


def open_access(state: StateDir, *, opened: bool) -> Access:
    """`opened`: the database is ready already. Blocks. Raises `StartError`.

    Where the disk fails, or a row is damaged, nobody's key is known, and none opens anything.
    """
    shelf = SqliteKeys(state.database, opened=opened)
    try:
        if not opened and not state.database.exists():  # nothing is kept yet, and perhaps never will be
            return Access(Keyring(shelf), Browsers(shelf), token_file=state.admin_token)
        shelf.open()
        keyring, browsers = Keyring(shelf, rows.stored_keys()), Browsers(shelf, rows.stored_browsers(time.time()))
        return Access(keyring, browsers, token_file=state.admin_token)
    except (DatabaseError, sqlite3.Error, OSError, ValueError, TypeError, AttributeError) as error:
        log.error("keys_not_read", reason=outage_name(error))
        return Access(Keyring(shelf), Browsers(shelf), token_file=state.admin_token)
    finally:
        connection.close()
