"""What was said and read outlives the process: on its way to the disk, back from it, and out of it again."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_django.plugin import DjangoDbBlocker

from inference.conversation.canonical import Prefix
from inference.conversation.healing import HealingStore, Said
from inference.conversation.spoken import RawTurn, SpokenTurn, raw_turn
from inference.conversation.turn_chain import Asked
from inference.events import Usage
from inference.messages import Message
from inference.tokens import TokenIds
from mlxd import listening
from mlxd.echoes import Echoes
from mlxd.ledger import content, disk, read, retention
from mlxd.ledger.disk import open_ledger
from mlxd.ledger.ledger import LedgerUnavailable
from mlxd.ledger.log_upkeep import EVERY_WRITES
from mlxd.ledger.record import GenerationRecord
from mlxd.runtime import Runtime
from tests.conversations import READ, assistant, call, result, system, talk, user
from tests.integration.spoken_runtime import CALL, LONG, Model, answer, served
from tests.ledger_database import database_at
from tests.tokenizers_in_code import text_model

SESSION = "a" * 32
RECORD = GenerationRecord("r", "", "tiny", "cancelled", "", Usage(1), 0, 0.0, 0.0)
ASK = (system("Be careful."), user("What is in a?"))


@pytest.fixture
def path(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as place:
        yield place


@asynccontextmanager
async def process(path: Path, model: Model | None = None, *, restores: bool = True) -> AsyncIterator[Runtime]:
    """One process's life over the same database."""
    model = model or speaking()
    ledger = await asyncio.to_thread(open_ledger, path, days=0)
    with served(model.scheduler, model.text, Path("tiny")) as runtime:
        runtime.ledger, runtime.echoes = ledger, Echoes(HealingStore(), ledger)
        if restores:
            ledger.restore(runtime.echoes.store)
            await ledger.seek(lambda _: None)  # its thread does one thing after the other
        yield runtime


def speaking(says: str = "") -> Model:
    model = Model(text_model("chatml"))
    model.says = says or model.says
    return model


