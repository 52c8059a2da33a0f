"""A question that takes too long is given up, by who asked and by the database."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from mlxd.ledger.database import open_database
from mlxd.ledger.ledger import LedgerUnavailable
from mlxd.ledger.reader import Reader
from tests.ledger_database import database_at

FOR_EVER = "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number) SELECT max(n) FROM number"
SOON_S = 10.0


@pytest.fixture
def path(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as place:
        open_database(place)
        yield place


def asked(query: str) -> int:
    with connection.cursor() as cursor:
        (found,) = cursor.execute(query).fetchone()
    return int(found)


async def test_a_query_without_an_end_is_ended(path: Path) -> None:
    reader = Reader("test", 0.2)
    began_s = time.monotonic()
    with pytest.raises(LedgerUnavailable, match=r"within 0\.2 s"):
        await reader.ask(asked, FOR_EVER)
    answered = None
    while answered is None:  # the database needs a moment to end it
        assert time.monotonic() - began_s < SOON_S, "it still runs"
        try:
            answered = await reader.ask(asked, "SELECT 7")
        except LedgerUnavailable:
            continue
    assert answered == 7
    reader.close()


async def test_who_goes_away_ends_the_query_of_nobody_else(path: Path) -> None:
    reader, goes_on, begun = Reader("test", 60), threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        goes_on.wait(60)
        return asked("SELECT 1")

    first = asyncio.create_task(reader.ask(slow))
    second = asyncio.create_task(reader.ask(asked, FOR_EVER))
    third = asyncio.create_task(reader.ask(asked, "SELECT 3"))
    await asyncio.to_thread(begun.wait, 60)
    second.cancel()
    await asyncio.wait([second])
    goes_on.set()

    assert await asyncio.wait_for(asyncio.gather(first, third), SOON_S) == [1, 3]
    reader.close()
