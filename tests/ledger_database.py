"""A real SQLite database of the ledger's own making for one test, in the place of the project's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import connection, connections
from pytest_django.plugin import DjangoDbBlocker


@contextmanager
def database_at(path: Path, blocker: DjangoDbBlocker) -> Iterator[Path]:
    """Every connection that is opened inside goes to `path`. Nothing is there yet."""
    settings = connections.settings["default"]
    name, settings["NAME"] = settings["NAME"], str(path)
    with blocker.unblock():
        connection.close()
        connection.settings_dict["NAME"] = str(path)
        try:
            yield path
        finally:
            connection.close()
            settings["NAME"] = connection.settings_dict["NAME"] = name
