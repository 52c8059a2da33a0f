"""Requests that come while what they need is being computed: it is computed once, and they decode together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from inference.cache.reuse import ReuseMode
from inference.cache.tree import PrefixTree
from inference.engine.runner import MlxRunner
from inference.params import CacheScope, SamplingParams
from inference.ports import Job, Started
from tests import tiny_models
from tests.engine.harness import Faulty, Loaded
from tests.engine.warm_rows import CLOSE, ROOM, Answer, BruteForce, WarmModel, ask

Load = Callable[[str], Loaded]
ids = tiny_models.prompt_ids
each_class = pytest.mark.parametrize("architecture", ["dense", "hybrid", "sliding"])
SHARED = ids(1500, seed=50)


def agents(count: int = 3, shared: tuple[int, ...] = SHARED, **fields: Any) -> list[Job]:
    """Sub-agents: one long prefix, and a task of its own for each."""
    return [ask(f"a{at}", (*shared, *ids(40 + 30 * at, seed=51 + at)), max_tokens=12, **fields) for at in range(count)]


class FirstTokens:
    """At which step each row drew its first token."""

    def __init__(self) -> None:
        self.step = 0
        self.at: dict[str, int] = {}

    def __call__(self, runner: MlxRunner) -> None:
        self.step += 1
        for lane in runner._lanes:
            for row in lane.rows:
                self.at.setdefault(row.job.id, self.step)


def computed(answers: Mapping[str, Answer]) -> int:
    return sum(one.computed for one in answers.values())


def necessary(jobs: list[Job]) -> int:
    """As if each had come when those before it had ended."""
    brute, total = BruteForce(), 0
    for one in jobs:
        total += brute.necessary(one.prompt.ids)
        brute.read.append(one.prompt.ids)
    return total


def all_right(warm: WarmModel, answers: Mapping[str, Answer]) -> bool:
    return all(one.gap(warm.cold(one.job)) < CLOSE for one in answers.values())


def test_who_begins_at_once_is_looked_up_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking whether to wait and beginning are one question, unless it waited: 100,000 tokens take milliseconds."""
    match, asked = PrefixTree.match, list[int]()

    def counted(self: PrefixTree, root: Any, packed: bytes, limit_tokens: int) -> Any:
        asked.append(limit_tokens)
        return match(self, root, packed, limit_tokens)

    monkeypatch.setattr(PrefixTree, "match", counted)
    warm = WarmModel(load("dense"))
    for length in (300, 340):
        warm.ask(ask(f"of{length}", SHARED[:length]))
    assert asked == [299, 339]


@each_class
def test_three_that_start_together_read_their_prefix_once(load: Load, architecture: str) -> None:
    """And their first tokens are at most three steps apart; recurrent layers get a state where they branch."""
    warm, first = WarmModel(load(architecture)), FirstTokens()
    jobs = agents()
    answers = warm.play(*jobs, each_step=first)
    assert computed(answers) == necessary(jobs) == 1500 + 40 + 70 + 100
    assert max(first.at.values()) - min(first.at.values()) <= 3
    assert all_right(warm, answers)


def test_bitwise_sharing_in_flight_is_cold_in_every_bit(load: Load) -> None:
    for architecture in ("dense", "hybrid"):
        warm = WarmModel(load(architecture), mode=ReuseMode.BITWISE)
        jobs = agents(2, ids(800, seed=50))
        answers = warm.play(*jobs)
        assert computed(answers) <= necessary(jobs) + 255
        assert all(one.gap(warm.cold(one.job)) < CLOSE for one in answers.values())


@each_class
def test_who_comes_while_the_prefix_is_half_computed_waits_for_the_rest(load: Load, architecture: str) -> None:
    """A claim's missing states are planned when somebody comes to wait for them, if it has not passed them."""
    warm = WarmModel(load(architecture))
    jobs = agents(4)
    answers = warm.play(*jobs, start_at={"a1": 1, "a2": 2, "a3": 2})
    assert computed(answers) == necessary(jobs)
    assert all_right(warm, answers)


@each_class
@pytest.mark.parametrize("step", [1, 2, 3])
def test_when_the_first_is_cancelled_another_goes_on(load: Load, architecture: str, step: int) -> None:
    warm = WarmModel(load(architecture))
    jobs = agents()
    answers = warm.play(*jobs, cancel_at={"a0": step})
    rest = {name: one for name, one in answers.items() if name != "a0"}
    needed = 1500 + 70 + 100 - min(1500, 512 * step)
    again = 512 * step if architecture == "hybrid" else 0  # blocks stay, a state is where one was planned
    assert needed <= computed(rest) <= needed + again
    assert all_right(warm, rest)


@each_class
@pytest.mark.parametrize("call", [1, 3, 6])
def test_when_the_first_fails_the_others_begin_anew(load: Load, architecture: str, call: int) -> None:
    warm = WarmModel(load(architecture))
    warm.load(lambda model: Faulty(model, lambda at, _inputs: at == call))
    answers = warm.play(*(jobs := agents()))
    assert answers["a0"].outcome.failed is not None
    rest = {name: one for name, one in answers.items() if name != "a0"}
    assert computed(rest) == necessary(jobs[1:])
    assert all_right(warm, rest)


