"""Every architecture class computes what a plain forward pass computes, and the comparison would notice if not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inference.engine import kv, prefill
from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.prefill import PrefillRow
from inference.engine.rows import Row
from inference.engine.settings import GRID_TOKENS
from inference.tokens import KVOffset
from tests import tiny_models
from tests.engine.harness import Loaded, job, plain_logprobs, solo, teacher_forced_gap

CLOSE = 5e-4
"""Rounding in float32 stays below this on every class (measured: 2e-5); planted faults change them by 0.5 to 13."""
LENGTHS = (1, 255, 256, 257, 511, 513, 700)


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_answers_depend_on_the_context_and_vary(load: Callable[[str], Loaded], architecture: str) -> None:
    loaded = load(architecture)
    one, other = (
        (*tiny_models.prompt_ids(30, seed=seed), *tiny_models.prompt_ids(3, seed=9)) for seed in (1, 2)
    )  # the last three tokens are the same
    assert np.abs(plain_logprobs(loaded.model, one)[-1] - plain_logprobs(loaded.model, other)[-1]).max() > 0.1
    answer = solo(loaded, job("a", one, max_tokens=24)).tokens
    assert len(set(answer)) > 12


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_log_probabilities_equal_a_plain_forward_pass(
    load: Callable[[str], Loaded], architecture: str, length: int
) -> None:
    gap = teacher_forced_gap(load(architecture), job("a", tiny_models.prompt_ids(length), max_tokens=12))
    assert gap < CLOSE


# --- planted faults -------------------------------------------------------------------------------------------------


def skip_a_token(start: int, end: int, cuts: Sequence[int] = (), **how: bool) -> Iterator[tuple[int, int]]:
    yield from ((start, end - 20), (end - 19, end))


def repeat_a_token(start: int, end: int, cuts: Sequence[int] = (), **how: bool) -> Iterator[tuple[int, int]]:
    yield from ((start, end - 20), (end - 21, end))


def wrong_offset(state: kv.KVState) -> None:
    for entry in state:
        if hasattr(entry, "offset"):
            entry.offset += 1
        else:
            entry.cache = [mx.roll(array, 1, axis=1) for array in entry.cache]


def shifted(state: kv.KVState) -> None:
    for entry in state:
        if hasattr(entry, "keys"):
            entry.keys = mx.roll(entry.keys, 1, axis=2)
        else:
            entry.cache = [mx.roll(array, 1, axis=-1) for array in entry.cache]


def stale(state: kv.KVState) -> None:
    """What another request left in the last 20 positions."""
    for entry in state:
        if hasattr(entry, "keys"):
            end = min(entry.offset, entry.keys.shape[2])
            entry.values[..., end - 20 : end, :] = entry.values[..., end - 40 : end - 20, :]
        else:
            entry.cache = [mx.zeros_like(array) for array in entry.cache]


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize("fault", [skip_a_token, repeat_a_token])
def test_a_wrong_token_in_prefill_is_noticed(
    load: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch, architecture: str, fault: Any
) -> None:
    monkeypatch.setattr(prefill, "pieces", fault)
    gap = teacher_forced_gap(load(architecture), job("a", tiny_models.prompt_ids(100), max_tokens=6))
    assert gap > 200 * CLOSE


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize("fault", [wrong_offset, shifted, stale])
def test_wrong_kv_is_noticed(
    load: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch, architecture: str, fault: Any
) -> None:
    compute = prefill.compute

    def corrupted(model: Any, row: PrefillRow, *more: Any) -> None:
        compute(model, row, *more)
        fault(row.state)

    monkeypatch.setattr("inference.engine.runner.compute", corrupted)
    gap = teacher_forced_gap(load(architecture), job("a", tiny_models.prompt_ids(100), max_tokens=6))
    assert gap > 200 * CLOSE


# --- the grid -------------------------------------------------------------------------------------------------------


def state_of(loaded: Loaded, ids: tuple[int, ...], stops: tuple[int, ...]) -> list[np.ndarray]:
    """KV after a prefill in chunks that end at `stops`, as plain arrays cut to what is valid."""
    row = PrefillRow([Row.of(job("a", ids))], ids, make_prompt_cache(loaded.model))
    for stop in stops:
        prefill.compute(loaded.model, row, stop)
    held = []
    for entry in row.state:
        if hasattr(entry, "keys"):
            end = min(entry.offset, entry.keys.shape[2])
            held += [np.array(array[..., :end, :]) for array in (entry.keys, entry.values)]
        else:
            held += [np.array(array) for array in entry.cache]
    return held


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_where_the_chunks_end_on_the_grid_does_not_change_a_bit(
    load: Callable[[str], Loaded], architecture: str
) -> None:
    loaded, ids = load(architecture), tiny_models.prompt_ids(701)
    cold = state_of(loaded, ids, (700,))
    for stops in ((256, 512, 700), (512, 700), (256, 700)):
        for left, right in zip(cold, state_of(loaded, ids, stops), strict=True):
            assert np.array_equal(left, right)


@pytest.mark.parametrize("architecture", ["dense", "sliding"])
def test_a_start_off_the_grid_returns_to_it(load: Callable[[str], Loaded], architecture: str) -> None:
    loaded, ids = load(architecture), tiny_models.prompt_ids(600)
    calls: list[int] = []

    def counting(inputs: Any, cache: Any) -> Any:
        calls.append(inputs.shape[1])
        return loaded.model(inputs, cache=cache)

    row = PrefillRow([Row.of(job("a", ids))], ids, make_prompt_cache(loaded.model), offset=KVOffset(0))
    prefill.compute(loaded.model, row, 100)
    prefill.compute(counting, row, 599)
    assert calls == [GRID_TOKENS - 100, GRID_TOKENS, 599 - 2 * GRID_TOKENS]
    expected = plain_logprobs(loaded.model, ids)[-1]
    logits = loaded.model(mx.array([[ids[-1]]]), cache=row.state)[0, -1]
    assert np.abs(np.array(logits - mx.logsumexp(logits)) - expected).max() < CLOSE
