"""Generations on their way through the ledger to a real database: what is there when the last event is read."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pytest_django.plugin import DjangoDbBlocker

from inference.conversation import difference
from inference.conversation.difference import Reading
from inference.conversation.lineage import Lineage
from inference.conversation.meaning import meaning_of
from inference.errors import GenerationFailed
from inference.events import Admitted, Delta, Event, Failed, Finished, FinishReason, Parting, ToolCallDelta, Usage
from inference.messages import Conversation, Message, Role, TextPart, ToolCall
from inference.tokens import Boundary, Prompt, SourceMap, Span
from mlxd.ledger import disk as disk_room
from mlxd.ledger import journal as journal_room
from mlxd.ledger import read
from mlxd.ledger.asked import asked_of
from mlxd.ledger.disk import open_ledger
from mlxd.ledger.ledger import Ledger, LedgerUnavailable
from mlxd.ledger.recorded import Known, Recorded
from mlxd.ledger.whose import Whose
from mlxd.ledger.witness import Witness
from tests.integration.api_scripted import ScriptedGeneration
from tests.ledger_database import database_at
from tests.tokenizers_in_code import text_model

PROMPT = Prompt(
    tuple(range(10)),
    boundaries=(Boundary(0, 1), Boundary(1, 5)),
    source=SourceMap((Span(0, 6, ""), Span(6, 10, "messages[1].content"))),
)


class Generation(ScriptedGeneration):
    id = "req_1"

    def __init__(self, script: Iterable[Event | float | Exception]) -> None:
        super().__init__(script)
        self.prompt = PROMPT


def message(role: str, text: str = "", *calls: ToolCall) -> Message:
    return Message(Role(role), (TextPart(text),) if text else (), tool_calls=calls)


def talk(*texts: str) -> Conversation:
    """`user, assistant, user …` behind one instruction."""
    roles = ("user", "assistant") * len(texts)
    spoken = (message(role, text) for role, text in zip(roles, texts, strict=False))
    return Conversation((message("system", "be brief"), *spoken))


def finished(reason: FinishReason = FinishReason.STOP, *, choice: int = 0, verdict: str = "extended") -> Finished:
    return Finished(reason, Usage(10, cached_tokens=6, completion_tokens=2, verdict=verdict), choice=choice)


@pytest.fixture
def path(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as place:
        yield place


@asynccontextmanager
async def opened(path: Path, days: float = 0) -> AsyncIterator[Ledger]:
    ledger = await asyncio.to_thread(open_ledger, path, days=days)  # Django refuses to block a loop, and rightly so
    try:
        yield ledger
    finally:
        ledger.close()


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    async with opened(path) as made:
        yield made


def placed(ledger: Ledger, conversation: Conversation | None, whose: Whose) -> Known:
    return ledger.place(None if conversation is None else asked_of(meaning_of(conversation), whose), whose)


async def run(
    ledger: Ledger, conversation: Conversation | None, *script: Event | float, whose: Whose | None = None
) -> list[Event]:
    known = placed(ledger, conversation, whose or Whose(session="s", named=True))
    recorded = Recorded(Generation(script), known, ledger)
    return [event async for batch in recorded for event in batch]


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


async def test_a_turn_is_on_the_disk_before_its_last_event_is_read(ledger: Ledger, path: Path) -> None:
    known = placed(ledger, talk("hello"), Whose(session="s", named=True))
    recorded = Recorded(Generation([Admitted("r", 10), Delta("Hi"), 0.0, finished()]), known, ledger)
    await recorded.next_batch()
    assert rows(path, "SELECT count(*) FROM ledger_turn") == [(0,)]
    await recorded.next_batch()
    found = rows(path, "SELECT edge, messages, session_id FROM ledger_turn")
    assert found == [("start", 2, "s")]
    assert rows(path, "SELECT outcome, cached_tokens, prefilled_tokens, edge FROM ledger_generation") == [
        ("stop", 6, 4, "start")
    ]


async def test_echoes_hang_behind_each_other_whatever_their_form(ledger: Ledger) -> None:
    call = ToolCall("call_1", "ls", '{"path": "/", "all": true}')
    await run(ledger, talk("hello"), Delta("Thinking"), ToolCallDelta(0, "call_1", "ls", '{"path": "/",'),
              ToolCallDelta(0, "", "", ' "all": true}'), finished(FinishReason.TOOL_CALLS))  # fmt: skip
    echo = message("assistant", " Thinking\n", ToolCall("call1", "ls", '{"all":true,"path":"\\/"}'))
    told = (*talk("hello").messages, echo, Message(Role.TOOL, (TextPart("a b"),), tool_call_id="call1"))
    assert call.arguments != echo.tool_calls[0].arguments
    await run(ledger, Conversation(told), Delta("Two files."), finished())
    (session,) = await ledger.read(read.sessions, None, 10, None)
    shown = await ledger.read(read.session, None, session["id"], 10, None)
    assert shown is not None and [turn["edge"] for turn in shown["turns"]] == ["extend", "start"]
    assert shown["turns"][0]["parent"] == shown["turns"][1]["id"]


async def test_after_a_restart_the_conversation_resumes(path: Path) -> None:
    async with opened(path) as ledger:
        await run(ledger, talk("hello"), Delta("Hi"), finished())
    async with opened(path) as ledger:
        await run(ledger, talk("hello", "Hi", "more"), Delta("Yes"), finished())
        await run(ledger, talk("hello", "Hi", "more", "Yes", "on"), Delta("No"), finished())
    edges = rows(path, "SELECT edge, known_messages, line FROM ledger_turn ORDER BY id")
    assert [edge[:2] for edge in edges] == [("start", 0), ("resume", 3), ("extend", 5)]
    assert len({line for _, _, line in edges}) == 1


async def test_what_ends_otherwise_is_noted_and_is_no_turn(ledger: Ledger, path: Path) -> None:
    await run(ledger, talk("a"), Delta("x"), Failed(GenerationFailed("broken")))
    await run(ledger, None, Delta("completion"), finished(FinishReason.LENGTH))
    known = placed(ledger, talk("b"), Whose())
    left = Recorded(Generation([Delta("x"), 60.0]), known, ledger)
    await left.next_batch()
    left.cancel()
    left.cancel()
    ledger.close()
    outcomes = rows(path, "SELECT outcome, turn_id FROM ledger_generation ORDER BY began_at")
    assert outcomes == [(GenerationFailed.code, None), ("length", None), ("cancelled", None)]
    assert rows(path, "SELECT count(*) FROM ledger_turn") == [(0,)]


async def test_what_is_left_says_how_warm_it_began(ledger: Ledger, path: Path) -> None:
    left = Recorded(Generation([Admitted("r", 10, 6, "branched"), Delta("x"), 60.0]), Known(Whose()), ledger)
    await left.next_batch()
    left.cancel()
    ledger.close()
    told = rows(path, "SELECT outcome, verdict, cached_tokens, prefilled_tokens FROM ledger_generation")
    assert told == [("cancelled", "branched", 6, left.prompt_tokens - 6)]


async def test_each_of_several_answers_can_be_gone_on_from(ledger: Ledger) -> None:
    whose = Whose(session="s", named=True, choices=2)
    await run(
        ledger, talk("hello"), Delta("A", choice=0), Delta("B", choice=1), finished(), finished(choice=1), whose=whose
    )
    for answer in ("A", "B"):
        known = placed(ledger, talk("hello", answer, "more"), whose)
        assert known.placed is not None and known.placed.parent is not None
    known = placed(ledger, talk("hello", "C", "more"), whose)
    assert known.placed is not None and known.placed.parent is None


async def test_where_a_prompt_diverged_is_told(ledger: Ledger) -> None:
    sent = Conversation(tuple(replace(one, path=f"messages[{at}]") for at, one in enumerate(talk("hello").messages)))
    await run(ledger, sent, Delta("Hey"), finished(), whose=Whose(session="s", named=True))
    known = placed(ledger, sent, Whose(session="s", named=True))
    reading = Reading(text_model().tokenizer, PROMPT, sent)
    known = replace(known, observed=Witness().observe(reading, sent, known.placed))
    parted = Finished(FinishReason.STOP, Usage(10, verdict="diverged(token 7)", parting=Parting(7, (9, 9))))
    recorded = Recorded(Generation([Delta("Hi"), parted]), known, ledger)
    [told] = [event for batch in [batch async for batch in recorded] for event in batch if isinstance(event, Finished)]
    assert told.usage.verdict == "diverged(messages[1].content, token 7)"
    (session,) = await ledger.read(read.sessions, None, 10, None)
    listed = await ledger.read(read.session, None, session["id"], 10, None)
    assert listed is not None
    (generation,) = listed["turns"][0]["generations"]
    where = {"token": 7, "message": 1, "path": "messages[1].content", "rule": ""}
    assert (generation["diverged"], generation["verdict"]) == (where, told.usage.verdict)
    shown = await ledger.read(read.turn, None, listed["turns"][0]["id"])
    text = partial(difference.shown, text_model().tokenizer)
    texts = {"before": text(range(7)), "sent": text(range(7, 10)), "stored": text((9, 9))}
    assert shown is not None and shown["generations"][0]["diverged"] == where | texts


async def test_the_loop_and_the_caller_never_touch_the_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()

    def noting[**P, T](real: Callable[P, T]) -> Callable[P, T]:
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            threads.add(threading.current_thread().name)
            return real(*args, **kwargs)

        return called

    from django.db.backends.sqlite3.base import SQLiteCursorWrapper

    async with opened(path, days=7) as ledger:
        monkeypatch.setattr(SQLiteCursorWrapper, "execute", noting(SQLiteCursorWrapper.execute))
        await run(ledger, talk("hello"), Delta("Hi"), finished())
        await ledger.read(read.sessions, None, 10, None)
    assert {name.partition("_")[0] for name in threads} == {"journal", "ledger-read"}


async def test_a_stalled_disk_holds_an_answer_back_for_a_while_and_the_loop_not_at_all(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(ledger, talk("hello"), Delta("Hi"), finished())
    ledger._disk._journal._stall_s = 1.0  # type: ignore[union-attr]
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        beats, beating = [], True

        async def beat() -> None:
            while beating:
                beats.append(time.monotonic())
                await asyncio.sleep(0.01)

        pulse = asyncio.create_task(beat())
        began_s = time.monotonic()
        events = await run(ledger, talk("hello", "Hi", "more"), Delta("Yes"), finished())
        waited_s = time.monotonic() - began_s
        beating = False
        await pulse
        assert isinstance(events[-1], Finished) and 0.9 < waited_s < 30
        assert len(beats) > 10, "the loop went on: every 10 ms, were nothing else running"
        known = placed(ledger, talk("hello", "Hi", "more", "Yes", "on"), Whose(session="s", named=True))
        assert known.placed is not None and known.placed.edge.value == "extend", "memory does not wait for the disk"
        late_s = time.monotonic() + 60
        while ledger.view().disk == "ok" and time.monotonic() < late_s:  # the journal may have begun after us
            await asyncio.sleep(0.01)
        assert ledger.view().disk == "stalled" and ledger.view().journal.undurable == 1
        holder.execute("ROLLBACK")
    until_s = time.monotonic() + 60
    while ledger.view().journal.written < 2 and time.monotonic() < until_s:
        await asyncio.sleep(0.01)
    assert rows(path, "SELECT count(*) FROM ledger_turn") == [(2,)]


async def test_a_disk_that_will_have_no_database_leaves_the_memory(path: Path) -> None:
    path.with_name(f"{path.name}-wal").mkdir()  # SQLite cannot make its log
    async with opened(path) as ledger:
        await run(ledger, talk("hello"), Delta("Hi"), finished())
        known = placed(ledger, talk("hello", "Hi", "more"), Whose(session="s", named=True))
        assert known.placed is not None and known.placed.edge.value == "extend"
        assert ledger.view().disk not in ("ok", "off") and ledger.view().turns == 1
        with pytest.raises(LedgerUnavailable):
            await ledger.read(read.sessions, None, 10, None)


async def test_a_fault_of_the_ledger_is_no_fault_of_the_answer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(disk_room, "turn_write", broken)
    events = await run(ledger, talk("hello"), Delta("Hi"), finished())
    assert isinstance(events[-1], Finished)
    monkeypatch.setattr(Lineage, "place", broken)
    assert isinstance((await run(ledger, talk("b"), finished()))[-1], Finished)


async def test_owners_see_only_their_own(ledger: Ledger) -> None:
    await run(ledger, talk("hello"), finished(), whose=Whose("alice", "sa", True))
    await run(ledger, talk("hello"), finished(), whose=Whose("bob", "sb", True))
    for owner, session in (("alice", "sa"), ("bob", "sb")):
        (found,) = await ledger.read(read.sessions, owner, 10, None)
        assert found["id"] == session
        turns = (await ledger.read(read.session, owner, session, 10, None) or {})["turns"]
        other = "bob" if owner == "alice" else "alice"
        assert await ledger.read(read.session, other, session, 10, None) is None
        assert await ledger.read(read.turn, other, turns[0]["id"]) is None
        assert await ledger.read(read.turn, owner, turns[0]["id"]) is not None
    assert len(await ledger.read(read.sessions, None, 10, None)) == 2


async def test_pages_go_back_through_everything_once(ledger: Ledger) -> None:
    for number in range(7):
        await run(ledger, talk("hello"), finished(), whose=Whose("", f"s{number}", True))
    seen: list[str] = []
    before: tuple[float, str] | None = None
    while page := await ledger.read(read.sessions, None, 3, before):
        seen += [row["id"] for row in page]
        before = (float(f"{page[-1]['touched_s']:.6f}"), page[-1]["id"])
    assert seen == [f"s{number}" for number in reversed(range(7))]


async def test_old_turns_are_forgotten_and_young_ones_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_room, "CHORE_PAUSE_S", 0.01)
    monkeypatch.setattr("mlxd.ledger.retention.CHUNK", 3)
    real = time.time
    async with opened(path, days=0) as ledger:
        monkeypatch.setattr(time, "time", lambda: real() - 8 * 86_400)
        for number in range(8):
            await run(ledger, talk(f"old {number}"), finished(), whose=Whose("", f"old{number}", True))
        await run(ledger, None, Delta("old completion"), finished())
        monkeypatch.setattr(time, "time", real)
        await run(ledger, talk("old 0", "", "young"), finished(), whose=Whose("", "old0", True))
    assert rows(path, "SELECT count(*) FROM ledger_turn") == [(9,)]
    async with opened(path, days=7):
        until_s = time.monotonic() + 60
        while rows(path, "SELECT count(*) FROM ledger_session") != [(1,)] and time.monotonic() < until_s:
            await asyncio.sleep(0.02)
    assert rows(path, "SELECT id FROM ledger_session") == [("old0",)]
    assert rows(path, "SELECT count(*) FROM ledger_turn") == [(1,)]
    assert rows(path, "SELECT count(*) FROM ledger_generation") == [(1,)]


async def test_nothing_is_kept_of_what_nobody_listens_to(ledger: Ledger, path: Path) -> None:
    secret = "a-very-particular-phrase"
    await run(ledger, talk(secret), Delta(f"{secret} again"), finished())
    ledger.close()
    for file in path.parent.glob("mlxd.sqlite3*"):
        assert secret.encode() not in file.read_bytes()
