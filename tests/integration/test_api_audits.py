"""Audits the whole way: from a request to the table, the admin's pages and what the next request is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from pytest_django.plugin import DjangoDbBlocker

from dashboard.views import faults
from inference.cache.keeper import StoreKeeper
from inference.conversation.preparer import Preparer
from inference.engine.blocks import KVBlock
from inference.engine.loader import MlxLoader
from inference.engine.settings import CacheSettings, EngineSettings
from inference.engine.text import load_text
from inference.ports import ModelLoader
from inference.prefix_store import AuditResult
from inference.scheduler import Scheduler, SchedulerSettings
from mlxd import runtime
from mlxd.api import policy
from mlxd.ledger import audits as room
from mlxd.ledger.disk import open_ledger
from mlxd.ledger.ledger import Ledger
from mlxd.runtime import Runtime, ServedModel
from tests import tiny_models
from tests.integration.api_scripted import Call, get
from tests.integration.test_api_cache import ADMIN, SYSTEM, TOKEN, ask
from tests.integration.test_scheduler_audits import RESULT
from tests.ledger_database import database_at

SOON_S = 120.0


@pytest.fixture
def path(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as place:
        yield place


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    made = await asyncio.to_thread(open_ledger, path, days=0)
    yield made
    made.close()


@pytest.fixture
async def running(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Runtime]:
    """A tiny model of which every warm request is audited, as soon as nothing happens."""

    def loader() -> ModelLoader:
        return MlxLoader(EngineSettings(cache=CacheSettings(memory_bytes=1 << 26, audit_every=1)))

    scheduler = Scheduler(loader, SchedulerSettings(tidy_after_s=0.05), on_audit=ledger.audited)
    served = ServedModel("tiny", tiny_models.build(tmp_path / "tiny", "dense"), 1)
    made = Runtime((served,), scheduler, Preparer(), load_text, ledger=ledger)
    scheduler.start()
    await asyncio.wrap_future(scheduler.load(served.ref))
    runtime.install(made)
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN)))
    yield made
    runtime.install(None)
    policy.install(policy.Policy())
    await asyncio.to_thread(made.close)


async def audits(wanted: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """The table as the admin reads it, once it is as it should be."""
    until_s = time.monotonic() + SOON_S
    while True:
        found: list[dict[str, Any]] = (await get("/api/audits", headers=ADMIN)).json()["audits"]
        if wanted(found):
            return found
        assert time.monotonic() < until_s, found
        await asyncio.sleep(0.2)


def spoil(keeper: Any) -> None:
    """On the worker's thread: one value of the first block of whatever is stored."""
    assert isinstance(keeper, StoreKeeper)
    for root in keeper._cache.books.tree.roots.values():
        for node in root.children:
            assert isinstance(node.handle, KVBlock)
            array = next(one for one in node.handle.parts[0].packed.arrays if one is not None)
            array[0, 0, 1, 1] += 1


async def test_what_is_untrue_is_found_told_and_computed_again(
    running: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoreKeeper, "prove", lambda _keeper: None)  # which might see it first
    first = {"role": "user", "content": "Say what line 12 of src/main.py holds. "}
    await ask(SYSTEM, first)
    await ask(SYSTEM, {**first, "content": "And line 13?"})
    [row] = await audits(lambda rows: len(rows) == 1)
    assert row["verdict"] == "same" and row["model"] == "tiny" and row["diverged_step"] is None
    assert 0 <= row["distance"] < row["tolerance"] and row["steps"] == 16
    healthy = (await get("/health", headers=ADMIN)).json()
    assert healthy["status"] == "ok" and healthy["detail"]["faults"] == {} and healthy["detail"]["audits"] == 1

    await asyncio.wrap_future(running.scheduler.store(spoil))
    await ask(SYSTEM, {**first, "content": "And line 14?"})
    rows = await audits(lambda rows: len(rows) == 2)
    assert rows[0]["verdict"] == "quarantined" and rows[0]["quarantined_from"] == 0 < rows[0]["quarantined_blocks"]
    detail = (await get("/health", headers=ADMIN)).json()["detail"]
    assert detail["faults"] == {"warm_cold_divergence": 1} and detail["quarantined_blocks"] > 0
    status = (await get("/api/status", headers=ADMIN)).json()
    assert status["scheduler"]["store"]["warm_cold_divergence"] == 1

    assert faults(running.snapshot()) == (("audits that found stored blocks untrue", 1),)

    again = await ask(SYSTEM, first)
    assert again.headers["x-mlxd-verdict"] == "quarantined" and again.headers["x-conv-cached-tokens"] == "0"
    assert (await ask(SYSTEM, first)).headers["x-mlxd-verdict"] == "exact"


async def test_nobody_but_the_admin_is_told(running: Runtime) -> None:
    assert (await get("/api/audits")).status == 401
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {TOKEN}x"}):
        assert (await get("/health", headers=headers)).json() == {"status": "ok", "ready": True}
    for bad in (b"limit=0", b"limit=201", b"limit=x", b"before=x"):
        call = Call("GET", "/api/audits", headers=ADMIN)
        call.scope["query_string"] = bad
        assert (await call.start().result()).status == 400


async def test_pages_go_back_and_the_oldest_rows_go(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "KEPT", 3)
    for tokens in range(5):
        ledger.audited(replace(RESULT, prompt_tokens=tokens, kinds=("disk", "window"), distance=inf, diverged=True))
    until_s = time.monotonic() + SOON_S
    while ledger.view().journal.written < 5:
        assert time.monotonic() < until_s
        await asyncio.sleep(0.01)
    page = await ledger.read(room.audits, 2, None)
    assert [row["prompt_tokens"] for row in page] == [4, 3]
    rest = await ledger.read(room.audits, 2, page[-1]["number"])
    assert [row["prompt_tokens"] for row in rest] == [2], "three are kept"
    assert page[0]["kinds"] == ["disk", "window"] and page[0]["distance"] is None
    assert page[0]["verdict"] == "quarantined" and isinstance(RESULT, AuditResult)


def test_without_a_disk_nothing_is_written_and_nothing_fails() -> None:
    Ledger().audited(RESULT)
