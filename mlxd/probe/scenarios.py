"""What is asked, in which order, and what of the answers goes into the next question.

A scenario is a generator: it yields waves of requests that are to be under way together, and is sent their answers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Final

from mlxd.probe.agents import drift, pi, stripped
from mlxd.probe.asks import Ask, Message, Play, Wave
from mlxd.probe.content import prose


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _say(
    session: str, history: Sequence[Message], text: str
) -> Generator[Wave, Sequence[Message], tuple[Message, ...]]:
    """One turn alone; the conversation with its answer."""
    asked = (*history, _user(text))
    (answer,) = yield [Ask(session, asked)]
    return (*asked, answer)


def normal() -> Play:
    """Eight turns of one conversation, each on top of the last."""
    history: tuple[Message, ...] = (_system(prose("normal", 700)),)
    for turn in range(8):
        history = yield from _say("normal", history, prose(f"normal {turn}", 90))


def insert() -> Play:
    """A sentence is put into the third of six turns; the conversation goes on from there."""
    history: tuple[Message, ...] = (_system(prose("insert", 600)),)
    for turn in range(6):
        history = yield from _say("insert", history, prose(f"insert {turn}", 80))
    edited = [*history]
    words = edited[5]["content"].split()
    edited[5] = _user(" ".join([*words[:40], prose("inserted", 12), *words[40:]]))
    history = tuple(edited)
    for turn in range(6, 8):
        history = yield from _say("insert", history, prose(f"insert {turn}", 80))


def branch() -> Play:
    """Two other ways on from the second turn of a conversation, then on with the conversation itself."""
    trunk: tuple[Message, ...] = (_system(prose("branch", 600)),)
    ends: list[tuple[Message, ...]] = []
    for turn in range(4):
        trunk = yield from _say("branch", trunk, prose(f"branch {turn}", 80))
        ends.append(trunk)
    for way in ("left", "right"):
        history = ends[1]
        for turn in range(2):
            history = yield from _say(f"branch {way}", history, prose(f"branch {way} {turn}", 80))
    yield from _say("branch", trunk, prose("branch back", 80))


def fanout() -> Play:
    """An orchestrator starts three agents at once; they share a long system prompt that nobody has sent before."""
    orchestrator: tuple[Message, ...] = (_system(prose("orchestrator", 500)),)
    orchestrator = yield from _say("orchestrator", orchestrator, prose("orchestrate", 60))
    shared = _system(prose("agents", 1200))
    histories: list[tuple[Message, ...]] = [(shared, _user(prose(f"agent {one}", 40))) for one in range(3)]
    for turn in range(2):
        answers = yield [Ask(f"agent {one}", history) for one, history in enumerate(histories)]
        histories = [
            (*history, answer, _user(prose(f"agent {one} {turn}", 40)))
            for one, (history, answer) in enumerate(zip(histories, answers, strict=True))
        ]
    yield from _say("orchestrator", orchestrator, prose("orchestrate on", 60))


def sides() -> Play:
    """A conversation with small calls of its client in between: a title, a commit message, a check of a topic."""
    history: tuple[Message, ...] = (_system(prose("sides", 700)),)
    for turn in range(6):
        history = yield from _say("sides", history, prose(f"sides {turn}", 90))
        aside = (_system(f"Write a title. {prose(f'side {turn % 3}', 40)}"), _user(prose(f"side of {turn}", 50)))
        yield [Ask(f"aside {turn}", aside)]


def interleaved() -> Play:
    """Twelve conversations in turns, four rounds: who comes back finds its own again."""
    said: list[tuple[Message, ...]] = [(_system(prose(f"interleaved {one}", 500)),) for one in range(12)]
    for turn in range(4):
        for one in range(12):
            said[one] = yield from _say(f"session {one}", said[one], prose(f"interleaved {one} {turn}", 50))


def semantic() -> Play:
    """A word near the beginning changes its meaning: what follows it must be computed again, and it must be said."""
    first, *rest = prose("semantic", 700).split(" ", 1)
    history: tuple[Message, ...] = (_system(f"{first} deploy {rest[0]}"),)
    for turn in range(3):
        history = yield from _say("semantic", history, prose(f"semantic {turn}", 80))
    history = (_system(f"{first} destroy {rest[0]}"), *history[1:])
    for turn in range(3, 5):
        history = yield from _say("semantic", history, prose(f"semantic {turn}", 80))


SCENARIOS: Final[dict[str, Callable[[], Play]]] = {
    play.__name__: play for play in (normal, insert, branch, fanout, sides, interleaved, semantic, drift, stripped, pi)
}