def test_a_fault_behind_the_shared_part_takes_it_from_those_who_run(dense: Loaded) -> None:
    """The others have begun on blocks that are discarded then: they end rightly and leave nothing behind a gap."""
    warm = WarmModel(dense)
    fails_at = 1500 // 256 + 2

    def wrap(model: Any) -> Any:
        return Faulty(model, lambda at, inputs: at == fails_at and inputs.shape[1] > 1)

    warm.load(wrap)
    prompts = [(*SHARED, *ids(700, seed=60)), (*SHARED, *ids(30, seed=61))]
    answers = warm.play(*(ask(f"a{at}", one, max_tokens=12) for at, one in enumerate(prompts)))
    assert answers["a0"].outcome.failed is not None
    assert all_right(warm, {"a1": answers["a1"]})
    warm.load()
    assert warm.ask(ask("again", prompts[0])).gap(warm.cold(ask("again", prompts[0]))) < CLOSE


@each_class
def test_nobody_waits_for_what_finds_no_room(load: Load, architecture: str) -> None:
    """Nothing is stored behind a gap: the first block that is refused ends the wait, not the end of the prompt."""
    warm = WarmModel(load(architecture), replace(ROOM, max_conversation_tokens=512))
    waiting: list[tuple[bool, int]] = []

    def look(runner: MlxRunner) -> None:
        waiting.append((any(row.row.job.id == "a0" for row in runner._queue), len(runner._entrance)))

    answers = warm.play(*(jobs := agents(2, ids(3000, seed=50))), each_step=look)
    reading = [count for is_read, count in waiting if is_read]
    assert reading[:2] == [1, 0] and len(reading) > 4, "one waits until the second chunk, which finds no room"
    assert all_right(warm, answers)
    assert warm.cache.counters.refused_tokens <= 2 * 256 * len(jobs), "and no more is copied in vain"


def test_a_waiter_that_leaves_leaves_the_others_waiting(dense: Loaded) -> None:
    warm = WarmModel(dense)
    jobs = agents(4)
    answers = warm.play(*jobs, cancel_at={"a1": 1})
    rest = {name: one for name, one in answers.items() if name != "a1"}
    assert answers["a1"].tokens == () and computed(rest) == necessary([one for one in jobs if one.id != "a1"])
    assert all_right(warm, rest)


@each_class
def test_forks_wait_with_their_origin(load: Load, architecture: str) -> None:
    warm = WarmModel(load(architecture))
    claimer, waiter = agents(2, sampling=SamplingParams(temperature=1.0))
    forks = [
        replace(waiter, id=f"f{at}", fork_of="a1", sampling=replace(waiter.sampling, seed=at + 1)) for at in range(2)
    ]
    answers = warm.play(claimer, waiter, *forks)
    assert computed(answers) == necessary([claimer, waiter])
    assert all(one.tokens == warm.cold(one.job).tokens for one in answers.values())
    assert len({answers[name].tokens for name in ("a1", "f0", "f1")}) == 3


@each_class
def test_forks_of_a_waiter_that_leaves_stay(load: Load, architecture: str) -> None:
    warm = WarmModel(load(architecture))
    claimer, waiter = agents(2)
    forks = [replace(waiter, id=f"f{at}", fork_of="a1") for at in range(2)]
    answers = warm.play(claimer, waiter, *forks, cancel_at={"a1": 1})
    rest = {name: one for name, one in answers.items() if name != "a1"}
    assert computed(rest) == necessary([claimer, waiter])
    assert all(one.tokens == warm.cold(one.job).tokens for one in rest.values())


def test_a_shorter_wait_first_then_a_longer_one(dense: Loaded) -> None:
    """Chains: the second shares much with the first, the third with the second."""
    warm = WarmModel(dense)
    first = (*ids(600, seed=70), *ids(500, seed=71))
    second = (*ids(600, seed=70), *ids(900, seed=72))
    third = (*second[:1200], *ids(50, seed=73))
    jobs = [ask(f"a{at}", one) for at, one in enumerate((first, second, third))]
    answers = warm.play(*jobs)
    assert computed(answers) == necessary(jobs)
    assert all_right(warm, answers)


def test_who_shares_nothing_does_not_wait(dense: Loaded) -> None:
    warm, first = WarmModel(dense), FirstTokens()
    warm.play(ask("long", ids(4000, seed=80)), ask("short", ids(100, seed=81)), each_step=first)
    assert first.at["short"] == 1


def test_nobody_waits_for_what_is_under_another_salt(dense: Loaded) -> None:
    """It would never be found, and the wait would tell what somebody else asks."""
    warm = WarmModel(dense)
    for name, salt in (("first", b""), ("same", b""), ("other", b"salt")):
        warm.runner.start(ask(name, SHARED, scope=CacheScope(salt=salt)))
    assert {one.job_id for one in warm.runner.step() if isinstance(one, Started)} == {"first", "other"}
    warm.runner.close()
