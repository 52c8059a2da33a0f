"""Two turns side by side, by what the ledger keeps of them: never wrong, and exact where it says so."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
from pytest_django.plugin import DjangoDbBlocker

from inference.conversation.canonical import Prefix
from inference.conversation.difference import Difference, Why
from inference.conversation.healing import HealingStore, Said
from inference.conversation.lineage import Lineage
from inference.conversation.spoken import RawTurn, SpokenTurn
from inference.conversation.turn_chain import Asked, Turn
from inference.events import Usage
from mlxd.ledger.compare import compared
from mlxd.ledger.content import content_write
from mlxd.ledger.database import open_database
from mlxd.ledger.models import Turn as TurnRow
from mlxd.ledger.record import GenerationRecord
from mlxd.ledger.rows import turn_write
from tests.ledger_database import database_at

SPOKEN = SpokenTurn(RawTurn.of([1, 2]), "Done.")
RECORD = GenerationRecord("r", "", "tiny", "stop", "", Usage(9), 0, 0.0, 0.0)
WORDS = (b"a", b"b", b"c")


@pytest.fixture(autouse=True)
def path(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as place:
        open_database(place)
        yield place


class Told:
    """A lineage whose turns are written down."""

    def __init__(self) -> None:
        self.lineage, self.asked = Lineage(), dict[str, tuple[bytes, ...]]()

    def turn(
        self, *digests: bytes, answer: bytes = b"x", other: bytes = b"", session: str = "s",
        record: GenerationRecord = RECORD,
    ) -> str:  # fmt: skip
        asked = Asked(digests, heads=1, session=session, named=True, at_s=time.time())
        answers = (answer, other) if other else (answer,)
        turn = self.lineage.commit(self.lineage.place(asked), answers)
        said = content_write([_said(turn)], turn.at_s, turn)
        turn_write(turn, replace(record, request_id=turn.id), said, named=True)()
        self.asked[turn.id] = digests
        return turn.id


def _said(turn: Turn) -> Said:
    place = HealingStore().remember("scope", Prefix(turn.id.encode()), SPOKEN)
    assert place is not None
    return Said(place, SPOKEN)


@pytest.mark.parametrize("seed", range(6))
def test_it_says_what_the_whole_requests_would_say(seed: int) -> None:
    chance, told = random.Random(seed), Told()
    grown: list[tuple[bytes, ...]] = [(b"system",)]
    for _ in range(14):
        digests = chance.choice(grown)
        if chance.random() < 0.3:
            digests = digests[: chance.randint(1, len(digests))]
        digests += tuple(chance.choices(WORDS, k=chance.randint(1, 2)))
        answer = chance.choice((b"x", b"y"))
        told.turn(*digests, answer=answer, other=chance.choice((b"", b"z")), session=chance.choice("st"))
        grown.append((*digests, answer))
    for left, one in told.asked.items():
        for right, other in told.asked.items():
            common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
            shorter = min(len(one), len(other))
            found = compared(left, right) or {}
            assert found["exact"], "also where they do not go on from each other"
            assert found["message"] == (None if common == shorter else common)
            assert found["messages_in_common"] == common


def test_where_a_turn_on_the_way_is_gone_it_says_between_which_two(path: Path) -> None:
    told = Told()
    first = told.turn(b"system", b"ask", b"more", answer=b"said")
    second = told.turn(b"system", b"ask", b"more", b"said", b"then")
    other = told.turn(b"system", b"ask", b"else", session="t")
    TurnRow.objects.filter(public_id=first).delete()
    found = compared(second, other) or {}
    assert not found["exact"]
    assert found["messages_in_common"] <= 2 <= (found["message"] or 3)


def test_an_answer_is_shown_and_what_a_client_sent_is_not_kept() -> None:
    told = Told()
    told.turn(b"system", b"ask", answer=b"said")
    plain = told.turn(b"system", b"ask", b"said", b"more")
    edited = told.turn(b"system", b"ask", b"changed", b"more")
    other = told.turn(b"system", b"ask", b"said", b"else")

    found = compared(plain, edited) or {}
    assert (found["messages_in_common"], found["message"], found["exact"]) == (2, 2, True)
    assert (found["left"]["role"], found["left"]["text"]) == ("assistant", "Done.")
    assert (found["right"]["role"], found["right"]["text"]) == (None, None)
    found = compared(plain, other) or {}
    assert (found["message"], found["left"]["role"], found["left"]["text"]) == (3, None, None)


def test_instructions_and_tools_are_told_apart() -> None:
    told = Told()
    left, right = told.turn(b"one", b"ask"), told.turn(b"two", b"ask", session="t")
    found = compared(left, right) or {}
    assert (found["message"], found["messages_in_common"], found["tools_differ"]) == (0, 0, False)


def test_where_the_prompt_left_its_session_is_told() -> None:
    told = Told()
    left = told.turn(b"system", b"ask")
    difference = Difference(Why.DIVERGED, 7, 1, "messages[1].content", before="be", sent="now", stored="then")
    right = told.turn(b"system", b"asks", record=replace(RECORD, diverged=difference))
    found = compared(left, right) or {}
    assert found["left"]["diverged"] is None
    assert found["right"]["diverged"] == {"token": 7, "message": 1, "path": "messages[1].content", "rule": ""} | {
        "before": "be", "sent": "now", "stored": "then",
    }  # fmt: skip


def test_a_turn_that_is_not_there_cannot_be_compared() -> None:
    assert compared("0" * 32, Told().turn(b"system", b"ask")) is None