def rows(path: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database, database:
        return database.execute(query, values).fetchall()


def respelled(said: Message) -> Message:
    """As clients send it back: the thought dropped, the arguments written anew."""
    calls = (replace(one, arguments=json.dumps(json.loads(one.arguments), indent=1)) for one in said.tool_calls)
    return assistant(said.text.strip(), *calls)


def outcomes(runtime: Runtime) -> dict[str, int]:
    return runtime.echoes.store.counts


@pytest.mark.parametrize("restores", [True, False], ids=["restored", "looked up"])
async def test_after_a_restart_a_tool_loop_goes_on_from_its_own_ids(path: Path, restores: bool) -> None:
    messages, ids = list(ASK), TokenIds()
    for turn in range(3):
        model = speaking(CALL)
        async with process(path, model, restores=restores) as runtime:
            assert len(runtime.echoes.store) == (turn if restores else 0)
            said, _ = await answer(runtime, talk(*messages, tools=(READ,)), LONG)
            assert model.read[: len(ids)] == ids
            assert outcomes(runtime) == ({"healed": turn} if turn else {})
            assert len(runtime.echoes.store) == turn + 1, "what was looked up is in memory again"
        ids = (*model.read, *model.ids)
        messages += [respelled(said), result(said.tool_calls[0].id, f"line {turn}")]


async def test_a_text_behind_answers_that_only_the_disk_knows_is_found_too(path: Path) -> None:
    """Its place depends on what was thought before, which the client does not send back."""
    messages = list(ASK)
    async with process(path, speaking("<think>\nI think.\n</think>\n\nA file.")) as runtime:
        for turn in range(3):
            said, _ = await answer(runtime, talk(*messages), LONG)
            messages += [respelled(said), user(f"And {turn}?")]
    async with process(path, restores=False) as runtime:
        await answer(runtime, talk(*messages), LONG)
        assert outcomes(runtime) == {"healed": 3}


async def test_every_choice_is_kept_and_what_was_read_is(path: Path) -> None:
    async with process(path, speaking("the quick fox")) as runtime:
        await answer(runtime, talk(*ASK), replace(LONG, n=2), session=SESSION)
        (before,) = runtime.ledger._lineage._turns.values()
        assert before.memory.read
    assert rows(path, "SELECT count(*) FROM ledger_spoken") == [(2,)]
    for file in path.parent.glob("mlxd.sqlite3*"):
        assert b"What is in a?" not in file.read_bytes(), "what was asked is not kept"
    async with process(path) as runtime:
        (after,) = runtime.ledger._lineage._turns.values()
        assert replace(after, at_s=before.at_s) == before  # to the microsecond
        assert len(runtime.echoes.store) == 1, "both said the same"


@pytest.mark.parametrize(
    ("body", "counted"),
    [("zeroblob(20)", "unknown_version"), ("substr(body, 1, 30)", "damaged"), ("body || x'00'", "damaged"),
     ("x''", "damaged"), ("CAST(x'09' || substr(body, 2) AS BLOB)", "unknown_version")],
)  # fmt: skip
async def test_rows_that_cannot_be_read_are_counted_and_left_alone(path: Path, body: str, counted: str) -> None:
    async with process(path, speaking("the quick fox")) as runtime:
        said, _ = await answer(runtime, talk(*ASK), LONG, session=SESSION)
        await answer(runtime, talk(user("b")), LONG, session=SESSION)
    rows(path, f"UPDATE ledger_spoken SET body = CAST({body} AS BLOB) WHERE rowid = 1")
    rows(path, f"UPDATE ledger_memory SET body = CAST({body} AS BLOB)")
    async with process(path) as runtime:
        assert len(runtime.echoes.store) == 1 and len(runtime.ledger._lineage) == 2
        assert runtime.ledger.shelf_counts[counted] == 2 + 1
        await answer(runtime, talk(*ASK, said, user("more")), LONG)
        assert outcomes(runtime) == {"not_found": 1}


async def test_a_body_that_came_under_another_place_is_nobodys(path: Path) -> None:
    async with process(path, speaking("the quick fox")) as runtime:
        for question in ("a", "b"):
            await answer(runtime, talk(user(question)), LONG)
    rows(path, "UPDATE ledger_spoken SET body = (SELECT body FROM ledger_spoken WHERE rowid = 2) WHERE rowid = 1")
    async with process(path) as runtime:
        assert len(runtime.echoes.store) == 1 and runtime.ledger.shelf_counts["damaged"] == 1


async def test_a_foreign_conversation_asks_nothing_of_the_disk(path: Path) -> None:
    said = [one for at in range(100) for one in (assistant(f"yes {at}"), assistant("", call(f"strange{at}")))]
    foreign = talk(*ASK, *said, user("more"))
    async with process(path, speaking("the quick fox")) as runtime:
        await answer(runtime, talk(*ASK), LONG)
        began_s = time.perf_counter()
        await answer(runtime, foreign, replace(LONG, max_tokens=1))
        assert time.perf_counter() - began_s < 60
        assert outcomes(runtime) == {"not_found": 199, "refused_edited": 1}
        assert "looked_up" not in runtime.ledger.shelf_counts


async def test_a_disk_that_does_not_answer_holds_no_request_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with process(path, speaking("the quick fox")) as runtime:
        said, _ = await answer(runtime, talk(*ASK), LONG)
    monkeypatch.setattr(disk, "SEEK_S", 0.05)
    async with process(path, restores=False) as runtime:
        answers = threading.Event()
        stalled = asyncio.create_task(runtime.ledger.seek(lambda _: answers.wait(60)))
        await asyncio.sleep(0)  # it has the thread
        await answer(runtime, talk(*ASK, said, user("more")), LONG)
        assert outcomes(runtime) == {"not_found": 1}
        answers.set()
        with pytest.raises(LedgerUnavailable):
            await stalled


async def test_the_workers_thread_understands_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def noting(*arguments: Any, **rest: Any) -> Any:
        threads.append(threading.current_thread().name)
        return real(*arguments, **rest)

    real = raw_turn
    monkeypatch.setattr(listening, "raw_turn", noting)
    async with process(path, speaking("the quick fox")) as runtime:
        await answer(runtime, talk(*ASK), LONG)
        monkeypatch.setattr(listening, "OFF_LOOP_IDS", 1)
        await answer(runtime, talk(*ASK), LONG)
    assert threads[0] == threading.main_thread().name and threads[1].startswith("asyncio_")


async def test_a_fault_in_understanding_costs_no_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(listening, "raw_turn", broken)
    async with process(path, speaking("the quick fox")) as runtime:
        said, _ = await answer(runtime, talk(*ASK), LONG)
        assert said.text == "the quick fox" and len(runtime.ledger._lineage) == 1


async def test_a_session_that_is_forgotten_leaves_nothing_and_takes_no_other_with_it(path: Path) -> None:
    async with process(path, speaking("a-very-particular-phrase")) as runtime:
        said = {name: (await answer(runtime, talk(*ASK), LONG, session=name))[0] for name in (SESSION, "b" * 32)}
        await answer(runtime, talk(*ASK, said[SESSION], user("more")), LONG, session=SESSION)
        store, gone = runtime.echoes.store, list[Said]()

        def forget(one: Said) -> None:
            gone.append(one)
            store.forget(one.place, [one.turn])

        began_s = time.monotonic()
        assert await runtime.ledger.forget(SESSION, forget)
        assert time.monotonic() - began_s < 60
        assert len(gone) == 2 and len(store) == 0 and len(runtime.ledger._lineage) == 1
        assert await runtime.ledger.read(read.session_owner, SESSION) is None
        for table in ("spoken", "memory", "turn", "generation", "session"):
            assert rows(path, f"SELECT count(*) FROM ledger_{table}") == [(1,)], table
        await answer(runtime, talk(*ASK, said["b" * 32], user("more")), LONG, session="b" * 32)
        assert outcomes(runtime)["not_needed"] == 2, "the other session's is looked up"
        path.with_name("mlxd.sqlite3.bak").write_bytes(b"a-very-particular-phrase")
        assert any(b"a-very-particular-phrase" in text for text in on_disk(path)), "or the next line shows nothing"
        assert await runtime.ledger.forget("b" * 32, forget)
        assert not any(b"a-very-particular-phrase" in text for text in on_disk(path))


async def test_what_became_no_turn_goes_with_its_session(path: Path) -> None:
    """An answer of several whose request was given up, on the disk; and one that only memory has."""
    turn = SpokenTurn(RawTurn.of([1, 2, 3]), "a-very-particular-phrase")
    async with process(path) as runtime:
        store = runtime.echoes.store
        for name in (SESSION, "b" * 32):
            record = replace(RECORD, request_id=name, session=name)
            place = store.remember("scope", Prefix(name.encode()), turn, name)
            assert place is not None
            runtime.ledger.note(record, [Said(place, turn)])
        await until_written(runtime, 2)
        assert runtime.echoes.forget(SESSION) == 1 and len(store) == 1
        found: list[Said] = []
        assert await runtime.ledger.forget(SESSION, found.append) == 2
        assert len(found) == 1
        for table in ("spoken", "generation"):
            assert rows(path, f"SELECT session FROM ledger_{table}") == [("b" * 32,)], table
        assert runtime.echoes.forget("b" * 32) == 1 and len(store) == 0 == store.nbytes
        assert await runtime.ledger.forget("b" * 32, found.append) == 2
        assert not any(b"a-very-particular-phrase" in text for text in on_disk(path))


async def test_a_request_that_runs_while_its_session_is_forgotten_leaves_nothing(path: Path) -> None:
    async with process(path) as runtime:
        ledger = runtime.ledger
        placed = ledger._lineage.place(Asked((b"m",), session=SESSION, named=True, at_s=time.time()))
        record = replace(RECORD, session=SESSION, began_s=time.time())
        await ledger.forget(SESSION, lambda _: None)
        await ledger.settle(record, placed, (b"answer",))
        ledger.note(record)
        assert len(ledger._lineage) == 0
        await ledger.settle(replace(record, began_s=time.time() + 1), placed, (b"answer",))
        assert len(ledger._lineage) == 1, "a later one is a conversation like any other"
        await until_written(runtime, 2)
        assert rows(path, "SELECT count(*) FROM ledger_generation") == [(1,)]


async def test_who_reads_meanwhile_finds_the_log_emptied_behind_them(path: Path) -> None:
    model = speaking("a-very-particular-phrase")
    async with process(path, model) as runtime:
        await answer(runtime, talk(*ASK), LONG, session=SESSION)
        model.says = "something else"
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM ledger_turn").fetchone()
            assert await runtime.ledger.forget(SESSION, lambda _: None)
            assert rows(path, "SELECT count(*) FROM ledger_turn") == [(0,)]
            assert any(b"a-very-particular-phrase" in text for text in on_disk(path)), (
                "or there was nothing to wait for"
            )
        for number in range(EVERY_WRITES + 1):
            await answer(runtime, talk(user(f"{number}")), LONG)
        until_s = time.monotonic() + 60
        while any(b"a-very-particular-phrase" in text for text in on_disk(path)):
            assert time.monotonic() < until_s, "it is still there"
            await asyncio.sleep(0.01)


def on_disk(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in path.parent.glob("mlxd.sqlite3*")]


async def until_written(runtime: Runtime, count: int) -> None:
    until_s = time.monotonic() + 60
    while runtime.ledger.view().journal.written < count:
        assert time.monotonic() < until_s, "it was not written"
        await asyncio.sleep(0.01)


async def test_while_the_disk_is_out_only_so_much_content_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MAX_WAITING_CONTENT", 0)
    async with process(path, speaking("the quick fox")) as runtime:
        said, _ = await answer(runtime, talk(*ASK), LONG)
        await answer(runtime, talk(*ASK, said, user("more")), LONG)
        assert outcomes(runtime) == {"not_needed": 1}, "memory has it"
        assert runtime.ledger.shelf_counts == {"left_out": 2}
    assert rows(path, "SELECT count(*) FROM ledger_turn") == [(2,)]
    assert rows(path, "SELECT count(*) FROM ledger_spoken") == [(0,)]


@pytest.mark.parametrize("bound", ["CONTENT_ROWS", "CONTENT_BYTES"])
async def test_the_oldest_content_makes_room_and_turns_stay(
    path: Path, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with process(path, speaking("the quick fox")) as runtime:
        for number in range(9):
            await answer(runtime, talk(user(f"{number}")), LONG)
    ((size,),) = rows(path, "SELECT max(size) FROM ledger_spoken")
    monkeypatch.setattr(retention, "CHUNK", 2)
    monkeypatch.setattr(retention, bound, 4 if bound == "CONTENT_ROWS" else 4 * size)
    sweeps = 1
    while await asyncio.to_thread(swept):
        sweeps += 1
    assert sweeps >= 3, "a little at a time"
    assert rows(path, "SELECT rowid FROM ledger_spoken") == [(6,), (7,), (8,), (9,)]
    assert rows(path, "SELECT count(*) FROM ledger_turn") == [(9,)]


def swept() -> bool:
    from django.db import connection

    try:
        return retention.sweep(0)
    finally:
        connection.close()


async def test_what_was_read_up_to_old_turns_is_not_read_at_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with process(path, speaking("the quick fox")) as runtime:
        for number in range(4):
            await answer(runtime, talk(user(f"{number}")), LONG, session=SESSION)
    monkeypatch.setattr(content, "MAX_MEMORIES", 3)
    async with process(path) as runtime:
        assert [bool(turn.memory.read) for turn in runtime.ledger._lineage._turns.values()] == [False, True, True, True]
