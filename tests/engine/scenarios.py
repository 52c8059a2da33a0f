"""What is asked of a store, in which order, and the law that holds for all of it: warm equals cold.

Every scenario is a generator that yields requests which are under way together and is sent their answers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from inference.events import FinishReason
from inference.ports import Job
from inference.tokens import TokenIds
from tests import tiny_models
from tests.engine.warm_rows import CLOSE, Answer, BruteForce, WarmModel, ask

ids = tiny_models.prompt_ids
Scenario = Generator[list[Job], Mapping[str, Answer], None]


def linear() -> Scenario:
    """Turns on top of each other, of lengths that end on, before and behind the grid."""
    text: TokenIds = ids(300)
    for turn, more in enumerate((20, 181, 256, 1, 255)):
        answers = yield [ask(f"t{turn}", text)]
        text = (*answers[f"t{turn}"].ids, *ids(more, seed=turn))


def repeat() -> Scenario:
    for turn in range(2):
        yield [ask(f"t{turn}", ids(513))]


def branch() -> Scenario:
    answers = yield [ask("trunk", ids(600))]
    trunk = answers["trunk"].ids
    for turn, at in enumerate((40, 256, 511, 599, len(trunk))):
        yield [ask(f"way{turn}", (*trunk[:at], *ids(90, seed=turn)))]
    yield [ask("on", (*trunk, *ids(30, seed=9)))]


def edit() -> Scenario:
    """Some tokens in the middle change, and the conversation goes on from there."""
    text: TokenIds = ids(700)
    yield [ask("before", text)]
    text = (*text[:333], *ids(12, seed=1), *text[340:])
    answers = yield [ask("edited", text)]
    yield [ask("on", (*answers["edited"].ids, *ids(60, seed=2)))]


def long_answer() -> Scenario:
    """Decode fills blocks and goes far beyond any window."""
    answers = yield [ask("long", ids(200), max_tokens=120)]
    text = answers["long"].ids
    yield [ask("on", (*text, *ids(20, seed=1)))]
    yield [ask("back", (*text[:290], *ids(20, seed=2)))]


def stopped() -> Scenario:
    """Ended by a stop token, which the template then writes too; and by length, where it does not."""
    free = yield [ask("free", ids(280, seed=4), max_tokens=12, scope=None)]
    drawn = free["free"].tokens
    stop = next(token for at, token in enumerate(drawn) if at > 2 and token not in drawn[:at])
    answers = yield [ask("stopped", ids(280, seed=4), max_tokens=12, stop_ids=frozenset([stop]))]
    assert answers["stopped"].outcome.finish is FinishReason.STOP
    text = (*answers["stopped"].ids, stop, *ids(25, seed=5))
    answers = yield [ask("length", text, max_tokens=5)]
    assert answers["length"].outcome.finish is FinishReason.LENGTH
    yield [ask("on", (*answers["length"].ids, *ids(25, seed=6)))]


def lane() -> Scenario:
    """Two rows from one prefix decode in one lane, and both leave blocks behind."""
    yield [ask("before", ids(400), max_tokens=1)]
    pair = [ask(f"pair{one}", (*ids(400), *ids(40 + 9 * one, seed=one)), max_tokens=40) for one in range(2)]
    answers = yield pair
    yield [ask(f"on{one.id}", (*answers[one.id].ids, *ids(20, seed=7))) for one in pair]


def agents() -> Scenario:
    """Three agents in turns, with a prefix in common."""
    texts = [(*ids(320), *ids(100, seed=one)) for one in range(3)]
    for turn in range(3):
        for one in range(3):
            answers = yield [ask(f"a{one}{turn}", texts[one])]
            texts[one] = (*answers[f"a{one}{turn}"].ids, *ids(35, seed=10 * one + turn))


def short() -> Scenario:
    """Prompts with which nothing, or next to nothing, can be shared."""
    for length in (1, 2, 1, 3):
        yield [ask(f"s{length}", ids(3)[:length], max_tokens=3)]


SCENARIOS = (linear, repeat, branch, edit, long_answer, stopped, lane, agents, short)


@dataclass(frozen=True)
class Played:
    """One request: the largest difference from its cold run, and tokens computed beyond those necessary."""

    answer: Answer
    gap: float
    waste: int


def law(
    warm: WarmModel, scenario: Callable[[], Scenario], exact: bool, close: float = CLOSE, **changes: Any
) -> list[Played]:
    """Plays a scenario warm and each of its requests cold. `exact`: computes no token more than necessary."""
    brute, told, waves = BruteForce(), list[Played](), scenario()
    wave = next(waves)
    while True:
        wave = [replace(one, **changes) for one in wave]
        answers = warm.play(*wave)
        for one in wave:
            answer, necessary = answers[one.id], brute.necessary(one.prompt.ids)
            told.append(Played(answer, answer.gap(warm.cold(one)), answer.computed - necessary))
            assert told[-1].gap < close, one.id
            if one.cache is not None:
                assert answer.computed >= necessary, f"{one.id} used what it cannot have"
                assert answer.computed == necessary or not exact, one.id
        for one in wave:
            if one.cache is not None:
                ended = answers[one.id].outcome.finish is FinishReason.STOP
                brute.saw(answers[one.id], *(one.stop_ids if ended else ()))
        try:
            wave = waves.send(answers)
        except StopIteration:
            return told
