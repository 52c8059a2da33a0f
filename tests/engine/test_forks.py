"""Several answers of one prompt: the prefill is computed once and every answer is what it would be alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inference.engine import kv
from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.runner import MlxRunner
from inference.params import SamplingParams
from inference.ports import Job, RowFailed
from tests import tiny_models
from tests.engine.harness import Loaded, Outcome, job, run, solo

PROMPT = [5 + (7 * at) % 300 for at in range(600)]


def family(count: int, ids: list[int] = PROMPT, **fields: Any) -> list[Job]:
    """One job and its forks, each with its own seed."""
    jobs = [
        job(f"f{at}", ids, sampling=SamplingParams(temperature=1.0, seed=100 + at), max_tokens=10, **fields)
        for at in range(count)
    ]
    return [jobs[0], *(replace(one, fork_of="f0") for one in jobs[1:])]


def computed_tokens(outcomes: dict[str, Outcome]) -> int:
    return sum(step.computed_tokens for outcome in outcomes.values() for step in outcome.progress)


class Counting:
    """A model that counts the tokens it is given, and fails at one call."""

    def __init__(self, model: Any, fail_at: int = -1) -> None:
        self._model = model
        self.fed = self.calls = 0
        self._fail_at = fail_at

    def __call__(self, ids: Any, cache: Any) -> Any:
        self.calls += 1
        if self.calls == self._fail_at:
            raise RuntimeError("planted")
        self.fed += int(ids.size)
        return self._model(ids, cache=cache)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_each_answer_is_what_it_would_be_alone(load: Callable[[str], Loaded], architecture: str) -> None:
    loaded = load(architecture)
    outcomes = run(loaded.runner(), family(3))
    alone = {one.id: solo(loaded, replace(one, fork_of="")).tokens for one in family(3)}
    assert {name: outcome.tokens for name, outcome in outcomes.items()} == alone
    assert len({tuple(tokens) for tokens in alone.values()}) == 3
    assert computed_tokens(outcomes) == len(PROMPT) and not outcomes["f1"].progress


def test_the_prompt_is_read_once(dense: Loaded) -> None:
    counting = Counting(dense.model)
    run(MlxRunner(counting, dense.limits, dense.runner()._settings), family(8))
    assert counting.fed <= len(PROMPT) + 8 * (10 + 1)


@pytest.mark.parametrize("length", [1, 2, 256, 257])
def test_prompts_of_any_length(load: Callable[[str], Loaded], length: int) -> None:
    for architecture in ("dense", "hybrid", "sliding"):
        loaded = load(architecture)
        jobs = family(3, PROMPT[:length])
        outcomes = run(loaded.runner(), jobs)
        assert {name: one.tokens for name, one in outcomes.items()} == {
            one.id: solo(loaded, replace(one, fork_of="")).tokens for one in jobs
        }


@pytest.mark.parametrize("at", [0, 1, 2, 4])
@pytest.mark.parametrize("gone", ["f0", "f1"])
def test_the_others_go_on_when_one_is_cancelled(dense: Loaded, gone: str, at: int) -> None:
    """Step 0 is before the prefill, 1 in the middle of it, the others after it."""
    jobs = family(3)
    runner = dense.runner(prefill_step_tokens=256)
    outcomes = run(runner, jobs, cancel_at={gone: at})
    for one in jobs:
        whole = solo(dense, replace(one, fork_of="")).tokens
        told = outcomes[one.id].tokens
        assert told == (whole[: len(told)] if one.id == gone else whole)
    assert computed_tokens(outcomes) == len(PROMPT) and runner.kv_bytes == 0


def test_a_fork_that_comes_late_or_reads_another_prompt_is_computed_by_itself(dense: Loaded) -> None:
    first, late, other = family(3)
    other = replace(other, prompt=job("x", PROMPT[:300]).prompt)
    outcomes = run(dense.runner(), [first, late, other], start_at={"f1": 8})
    for one in (first, late, other):
        assert outcomes[one.id].tokens == solo(dense, replace(one, fork_of="")).tokens
    assert computed_tokens(outcomes) == 2 * len(PROMPT) + 300


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_forks_survive_a_fault_of_the_first(dense: Loaded, fail_at: int) -> None:
    """Calls 1 to 3 are the pieces of the prefill, 4 is the first step of the lane."""
    jobs = family(3)
    runner = MlxRunner(Counting(dense.model, fail_at), dense.limits, dense.runner()._settings)
    outcomes = run(runner, jobs)
    assert isinstance(outcomes["f0"].failed, RowFailed)
    for one in jobs[1:]:
        assert outcomes[one.id].tokens == solo(dense, replace(one, fork_of="")).tokens


def test_forks_join_rows_that_decode_already(dense: Loaded) -> None:
    before = job("before", PROMPT[:500], max_tokens=40, sampling=SamplingParams(temperature=1.0, seed=1))
    jobs = [before, *family(4)]
    lanes: list[int] = []
    outcomes = run(
        dense.runner(),
        jobs,
        start_at={one.id: 5 for one in jobs[1:]},
        each_step=lambda runner: lanes.append(len(list(runner._lanes))),
    )
    assert max(lanes) == 1
    for one in jobs:
        assert outcomes[one.id].tokens == solo(dense, replace(one, fork_of="")).tokens


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_a_copied_state_is_not_written_by_the_other(load: Callable[[str], Loaded], architecture: str) -> None:
    model = load(architecture).model
    state = make_prompt_cache(model)
    model(mx.array(PROMPT[:300])[None], cache=state)
    kv.wait(state)
    other = kv.fork(state)
    expected = np.array(model(mx.array([[9]]), cache=kv.fork(state)).astype(mx.float32))
    for token in (11, 12, 13):
        kv.wait(state, model(mx.array([[token]]), cache=state))
    assert np.array_equal(np.array(model(mx.array([[9]]), cache=other).astype(mx.float32)), expected)


def test_a_fork_of_a_stale_state_is_found_out(dense: Loaded) -> None:
    """The law above is no idle one: a fork that lacks the prompt's last piece says something else."""
    one = family(1)[0]
    short = replace(one, prompt=job("x", [*PROMPT[:-100], PROMPT[-1]]).prompt)
    assert solo(dense, short).tokens != solo(dense, one).tokens
