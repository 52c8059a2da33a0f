"""One tiny model per architecture class, made and loaded once for all engine tests of a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from inference.engine import runner as runner_room
from inference.engine.loader import MlxLoader
from inference.engine.pace import Pace
from inference.engine.runner import MlxRunner
from inference.engine.settings import EngineSettings
from inference.ports import ModelRef
from tests import tiny_models
from tests.engine.disk_process import Process
from tests.engine.harness import Loaded
from tests.engine.test_kv_quantised import load as load_wide


class Even(Pace):
    """Every token of a prefill takes as long as any other."""

    def took(self, tokens: int, elapsed_s: float) -> None:
        super().took(tokens, tokens * 1e-6)


@pytest.fixture(autouse=True)
def nothing_depends_on_the_machine_s_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step ends depends on how long chunks take, and many tests say at which step something happens."""
    monkeypatch.setattr(runner_room, "Pace", Even)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def directory(architecture: str) -> Path:
        return tiny_models.build(tmp_path_factory.mktemp(architecture), architecture)

    return directory


@pytest.fixture(scope="session")
def load(model_dir: Callable[[str], Path]) -> Callable[[str], Loaded]:
    loader = MlxLoader(EngineSettings())

    @cache
    def loaded(architecture: str) -> Loaded:
        runner = loader.load(ModelRef(architecture, model_dir(architecture)))
        assert isinstance(runner, MlxRunner)
        return Loaded(runner._model, runner.limits)

    return loaded


@pytest.fixture
def dense(load: Callable[[str], Loaded]) -> Loaded:
    return load("dense")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """With heads that can be quantised."""
    return load_wide(tmp_path_factory.mktemp("wide"))


@pytest.fixture
def start(load: Callable[[str], Loaded], wide: Loaded, tmp_path: Path) -> Callable[..., Process]:
    def make(kind: str, **settings: object) -> Process:
        loaded = wide if kind == "quantised" else load(kind)
        return Process(loaded, **{"directory": tmp_path / "kv", **settings})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="module")
def loader() -> MlxLoader:
    return MlxLoader(EngineSettings())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A fresh directory to spoil."""
    return tiny_models.build(tmp_path / "model", "dense")
