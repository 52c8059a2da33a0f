"""What is stored gives way to weights, obeys its budgets with real arrays, and is priced by the model that made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from inference.engine import memory
from inference.engine.loader import MlxLoader
from inference.engine.runner import MlxRunner
from inference.engine.settings import CacheSettings, EngineSettings
from inference.errors import MemoryPressure
from inference.params import CacheScope
from inference.ports import ModelRef
from tests import tiny_models
from tests.device import settled_bytes
from tests.engine.harness import job, run

PROMPT_TOKENS = 1500


@pytest.fixture
def tight(model_dir: Callable[[str], Path]) -> Callable[[int], MlxLoader]:
    """A loader whose device holds one tiny model with a row, and so many bytes more."""
    path = model_dir("dense")

    def make(more_bytes: int) -> MlxLoader:
        before = settled_bytes()
        limits = MlxLoader(EngineSettings(cache=CacheSettings(memory_bytes=0))).load(ModelRef("m", path)).limits
        memory.release_unused()
        needed = limits.weights_bytes + limits.row_bytes(4096) + limits.workspace_bytes
        settings = EngineSettings(
            memory_limit_bytes=before + needed + more_bytes, cache=CacheSettings(memory_bytes=1 << 30)
        )
        return MlxLoader(settings)

    yield make  # type: ignore[misc]
    MlxLoader(EngineSettings())  # the device's own limits again


def fill(runner: MlxRunner, rows: int) -> None:
    """Plays rows of different prompts, one after the other."""
    for seed in range(rows):
        one = job(f"f{seed}", tiny_models.prompt_ids(PROMPT_TOKENS, seed=seed), max_tokens=2)
        run(runner, [replace(one, cache=CacheScope())])


def load(loader: MlxLoader, path: Path) -> MlxRunner:
    runner = loader.load(ModelRef("m", path))
    assert isinstance(runner, MlxRunner)
    return runner


def test_weights_come_before_what_is_stored(
    tight: Callable[[int], MlxLoader], model_dir: Callable[[str], Path]
) -> None:
    path, loader = model_dir("dense"), tight(1 << 19)
    runner = load(loader, path)
    fill(runner, 6)
    runner.close()
    del runner
    assert loader.store is not None
    held = loader.store.held_bytes
    assert held > 1 << 21, "more than lies free beside a model"
    active = mx.get_active_memory()
    again = load(loader, path)
    assert 0 < loader.store.held_bytes < held
    assert mx.get_active_memory() < active
    again.close()


def test_without_giving_way_the_load_would_fail(
    tight: Callable[[int], MlxLoader], model_dir: Callable[[str], Path]
) -> None:
    path, loader = model_dir("dense"), tight(1 << 19)
    runner = load(loader, path)
    fill(runner, 6)
    runner.close()
    del runner
    keeper, loader._keeper = loader._keeper, None
    with pytest.raises(MemoryPressure):
        load(loader, path)
    loader._keeper = keeper
    load(loader, path).close()


def test_what_the_books_say_is_what_the_device_holds(
    tight: Callable[[int], MlxLoader], model_dir: Callable[[str], Path]
) -> None:
    loader = tight(1 << 24)
    runner = load(loader, model_dir("dense"))
    before = settled_bytes()
    fill(runner, 4)
    store = loader.store
    assert store is not None
    grown = settled_bytes() - before
    assert store.held_bytes <= grown <= 1.02 * store.held_bytes
    freed = store.free(store.held_bytes // 2, "r")
    assert settled_bytes() - before == pytest.approx(grown - freed, abs=0.02 * grown)
    store.keep_within(store.held_bytes)
    ceiling = store.held_bytes
    fill(runner, 8)
    assert store.held_bytes <= ceiling
    runner.close()


def test_a_token_of_a_larger_model_is_dearer(load: Callable[[str], object], model_dir: Callable[[str], Path]) -> None:
    loader = MlxLoader(EngineSettings())
    costs = {}
    for name in ("dense", "moe"):
        runner = loader.load(ModelRef(name, model_dir(name)))
        assert isinstance(runner, MlxRunner)
        fill(runner, 1)
        (root,) = (root.root for root in loader._cache._store.tree.roots.values() if root.root.model == name)  # type: ignore[union-attr]
        costs[name] = root.token_cost / runner.limits.parameters
        runner.close()
    assert costs["dense"] == pytest.approx(costs["moe"], rel=1e-9) and costs["dense"] > 0
