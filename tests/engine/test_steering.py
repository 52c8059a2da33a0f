"""What is done to logits before a draw, against plain oracles, and through the runner."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.steering import biased, masked, only, without
from inference.events import FinishReason
from inference.params import SamplingParams
from tests import tiny_models
from tests.engine.harness import GREEDY, Faulty, Loaded, job, run, solo
from tests.engine.toy_grammar import bits

PROMPT = tiny_models.prompt_ids(60)


def logits_of(vocabulary: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.random.normal((1, vocabulary), key=mx.random.key(vocabulary)).astype(dtype)


@given(
    vocabulary=st.sampled_from((1, 7, 8, 9, 31, 32, 33, 250)),
    width=st.sampled_from((0, 32, 64, 256, 320)),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_mask_leaves_the_set_ids_as_they_were_and_nothing_else(vocabulary: int, width: int, seed: int) -> None:
    """Whether it is shorter than the vocabulary, which a padded embedding makes it, or longer."""
    chosen = set(np.flatnonzero(np.random.default_rng(seed).random(width) < 0.3).tolist())
    logits = np.array(logits_of(vocabulary))
    expected = np.array([[x if token in chosen else -np.inf for token, x in enumerate(logits[0])]])
    got = np.array(masked(mx.array(logits), bits(chosen, width)))
    assert got.shape == logits.shape and np.array_equal(got, expected)


def test_edits_of_single_ids() -> None:
    logits = logits_of(40)
    plain = np.array(logits)[0]
    shifted = np.array(biased(logits, ((3, 5.5), (39, -100.0))))[0]
    assert np.flatnonzero(shifted != plain).tolist() == [3, 39]
    assert np.allclose(shifted[[3, 39]] - plain[[3, 39]], [5.5, -100.0], atol=1e-5)
    banned = np.array(without(logits, (0, 7, 40, -1)))[0]
    assert np.flatnonzero(np.isinf(banned)).tolist() == [0, 7]
    assert np.flatnonzero(np.isfinite(np.array(only(without(logits, (7,)), 7))[0])).tolist() == [7]
    for call in (lambda: biased(logits, ((40, 1.0),)), lambda: biased(logits, ((-1, 1.0),)), lambda: only(logits, 40)):
        with pytest.raises(ValueError, match="outside"):
            call()


def test_steering_leaves_the_models_own_logits_alone() -> None:
    logits = logits_of(40)
    before = np.array(logits)
    mx.eval(biased(logits, ((3, 5.5),)), without(logits, (5,)), masked(logits, bits({1}, 64)), only(logits, 2))
    assert np.array_equal(np.array(logits), before)


# --- through the runner ----------------------------------------------------------------------------------------------


def test_a_bias_of_100_is_drawn_and_one_of_minus_100_never(dense: Loaded) -> None:
    free = solo(dense, job("a", PROMPT, max_tokens=12)).tokens
    never = SamplingParams(temperature=0.0, logit_bias=tuple((token, -100.0) for token in set(free)))
    always = SamplingParams(temperature=1.0, seed=1, logit_bias=((77, 100.0), (78, -100.0)))
    jobs = [
        job("never", PROMPT, sampling=never, max_tokens=12),
        job("always", PROMPT, sampling=always, max_tokens=12),
        job("free", PROMPT, max_tokens=12),
    ]
    outcomes = run(dense.runner(), jobs)
    assert not set(outcomes["never"].tokens) & set(free) and len(outcomes["never"].tokens) == 12
    assert set(outcomes["always"].tokens) == {77}
    assert outcomes["free"].tokens == free
    assert all(outcomes[one.id].tokens == solo(dense, one).tokens for one in jobs)


def test_a_bias_outside_the_vocabulary_fails_its_row_only(dense: Loaded) -> None:
    jobs = [job("bad", PROMPT, sampling=replace(GREEDY, logit_bias=((512, 1.0),))), job("good", PROMPT)]
    outcomes = run(dense.runner(), jobs)
    assert outcomes["bad"].failed is not None and outcomes["bad"].tokens == []
    assert outcomes["good"].tokens == solo(dense, jobs[1]).tokens


@pytest.mark.parametrize("least", [0, 1, 2, 5, 9])
def test_no_stop_id_is_drawn_before_min_tokens(dense: Loaded, least: int) -> None:
    eager = replace(GREEDY, logit_bias=((77, 100.0), (78, 90.0), (79, 80.0)))
    one = replace(job("a", PROMPT, sampling=eager, max_tokens=9, stop_ids=[77, 78]), min_tokens=least)
    outcome = solo(dense, one)
    assert outcome.tokens == [79] * least
    assert outcome.finish is (FinishReason.LENGTH if least == 9 else FinishReason.STOP)


def test_min_tokens_counts_anew_for_no_row_that_is_computed_again(dense: Loaded) -> None:
    eager = replace(GREEDY, logit_bias=((77, 100.0), (79, 80.0)))
    wanted = replace(job("a", PROMPT, sampling=eager, max_tokens=12, stop_ids=[77]), min_tokens=6)
    jobs = [wanted, job("b", PROMPT, max_tokens=12)]
    runner = dense.with_model(lambda model: Faulty(model, lambda call, _inputs: call == 8))
    outcomes = run(runner, jobs)
    assert outcomes["a"].tokens == [79] * 6
    assert outcomes["b"].tokens == solo(dense, jobs[1]).tokens


def test_banned_ids_never_come(dense: Loaded) -> None:
    free = solo(dense, job("a", PROMPT, max_tokens=12)).tokens
    banned = frozenset(free[:4])
    outcome = solo(dense, replace(job("a", PROMPT, max_tokens=12), banned_ids=banned))
    assert not banned & set(outcome.tokens) and outcome.finish is FinishReason.LENGTH


def test_a_ban_holds_against_any_bias(dense: Loaded) -> None:
    eager = replace(GREEDY, logit_bias=((77, 1e4),))
    assert 77 not in solo(dense, replace(job("a", PROMPT, sampling=eager), banned_ids=frozenset({77}))).tokens
