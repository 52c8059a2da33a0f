"""Orchestrators, sub-agents and strangers in any interleaving: each finds its own last turn, and no line is cut across.

The lineage is compared with a naive one that keeps whole histories and searches all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.conversation import lineage as lineage_room
from inference.conversation.lineage import Lineage
from inference.conversation.turn_chain import Asked, Edge, Placed, Turn

type Words = tuple[str, ...]


def digests(words: Words) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(word.encode()).digest() for word in words)


@dataclass
class Naive:
    """Every finished turn with its whole history, and a search over all of them."""

    turns: list[tuple[Turn, str, Words]] = field(default_factory=list)

    def parent(self, asked: Words, owner: str, session: str) -> Turn | None:
        found = [
            (len(whole), bool(session) and turn.session == session + owner, at, turn)
            for at, (turn, whose, whole) in enumerate(self.turns)
            if whose == owner and len(whole) < len(asked) and asked[: len(whole)] == whole
        ]
        return max(found)[3] if found else None

    def known(self, asked: Words, owner: str) -> int:
        def common(whole: Words) -> int:
            return next((at for at, (a, b) in enumerate(zip(asked, whole)) if a != b), min(len(asked), len(whole)))  # noqa: B905

        return max((common(whole) for _, whose, whole in self.turns if whose == owner), default=0)


@dataclass
class Actor:
    """One agent: its history, and the request that is out. Agents may share a session, and even their beginning."""

    owner: str
    session: str
    history: Words
    out: tuple[Placed, Words] | None = None
    last: Turn | None = None


actors = st.lists(
    st.builds(
        Actor,
        owner=st.sampled_from(["", "key"]),
        session=st.sampled_from(["", "s1", "s2"]),
        history=st.sampled_from([("sys", "task"), ("sys", "other"), ("agent", "task")]),
    ),
    min_size=1,
    max_size=5,
)
moves = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["A", "B"]), st.sampled_from(["on", "off"]), st.integers(0, 6)),
    max_size=30,
)


def play(everyone: list[Actor], script: list[tuple[int, str, str, int]]) -> tuple[Lineage, Naive]:
    """Each move of an actor sends a request, or finishes the one that is out; some requests are never finished."""
    lineage, naive = Lineage(), Naive()
    for who, answer, word, chance in script:
        actor = everyone[who % len(everyone)]
        if actor.out is None:
            check_place(lineage, naive, actor)
            continue
        placed, asked = actor.out
        actor.out = None
        if chance == 0:  # the client left: it will ask the same again
            continue
        before = {turn.line: lineage.tip(turn.line) for turn, _, _ in naive.turns}
        turn = lineage.commit(placed, digests((answer,)))
        check_commit(lineage, before, turn, placed)
        naive.turns.append((turn, actor.owner, (*asked, answer)))
        actor.last, actor.history = turn, (*asked, answer, word)
        if chance == 1 and len(actor.history) > 4:
            actor.history = (*actor.history[:3], "edited")  # the person changed an old message
            actor.last = None
    return lineage, naive


def check_place(lineage: Lineage, naive: Naive, actor: Actor) -> None:
    asked = Asked(
        digests(actor.history), 1, b"", actor.session and actor.session + actor.owner, bool(actor.session), actor.owner
    )
    placed = lineage.place(asked)
    expected = naive.parent(actor.history, actor.owner, actor.session)
    assert placed.parent == expected
    assert placed.known_messages == naive.known(actor.history, actor.owner)
    if actor.last is not None:  # nobody else can stand between an actor and its own last turn, but for its equals
        assert placed.parent is not None and placed.parent.ends[0] == actor.last.ends[0]
        assert actor.session == "" or placed.session == actor.last.session
    actor.out = (placed, actor.history)


def check_commit(lineage: Lineage, before: dict[str, Turn | None], turn: Turn, placed: Placed) -> None:
    for line, tip in before.items():
        if line != turn.line:
            assert lineage.tip(line) == tip, "another line was moved"
    if turn.line in before:  # a record moved: only by a strict extension of what it held
        tip = before[turn.line]
        assert tip is not None and turn.parent == tip.id and placed.parent == tip
        assert tip.ends[0] in placed.hashes[:-1]
        assert turn.edge in (Edge.EXTEND, Edge.RESUME)
    else:
        assert turn.line == turn.id


@given(everyone=actors, script=moves)
def test_any_interleaving_finds_the_parents_of_a_naive_search(
    everyone: list[Actor], script: list[tuple[int, str, str, int]]
) -> None:
    lineage, naive = play(everyone, script)
    assert len(lineage) == len(naive.turns)


@given(everyone=actors, script=moves)
def test_restored_turns_stand_where_they_stood(everyone: list[Actor], script: list[tuple[int, str, str, int]]) -> None:
    lineage, naive = play(everyone, script)
    reborn = Lineage()
    reborn.restore([turn for turn, _, _ in naive.turns])
    for actor in everyone:
        asked = Asked(
            digests(actor.history),
            1,
            b"",
            actor.session and actor.session + actor.owner,
            bool(actor.session),
            actor.owner,
        )
        old, new = lineage.place(asked), reborn.place(asked)
        assert (old.parent, old.known_messages, old.beside) == (new.parent, new.known_messages, new.beside)
    for turn, _, _ in naive.turns:
        assert reborn.tip(turn.line) == lineage.tip(turn.line)


def unguarded(self: Lineage, placed: Placed, answers: tuple[bytes, ...]) -> Turn:
    """The fault that the guard is for: whoever finishes moves the line it began from."""
    if placed.parent is not None:
        self._tips[placed.parent.line] = placed.parent.id
    return GUARDED(self, placed, answers)


def shallow(self: Lineage, turn_ids: list[str], session: str) -> Turn:
    """The fault that the deepest, latest match is for."""
    return self._turns[turn_ids[0]]


GUARDED = Lineage.commit


@pytest.mark.parametrize(("name", "fault"), [("commit", unguarded), ("_nearest", shallow)])
def test_planted_faults_are_caught(name: str, fault: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions that say the same, and in each two agents that go on from the same turn at once."""
    everyone = [Actor("", session, ("sys", "task")) for session in ("s1", "s1", "s2")]
    script = [(who, "A", "on", 6) for who in (2, 2, 0, 0, 1, 1, 0, 1, 2, 0, 1, 2)]
    play([Actor(actor.owner, actor.session, actor.history) for actor in everyone], script)
    monkeypatch.setattr(lineage_room.Lineage, name, fault)
    with pytest.raises(AssertionError):
        play(everyone, script)
