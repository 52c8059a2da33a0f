"""Rows in company get what they would get alone, whoever joins and leaves, and lanes never pad beyond their rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.engine import decode
from inference.engine.decode import SHORT_TOKENS, may_share
from inference.engine.runner import MlxRunner
from inference.params import SamplingParams
from inference.ports import Job
from tests import tiny_models
from tests.engine.harness import GREEDY, Loaded, Outcome, job, run, solo

SETTINGS = (
    GREEDY,
    SamplingParams(temperature=0.8, seed=11),
    SamplingParams(temperature=1.2, top_p=0.9, seed=12),
    SamplingParams(temperature=1.0, top_k=20, top_p=0.95, seed=13),
    SamplingParams(temperature=1.0, min_p=0.05, seed=14),
    SamplingParams(temperature=0.7, top_k=100, seed=15),
    SamplingParams(temperature=0.0, repetition_penalty=1.3, penalty_context_tokens=32),
    SamplingParams(temperature=0.9, presence_penalty=0.5, frequency_penalty=0.4, seed=16),
)


def crowd(*lengths: int) -> list[Job]:
    return [
        job(
            f"row{at}",
            tiny_models.prompt_ids(length, seed=at),
            sampling=SETTINGS[at % len(SETTINGS)],
            max_tokens=6 + at,
        )
        for at, length in enumerate(lengths)
    ]


def padding_is_bounded(runner: MlxRunner) -> None:
    for lane in runner._lanes:
        lengths = lane.lengths_tokens
        assert max(lengths) <= 2 * max(min(lengths), SHORT_TOKENS)
        assert may_share(lengths)


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_a_batch_of_many_equals_solo_runs(load: Callable[[str], Loaded], architecture: str) -> None:
    loaded, jobs = load(architecture), crowd(3, 90, 1, 256, 41, 257, 40, 130)
    starts = {one.id: at // 2 * 3 for at, one in enumerate(jobs)}
    together = run(loaded.runner(), jobs, start_at=starts, each_step=padding_is_bounded)
    for one in jobs:
        alone = solo(loaded, one)
        assert together[one.id].tokens == alone.tokens
        assert len(alone.tokens) == one.max_tokens


rows = st.tuples(
    st.sampled_from((1, 2, 17, 39, 41, 120, 256, 258)),  # prompt tokens
    st.sampled_from(SETTINGS),
    st.integers(1, 14),  # most tokens
    st.integers(0, 12),  # starts at step
    st.none() | st.integers(0, 20),  # cancelled at step
)


@pytest.mark.parametrize("architecture", ["dense", "hybrid", "sliding"])
def test_joins_leaves_and_cancels_disturb_nobody(load: Callable[[str], Loaded], architecture: str) -> None:
    loaded = load(architecture)

    @cache
    def alone(prompt_tokens: int, sampling: SamplingParams) -> Outcome:
        return solo(loaded, job("x", tiny_models.prompt_ids(prompt_tokens), sampling=sampling, max_tokens=14))

    @given(st.lists(rows, min_size=2, max_size=5))
    @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    def law(schedule: list[tuple[int, SamplingParams, int, int, int | None]]) -> None:
        jobs = [
            job(f"r{at}", tiny_models.prompt_ids(length), sampling=sampling, max_tokens=most)
            for at, (length, sampling, most, _, _) in enumerate(schedule)
        ]
        starts = {f"r{at}": row[3] for at, row in enumerate(schedule)}
        cancels = {f"r{at}": row[3] + row[4] for at, row in enumerate(schedule) if row[4] is not None}
        runner = loaded.runner()
        outcomes = run(runner, jobs, start_at=starts, cancel_at=cancels, each_step=padding_is_bounded)
        for one in jobs:
            expected, got = alone(len(one.prompt), one.sampling).tokens[: one.max_tokens], outcomes[one.id]
            assert got.failed is None
            assert got.tokens == expected[: len(got.tokens)]
            assert one.id in cancels or len(got.tokens) == one.max_tokens
        assert runner.active_jobs == 0 and runner.kv_bytes == 0

    law()


def test_a_planted_swap_of_rows_is_noticed(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: a batch whose KV rows are exchanged draws other tokens."""
    from inference.engine import kv

    merge = kv.merge
    monkeypatch.setattr(kv, "merge", lambda states: merge(list(reversed(states))))
    jobs = [replace(one, sampling=GREEDY, max_tokens=10) for one in crowd(50, 50)]
    together = run(dense.runner(), jobs)
    assert any(together[one.id].tokens != solo(dense, one).tokens for one in jobs)


def test_long_and_short_rows_decode_in_different_lanes(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "SHORT_TOKENS", 64)
    lengths = {"long": 500, "like_long": 260, "short": 20, "short2": 70}
    jobs = [job(name, tiny_models.prompt_ids(length), max_tokens=20) for name, length in lengths.items()]
    shapes: set[tuple[tuple[str, ...], ...]] = set()

    def look(runner: MlxRunner) -> None:
        shapes.add(tuple(sorted(tuple(sorted(row.job.id for row in lane.rows)) for lane in runner._lanes)))
        assert all(may_share(lane.lengths_tokens) for lane in runner._lanes)

    outcomes = run(dense.runner(prefill_step_tokens=2048), jobs, each_step=look)
    assert (("like_long", "long"), ("short", "short2")) in shapes
    for one in jobs:
        assert outcomes[one.id].tokens == solo(dense, one).tokens


def test_the_lane_rule_holds_for_ever_once_it_holds() -> None:
    for shortest in (1, 700, 1024, 3000):
        for longest in range(shortest, 3 * shortest + 2000, 37):
            if may_share([shortest, longest]):
                assert all(may_share([shortest + grown, longest + grown]) for grown in (1, 500, 5000))
    assert may_share([1, 1024]) and may_share([3000, 6000])
    assert not may_share([1, 1100]) and not may_share([3000, 6001])


def test_a_join_costs_the_short_rows_no_padding_to_the_long_one(dense: Loaded) -> None:
    """One lane for all would hold 8 x the longest row."""
    most = 0
    jobs = [job("long", tiny_models.prompt_ids(2500), max_tokens=12)]
    jobs += [job(f"s{at}", tiny_models.prompt_ids(60, seed=at), max_tokens=12) for at in range(7)]

    def look(runner: MlxRunner) -> None:
        nonlocal most
        most = max(most, runner.kv_bytes)

    run(dense.runner(prefill_step_tokens=8192), jobs, each_step=look)
    assert most < 2 * dense.limits.row_bytes(2512) < 8 * 2500 * dense.limits.kv_bytes_per_token
