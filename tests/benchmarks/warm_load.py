"""T44 at length: ten thousand short jobs over a small store, each compared with what it draws alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from inference.engine.loader import MlxLoader
from inference.engine.runner import MlxRunner
from inference.engine.settings import EngineSettings
from inference.ports import ModelRef
from tests import tiny_models
from tests.benchmarks.figure import Figure
from tests.engine.harness import Loaded
from tests.engine.traffic import TIGHT, wrong_answers
from tests.engine.warm_rows import WarmModel

WAVES: Final = {"dense": 60, "sliding": 25, "hybrid": 15}
WAVE_JOBS: Final = 100


def run() -> Iterator[Figure]:
    for architecture, waves in WAVES.items():
        with tempfile.TemporaryDirectory() as directory:
            path = tiny_models.build(Path(directory) / architecture, architecture)
            runner = MlxLoader(EngineSettings()).load(ModelRef(architecture, path))
        assert isinstance(runner, MlxRunner)
        loaded = Loaded(runner._model, runner.limits)
        warm = WarmModel(loaded, TIGHT)
        compared, wrong = wrong_answers(warm, loaded, seed=44, waves=waves, wave_jobs=WAVE_JOBS)
        counted = warm.cache.stats().counters
        hits = counted["cached_tokens"] / counted["prompt_tokens"]
        detail = f"{hits:.0%} of prompt tokens cached, {counted['evicted_tokens']} tokens evicted"
        yield Figure(
            f"answers under load, {architecture}", f"{len(wrong)} of {compared} differ", "0", not wrong, detail
        )
