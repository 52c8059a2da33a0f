"""What rows leave behind when they are cancelled, fail, fork, are pressed for room or outlive their model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.cache.counters import CacheStats
from inference.cache.limits import CacheLimits
from inference.cache.reuse import ReuseMode
from inference.engine.loader import MlxLoader
from inference.engine.runner import MlxRunner
from inference.engine.settings import GRID_TOKENS, CacheSettings, EngineSettings
from inference.params import CacheScope, SamplingParams
from inference.ports import Job, ModelRef
from tests import tiny_models
from tests.engine.harness import Faulty, Loaded
from tests.engine.warm_rows import CLOSE, Answer, BruteForce, WarmModel, ask, play, runner_on

Load = Callable[[str], Loaded]
ids = tiny_models.prompt_ids
CLASSES = ("dense", "hybrid", "sliding")
each_class = pytest.mark.parametrize("architecture", CLASSES)


def right(warm: WarmModel, answer: Answer) -> bool:
    return answer.gap(warm.cold(answer.job)) < CLOSE


# --- cancelled ------------------------------------------------------------------------------------------------------


@each_class
def test_a_retry_goes_on_where_the_cancelled_prefill_was(load: Load, architecture: str) -> None:
    """Complete blocks of the prompt stay; a recurrent state only where one was planned (every 2,048 tokens)."""
    warm = WarmModel(load(architecture))
    prompt = ids(3000)
    cancelled = warm.play(ask("a", prompt), cancel_at={"a": 5})["a"]
    assert cancelled.computed == 5 * 512
    again = warm.ask(ask("b", prompt))
    assert again.computed == 3000 - (2048 if architecture == "hybrid" else 5 * 512)
    assert right(warm, again)


@each_class
def test_an_answer_broken_off_is_kept(load: Load, architecture: str) -> None:
    warm = WarmModel(load(architecture))
    cancelled = warm.play(ask("a", ids(400), max_tokens=50), cancel_at={"a": 20})["a"]
    assert 10 < len(cancelled.tokens) < 50
    on = warm.ask(ask("b", (*cancelled.ids, *ids(30, seed=1))))
    assert on.computed == 30
    assert right(warm, on)


def is_less(warm: WarmModel, held: CacheStats) -> bool:
    left = warm.cache.stats()
    return left.block_bytes <= held.block_bytes and left.snapshot_bytes <= held.snapshot_bytes


def lost_at_most(architecture: str, before: Answer) -> int:
    """The unfinished block that an aborted row grew goes with it, and recurrent states within that block."""
    return len(before.ids) if architecture == "hybrid" else len(before.ids) % GRID_TOKENS


@each_class
@pytest.mark.parametrize("step", [2, 12])
def test_nothing_of_an_aborted_row_is_kept(load: Load, architecture: str, step: int) -> None:
    warm = WarmModel(load(architecture))
    before = warm.ask(ask("before", ids(300)))
    held = warm.cache.stats()
    steps = 0

    def abort(runner: MlxRunner) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            runner.cancel("a", keep=False)

    warm.play(ask("a", (*before.ids, *ids(1200, seed=1)), max_tokens=40), each_step=abort)
    assert is_less(warm, held)
    on = warm.ask(ask("on", (*before.ids, *ids(30, seed=2))))
    assert 30 <= on.computed <= 30 + lost_at_most(architecture, before) and right(warm, on)


# --- forks ----------------------------------------------------------------------------------------------------------


def family(count: int, prompt: tuple[int, ...], **fields: Any) -> list[Job]:
    drawn = SamplingParams(temperature=1.0)
    jobs = [ask(f"f{at}", prompt, sampling=drawn, max_tokens=30, **fields) for at in range(count)]
    return [jobs[0], *(replace(one, fork_of="f0") for one in jobs[1:])]


@each_class
@pytest.mark.parametrize("mode", ReuseMode)
def test_each_fork_leaves_its_own_answer(load: Load, architecture: str, mode: ReuseMode) -> None:
    warm = WarmModel(load(architecture), mode=mode)
    prompt = ids(520)
    answers = warm.play(*family(3, prompt))
    assert sum(one.computed for one in answers.values()) == 520
    assert len({one.tokens for one in answers.values()}) == 3
    for name, answer in answers.items():
        assert answer.tokens == warm.cold(answer.job).tokens
        on = warm.ask(ask(f"{name} on", (*answer.ids, *ids(20, seed=1))))
        assert right(warm, on)
        if mode is ReuseMode.TOKEN:
            assert on.computed == 20


# --- faults ---------------------------------------------------------------------------------------------------------


@each_class
def test_a_fault_in_a_lane_keeps_nothing_of_its_rows(load: Load, architecture: str) -> None:
    warm = WarmModel(load(architecture))
    before = warm.ask(ask("before", ids(300)))
    held = warm.cache.stats()
    batched = 0

    def fails(_call: int, inputs: Any) -> bool:
        nonlocal batched
        batched += inputs.shape[0] > 1
        return inputs.shape[0] > 1 and batched == 4

    warm.load(lambda model: Faulty(model, fails))
    jobs = [ask(f"r{at}", (*before.ids, *ids(600 + at, seed=at)), max_tokens=12) for at in range(2)]
    answers = warm.play(*jobs)
    assert batched >= 4
    assert {name: one.tokens for name, one in answers.items()} == {one.id: warm.cold(one).tokens for one in jobs}
    assert is_less(warm, held)
    warm.load()
    on = warm.ask(ask("on", (*before.ids, *ids(600))))
    assert 600 <= on.computed <= 600 + lost_at_most(architecture, before) and right(warm, on)


@each_class
def test_a_fault_in_prefill_keeps_nothing_of_that_row(load: Load, architecture: str) -> None:
    warm = WarmModel(load(architecture))
    warm.load(lambda model: Faulty(model, lambda call, _inputs: call == 4))
    failed = warm.ask(ask("a", ids(1500)))
    assert failed.outcome.failed is not None
    assert (warm.cache.stats().block_bytes, warm.cache.stats().snapshot_bytes) == (0, 0)
    again = warm.ask(ask("b", ids(1500)))
    assert again.computed == 1500 and right(warm, again)


def test_a_store_that_breaks_costs_no_row_its_answer(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.engine import trail

    warm = WarmModel(dense)
    monkeypatch.setattr(trail.BlockRecorder, "record", lambda *_: 1 / 0)
    answers = warm.play(*(ask(f"r{at}", ids(600 + at)) for at in range(3)))
    monkeypatch.undo()
    assert all(right(warm, one) for one in answers.values())
    assert warm.cache.stats().block_bytes == 0


def test_blocks_that_cannot_be_assembled_cost_a_prefill(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.engine import store

    warm = WarmModel(dense)
    warm.ask(ask("a", ids(600)))
    monkeypatch.setattr(store, "assemble", lambda *_, **__: 1 / 0)
    again = warm.ask(ask("b", ids(600)))
    assert again.computed == 600 and right(warm, again)


# --- room -----------------------------------------------------------------------------------------------------------


@each_class
def test_under_pressure_rows_lose_warmth_and_nothing_else(load: Load, architecture: str) -> None:
    """Room for four blocks and three states; a dozen rows with prefixes of each other and of their own."""
    loaded = load(architecture)
    full = WarmModel(loaded)
    full.ask(ask("measure", ids(300), max_tokens=1))
    stats = full.cache.stats()
    block, state = stats.block_bytes * GRID_TOKENS // 299, stats.snapshot_bytes // max(1, stats.models[0].snapshots)
    limits = CacheLimits(budget_bytes=4 * block, snapshot_budget_bytes=3 * state)
    warm = WarmModel(loaded, limits)

    def within(_runner: MlxRunner) -> None:
        now = warm.cache.stats()
        assert now.block_bytes <= limits.budget_bytes and now.snapshot_bytes <= limits.snapshot_budget_bytes

    jobs = [ask(f"r{at}", (*ids(300), *ids(150 + 60 * (at % 4), seed=at)), max_tokens=20) for at in range(12)]
    answers = warm.play(*jobs, start_at={one.id: 3 * at for at, one in enumerate(jobs)}, each_step=within)
    counters = warm.cache.stats().counters
    assert counters["evicted_tokens"] > 0 and counters["refused_tokens"] > 0
    assert all(right(warm, one) for one in answers.values())
    assert all(one.computed >= len(one.job.prompt) - 301 for one in answers.values())


def test_no_room_at_all(dense: Loaded) -> None:
    warm = WarmModel(dense, CacheLimits(budget_bytes=0))
    answers = warm.play(*(ask(f"r{at}", ids(600 + at)) for at in range(3)))
    assert all(right(warm, one) for one in answers.values())


def test_one_shots_never_push_a_conversation_out(dense: Loaded) -> None:
    warm = WarmModel(dense)
    warm.ask(ask("measure", ids(512), max_tokens=1))
    block = warm.cache.stats().block_bytes // 2
    warm = WarmModel(dense, CacheLimits(budget_bytes=4 * block, side_budget_bytes=2 * block))
    main = warm.ask(ask("main", ids(800)))
    for at in range(5):
        warm.ask(ask(f"title{at}", ids(500, seed=at + 1), scope=CacheScope(one_shot=True)))
    assert warm.ask(ask("on", (*main.ids, *ids(20, seed=9)))).computed == 20


# --- models ---------------------------------------------------------------------------------------------------------


def test_two_models_in_one_store_never_meet(load: Load) -> None:
    """The same ids under another fingerprint are another text, whatever else is equal."""
    dense = WarmModel(load("dense"), fingerprint="one")
    other = runner_on(dense.cache, load("hybrid"), "other")
    prompt = ids(700)
    assert dense.ask(ask("a", prompt)).computed == 700
    answer = play(other, [one := ask("b", prompt)])["b"]
    assert answer.computed == 700
    assert answer.gap(WarmModel(load("hybrid")).cold(one)) < CLOSE
    assert dense.ask(ask("c", prompt)).computed == 1
    assert play(other, [ask("d", prompt)])["d"].computed <= 1
    assert dense.cache.check_integrity() == []


@each_class
def test_a_model_that_was_unloaded_is_still_warm(
    model_dir: Callable[[str], Path], load: Load, architecture: str
) -> None:
    loader = MlxLoader(EngineSettings(cache=CacheSettings(memory_bytes=1 << 28)))
    ref = ModelRef("m", model_dir(architecture))
    cold = WarmModel(load(architecture))
    first = _once(loader, ref, ask("a", ids(900)))
    assert first.computed == 900 and right(cold, first)
    again = _once(loader, ref, ask("b", (*first.ids, *ids(40, seed=1))))
    assert again.computed == 40 and right(cold, again)


def _once(loader: MlxLoader, ref: ModelRef, one: Job) -> Answer:
    runner = loader.load(ref)
    assert isinstance(runner, MlxRunner)
    answer = play(runner, [one])[one.id]
    runner.close()
    return answer


def test_a_model_unloaded_under_way_keeps_only_what_had_ended(dense: Loaded) -> None:
    warm = WarmModel(dense)
    ended = warm.ask(ask("ended", ids(600)))
    warm.runner.start(ask("prefill", ids(4000, seed=1)))
    warm.runner.start(ask("decode", ids(300, seed=2), max_tokens=100))
    warm.runner.start(ask("waits", (*ids(4000, seed=1), *ids(10))))
    for _ in range(4):
        warm.runner.step()
    warm.runner.close()
    assert warm.cache.stats().leases == 0 and warm.cache.check_integrity() == []
    warm.load()
    assert warm.ask(ask("on", (*ended.ids, *ids(20, seed=3)))).computed == 20
    for name, prompt in (("prefill", ids(4000, seed=1)), ("decode", ids(300, seed=2))):
        brute = BruteForce([ended.ids])
        assert warm.ask(ask(f"{name} again", prompt)).computed == brute.necessary(prompt)
