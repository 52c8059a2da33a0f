"""Sampling against a slow, plain oracle; seeds, streams and neighbours."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.sampler import LaneSampler, RowSampling, stream_key
from inference.engine.steering import penalised
from inference.params import SamplingParams
from tests import tiny_models
from tests.engine.harness import Loaded, job, run, sampling_rows, solo

VOCABULARY = 60


def logits_of(seed: int, vocabulary: int = VOCABULARY) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2.5, vocabulary).astype(np.float32)
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def oracle(logprobs: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Probabilities after temperature, top_k, top_p, min_p, one token at a time, in float64."""
    p = np.exp((logprobs.astype(np.float64) - logprobs.max()) / params.temperature)
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda token: -p[token])
    kept = order[: params.top_k] if params.top_k else order
    mass, total, nucleus = 0.0, sum(p[token] for token in kept), []
    for token in kept:
        if mass < params.top_p * total:
            nucleus.append(token)
        mass += p[token]
    best = p[order[0]]
    final = [token for token in nucleus if p[token] >= params.min_p * best]
    result = np.zeros_like(p)
    result[final] = p[final] / p[final].sum()
    return result


def draws(logprobs: np.ndarray, params: SamplingParams, count: int) -> np.ndarray:
    """`count` independent draws, one position each."""
    rows = [RowSampling(params, position=at) for at in range(count)]
    return np.array(LaneSampler(rows)(mx.array(np.tile(logprobs, (count, 1)))))


COMBINATIONS = [
    SamplingParams(seed=1),
    SamplingParams(seed=2, temperature=0.5),
    SamplingParams(seed=3, temperature=2.0, top_k=7),
    SamplingParams(seed=4, top_p=0.7),
    SamplingParams(seed=5, min_p=0.1),
    SamplingParams(seed=6, temperature=1.5, top_k=20, top_p=0.8),
    SamplingParams(seed=7, temperature=1.5, top_k=20, top_p=0.9, min_p=0.08),
    SamplingParams(seed=8, temperature=0.7, top_p=0.95, min_p=0.02),
    SamplingParams(seed=9, temperature=3.0, top_k=59),
    SamplingParams(seed=10, top_k=500),
]


@pytest.mark.parametrize("params", COMBINATIONS, ids=lambda params: f"seed{params.seed}")
def test_draws_follow_the_oracle_distribution(params: SamplingParams) -> None:
    logprobs, count = logits_of(params.seed or 0), 20_000
    expected = oracle(logprobs, params)
    seen = Counter(draws(logprobs, params, count).tolist())
    assert set(seen) <= set(np.flatnonzero(expected))
    for token in range(VOCABULARY):
        sigma = (count * expected[token] * (1 - expected[token])) ** 0.5
        assert abs(seen[token] - count * expected[token]) <= 5 * sigma + 1e-9


def test_the_oracle_comparison_notices_a_wrong_order() -> None:
    """Top_p before temperature keeps other tokens: the comparison above is sharp enough to tell."""
    params = SamplingParams(seed=4, temperature=2.5, top_p=0.7)
    logprobs = logits_of(4)
    cold_nucleus = np.flatnonzero(oracle(logprobs, replace(params, temperature=1.0)))
    seen = set(draws(logprobs, params, 5000).tolist())
    assert seen == set(np.flatnonzero(oracle(logprobs, params))) != set(cold_nucleus)


@given(
    seed=st.integers(0, 2**32),
    temperature=st.floats(0.01, 5.0),
    top_k=st.sampled_from((0, 1, 2, 10, 63, 64, 65, 200)),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_draw_leaves_what_the_filters_keep(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    logprobs = logits_of(seed, 150)
    # A border within rounding of the oracle's may fall either way.
    loose = replace(params, top_p=min(1.0, top_p * 1.0001), min_p=min_p * 0.9999)
    allowed = set(np.flatnonzero(oracle(logprobs, loose)))
    assert set(draws(logprobs, params, 40).tolist()) <= allowed


def test_greedy_is_the_exact_argmax_also_among_others() -> None:
    logprobs = np.stack([logits_of(seed) for seed in range(4)])
    greedy, hot = SamplingParams(temperature=0.0), SamplingParams(temperature=1.0, seed=1)
    tokens = np.array(LaneSampler(sampling_rows(greedy, hot, greedy, hot))(mx.array(logprobs)))
    assert tokens[[0, 2]].tolist() == logprobs.argmax(axis=-1)[[0, 2]].tolist()


def test_ties_at_the_border_are_kept_together() -> None:
    logprobs = np.log(np.array([0.3, 0.2, 0.2, 0.2, 0.1], dtype=np.float32))
    seen = set(draws(logprobs, SamplingParams(top_k=2, seed=1), 400).tolist())
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e6])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    logprobs = logits_of(3)
    seen = set(draws(logprobs, SamplingParams(temperature=temperature, seed=1), 300).tolist())
    assert seen == {int(logprobs.argmax())} if temperature < 1 else len(seen) > 50


