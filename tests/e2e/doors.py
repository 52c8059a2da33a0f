"""Every route of a daemon that asks for keys, with one key of each scope.

The routes are read from the routers, so one that is added is tried by itself.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx

from mlxd.api.auth import AdminBearer, AnyKey, Public
from mlxd.api.root import api
from tests.e2e.daemon import ServedDaemon

SCRIPT = {"SCRIPT": json.dumps({"limits": {"vocab_size": 300_000}})}
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Door:
    """One operation or page: `auth` is the class that guards it, or `page`."""

    method: str
    path: str
    auth: str

    @property
    def takes_json(self) -> bool:
        return self.method in ("POST", "PUT", "PATCH") and self.path.startswith(("/v1", "/api"))


def doors() -> Iterator[Door]:
    for prefix, router in api._routers:
        for path, view in router.path_operations.items():
            for operation in view.operations:
                (auth,) = operation.auth_callbacks
                for method in operation.methods:
                    yield Door(method, re.sub(r"\{[^}]*\}", "x", f"{prefix}{path}"), type(auth).__name__)
    yield Door("GET", "/", "page")
    yield Door("GET", "/?part=figures", "page")
    yield Door("GET", "/login", Public.__name__)


DOORS = tuple(doors())
INFER, ADMIN, OPEN = AnyKey.__name__, AdminBearer.__name__, Public.__name__


@dataclass
class Guarded:
    """A daemon that asks for keys, with one of each scope."""

    served: ServedDaemon
    infer: dict[str, str]
    admin: dict[str, str]

    def ask(self, door: Door, **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        body = b"{}" if door.takes_json else None
        return self.client.request(door.method, door.path, headers={**(JSON if body else {}), **given}, content=body)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.served.url, timeout=60)

    @property
    def right(self) -> dict[str, dict[str, str]]:
        return {INFER: self.infer, ADMIN: self.served.admin, OPEN: {}, "page": self.served.browser()}

    @property
    def wrong_scope(self) -> dict[str, dict[str, str]]:
        return {INFER: self.admin, ADMIN: self.infer, OPEN: {}, "page": self.served.admin}


def rows(state: Path) -> dict[str, list[str]]:
    """All tables, but for when a key or a browser was last seen."""
    with closing(sqlite3.connect(f"file:{state / 'mlxd.sqlite3'}?mode=ro", uri=True)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {name: sorted(map(repr, database.execute(f"SELECT * FROM {name}"))) for name in names}
        found["ledger_key"] = sorted(map(repr, database.execute("SELECT id, digest, name, scopes FROM ledger_key")))
        found["ledger_browsersession"] = sorted(map(repr, database.execute("SELECT digest FROM ledger_browsersession")))
        return found
