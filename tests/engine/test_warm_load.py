"""Load changes no answer. Thousands of such jobs are a benchmark: `python -m tests.benchmarks warm_load`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engine.harness import Loaded
from tests.engine.traffic import TIGHT, wrong_answers
from tests.engine.warm_rows import WarmModel


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "wave_jobs"), [("dense", 40), ("hybrid", 10), ("sliding", 20)])
def test_each_answer_under_load_is_what_it_is_alone(
    load: Callable[[str], Loaded], architecture: str, wave_jobs: int
) -> None:
    """Room for a few conversations only, shared prefixes, cancellations, forks, several salts, greedy and seeded."""
    loaded = load(architecture)
    warm = WarmModel(loaded, TIGHT)
    compared, wrong = wrong_answers(warm, loaded, seed=wave_jobs, waves=2, wave_jobs=wave_jobs)
    assert compared >= 2 * wave_jobs and wrong == []
    counters = warm.cache.stats().counters
    assert counters["cached_tokens"] > 0 and counters["evicted_tokens"] > 0