def test_neighbours_do_not_change_a_draw() -> None:
    logprobs = np.stack([logits_of(seed, 300) for seed in range(len(COMBINATIONS))])
    together = np.array(LaneSampler(sampling_rows(*COMBINATIONS))(mx.array(logprobs)))
    reversed_ = np.array(LaneSampler(sampling_rows(*COMBINATIONS[::-1]))(mx.array(logprobs[::-1].copy())))[::-1]
    alone = [
        int(LaneSampler(sampling_rows(params))(mx.array(logprobs[at : at + 1])).item())
        for at, params in enumerate(COMBINATIONS)
    ]
    assert together.tolist() == reversed_.tolist() == alone


@given(st.integers(-(2**63), 2**64), st.integers(0, 10**7), st.integers(0, 10**7))
def test_positions_of_a_seed_have_streams_of_their_own(seed: int, one: int, other: int) -> None:
    assert (stream_key(seed, one) == stream_key(seed, other)) == (one == other)
    assert all(0 <= word < 2**32 for word in stream_key(seed, one))


def test_streams_of_neighbouring_seeds_and_positions_are_unlike() -> None:
    flat = np.full(VOCABULARY, -np.log(VOCABULARY), dtype=np.float32)
    by_seed = [draws(flat, SamplingParams(seed=seed), 400) for seed in range(6)]
    for at, one in enumerate(by_seed):
        for other in by_seed[at + 1 :]:
            for shift in (0, 1):
                assert (one[shift:] == other[: 400 - shift]).mean() < 0.08  # 1/60 by chance


# --- through the runner ---------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_text_and_another_another(dense: Loaded) -> None:
    ids = tiny_models.prompt_ids(20)

    def text(seed: int | None) -> list[int]:
        return solo(dense, job("a", ids, sampling=SamplingParams(seed=seed), max_tokens=16)).tokens

    assert text(5) == text(5) != text(6)
    assert text(None) != text(None)


def test_a_shorter_answer_is_a_prefix_of_a_longer(dense: Loaded) -> None:
    ids, sampling = tiny_models.prompt_ids(20), SamplingParams(seed=5, top_p=0.9)
    short, long = (solo(dense, job("a", ids, sampling=sampling, max_tokens=n)).tokens for n in (4, 16))
    assert long[:4] == short


def test_rows_of_one_seed_and_prompt_say_the_same_wherever_they_sit(dense: Loaded) -> None:
    ids, sampling = tiny_models.prompt_ids(33), SamplingParams(seed=8, temperature=0.9, top_k=40)
    same = [job(f"same{at}", ids, sampling=sampling, max_tokens=12) for at in range(3)]
    others = [job(f"other{at}", tiny_models.prompt_ids(50 + at), max_tokens=9) for at in range(3)]
    outcomes = run(dense.runner(), [*same, *others], start_at={"same1": 2, "same2": 5, "other1": 1, "other2": 4})
    assert len({tuple(outcomes[one.id].tokens) for one in same}) == 1


# --- penalties ------------------------------------------------------------------------------------------------------


def penalty_oracle(recent: list[int], logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    result = logits.astype(np.float64)
    counted = Counter(recent[-params.penalty_context_tokens :])
    for token, uses in counted.items():
        value = result[token]
        value = value * params.repetition_penalty if value < 0 else value / params.repetition_penalty
        result[token] = value - params.presence_penalty - uses * params.frequency_penalty
    return result


@given(
    recent=st.lists(st.integers(0, 19), min_size=1, max_size=40),
    repetition=st.floats(0.5, 2.0),
    presence=st.floats(-2.0, 2.0),
    frequency=st.floats(-2.0, 2.0),
    window=st.integers(1, 50),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_penalties_follow_the_oracle(
    recent: list[int], repetition: float, presence: float, frequency: float, window: int
) -> None:
    params = SamplingParams(
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        penalty_context_tokens=window,
    )
    logits = np.random.default_rng(1).normal(0, 3, 20).astype(np.float32)
    got = penalised(mx.array(recent[-window:]), mx.array(logits)[None], params)
    assert np.allclose(np.array(got)[0], penalty_oracle(recent, logits, params), atol=1e-4)


def test_penalties_look_at_prompt_and_answer_as_far_as_the_window_and_no_further(dense: Loaded) -> None:
    """So strong that no token of the last 30 may come again, then that only the last 5 can (from position 40 on)."""
    ids = tiny_models.prompt_ids(40)

    def text(presence: float, window: int) -> list[int]:
        sampling = SamplingParams(temperature=0.0, presence_penalty=presence, penalty_context_tokens=window)
        return [*ids, *solo(dense, job("a", ids, sampling=sampling, max_tokens=30)).tokens]

    shunned, sought = text(1000.0, 30), text(-1000.0, 5)
    for at in range(40, 70):
        assert shunned[at] not in shunned[at - 30 : at]
        assert sought[at] in sought[at - 5 : at]


def test_penalties_of_a_row_in_company_are_its_own(dense: Loaded) -> None:
    strong = SamplingParams(temperature=0.0, presence_penalty=-1000.0, penalty_context_tokens=5)
    jobs = [
        job("plain", tiny_models.prompt_ids(25), max_tokens=10),
        job("strong", tiny_models.prompt_ids(25), sampling=strong, max_tokens=10),
    ]
    outcomes = run(dense.runner(), jobs, start_at={"strong": 3})
    assert outcomes["plain"].tokens == solo(dense, jobs[0]).tokens
    assert outcomes["strong"].tokens == solo(dense, jobs[1]).tokens
    assert outcomes["strong"].tokens != outcomes["plain"].tokens
