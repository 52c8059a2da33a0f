"""Loading: what a model's figures are, and that nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inference.engine import memory
from inference.engine.loader import MlxLoader
from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.settings import EngineSettings
from inference.errors import InvalidModel, MemoryPressure, ModelTooLarge
from inference.ports import ModelRef
from tests import tiny_models
from tests.device import settled_bytes
from tests.engine.harness import Loaded, job, run, solo
from tests.engine.spoiled import refusal

# --- size -------------------------------------------------------------------------------------------------------------


def test_a_model_too_large_is_refused_with_both_figures_before_it_is_read(model: Path) -> None:
    limit = memory.default_limit_bytes()
    try:
        small = MlxLoader(EngineSettings(memory_limit_bytes=2**20))
        before = settled_bytes()
        mx.reset_peak_memory()
        error = refusal(small, model)
        assert isinstance(error, ModelTooLarge)
        assert error.message == "The model needs 4 MiB (weights 0 MiB) and 1 MiB may be used."
        assert mx.get_peak_memory() - before < 4096
    finally:
        MlxLoader(EngineSettings(memory_limit_bytes=limit))


def test_room_that_other_models_hold_is_pressure_not_refusal(model: Path) -> None:
    limit = memory.default_limit_bytes()
    try:
        crowded = MlxLoader(EngineSettings(memory_limit_bytes=settled_bytes() + 6 * 2**20))
        held = mx.zeros((2**20,))
        mx.eval(held)
        with pytest.raises(MemoryPressure):
            crowded.load(ModelRef("m", model))
        del held
        crowded.load(ModelRef("m", model)).close()
    finally:
        MlxLoader(EngineSettings(memory_limit_bytes=limit))


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_limits_are_those_of_the_model(load: Callable[[str], Loaded], architecture: str) -> None:
    loaded = load(architecture)
    limits, config = loaded.limits, tiny_models.CONFIGS[architecture]
    assert (limits.context_tokens, limits.vocab_size) == (tiny_models.CONTEXT_TOKENS, tiny_models.VOCAB_SIZE)
    assert limits.architecture == config["model_type"]
    assert limits.weights_bytes == pytest.approx(4 * limits.parameters, rel=0.01)
    growing = sum(type(entry).__name__ == "KVCache" for entry in make_prompt_cache(loaded.model))
    assert limits.kv_bytes_per_token == growing * 2 * 2 * 16 * 4


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize("length", [1, 300, 1025])
def test_a_row_holds_no_more_than_its_limits_say(load: Callable[[str], Loaded], architecture: str, length: int) -> None:
    loaded = load(architecture)
    most = 0

    def look(runner: Any) -> None:
        nonlocal most
        most = max(most, runner.kv_bytes)

    run(loaded.runner(), [job("a", tiny_models.prompt_ids(length), max_tokens=3)], each_step=look)
    allowed = loaded.limits.row_bytes(length + 3)
    assert allowed / 2.5 < most <= allowed or (length == 1 and most <= allowed)


def test_weights_too_few_or_too_many_are_invalid(loader: MlxLoader, model: Path) -> None:
    weights = dict(mx.load(str(model / "model.safetensors")))
    for changed in (
        {name: array for name, array in weights.items() if "norm" not in name},
        weights | {"model.extra.weight": mx.zeros((4,))},
        weights | {"lm_head.weight": mx.zeros((511, 48))},
    ):
        mx.save_safetensors(str(model / "model.safetensors"), changed)
        assert isinstance(refusal(loader, model), InvalidModel)


def test_a_bf16_model_has_bf16_figures(loader: MlxLoader, tmp_path: Path) -> None:
    path = tiny_models.build(tmp_path / "half", "dense")
    weights = {name: array.astype(mx.bfloat16) for name, array in mx.load(str(path / "model.safetensors")).items()}
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    runner = loader.load(ModelRef("half", path))
    assert runner.limits.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
    assert runner.limits.weights_bytes == 2 * runner.limits.parameters
    assert len(run(runner, [job("a", tiny_models.prompt_ids(30))])["a"].tokens) == 8  # type: ignore[arg-type]
    runner.close()


# --- what loading does to the process ---------------------------------------------------------------------------------


def test_memory_returns_after_twenty_loads(loader: MlxLoader, model_dir: Callable[[str], Path]) -> None:
    path = model_dir("moe")

    def once() -> int:
        runner = loader.load(ModelRef("m", path))
        runner.start(job("a", tiny_models.prompt_ids(300), max_tokens=3))
        runner.step()
        held = mx.get_active_memory()
        runner.close()
        return held

    once()
    baseline = settled_bytes()
    held = max(once() for _ in range(20))
    model_bytes = held - baseline
    assert model_bytes > 400_000
    assert abs(mx.get_active_memory() - baseline) <= 0.02 * model_bytes
    assert mx.get_cache_memory() == 0


def test_the_wired_limit_is_never_touched(loader: MlxLoader, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_limit: int) -> int:
        raise AssertionError("set_wired_limit was called")

    monkeypatch.setattr(mx, "set_wired_limit", never)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 2**30})
    runner = MlxLoader(EngineSettings(memory_limit_bytes=2**33)).load(ModelRef("m", model))
    jobs = [job(f"r{at}", tiny_models.prompt_ids(300 + at)) for at in range(3)]
    assert all(len(outcome.tokens) == 8 for outcome in run(runner, jobs).values())  # type: ignore[arg-type]
    runner.close()
    loader.release_unused()
    monkeypatch.undo()
    MlxLoader(EngineSettings())


SCRIPT = """
import resource, sys, threading
from pathlib import Path
before = resource.getrlimit(resource.RLIMIT_NOFILE)
import inference.engine.settings
assert "mlx" not in sys.modules and "mlx.core" not in sys.modules, "settings must not import MLX"

def work():
    from inference.engine.loader import MlxLoader
    from inference.engine.settings import EngineSettings
    from inference.params import SamplingParams
    from inference.ports import Job, ModelRef
    from inference.tokens import Prompt
    runner = MlxLoader(EngineSettings()).load(ModelRef("m", Path(sys.argv[1])))
    for at in range(3):
        runner.start(Job(str(at), Prompt(tuple(range(3, 300 + at))), SamplingParams(), 8 + at))
    for _ in range(20 if "end" in sys.argv else 4):
        runner.step()
    if "close" in sys.argv:
        runner.close()
    if "daemon" in sys.argv:
        done.set()
        threading.Event().wait()

done = threading.Event()
for _ in range(1 if "daemon" in sys.argv else 4):
    thread = threading.Thread(target=work, daemon="daemon" in sys.argv)
    thread.start()
    done.wait(60) if "daemon" in sys.argv else thread.join()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == before, "importing the engine changed the file limit"
print("fine")
"""


@pytest.mark.parametrize("how", [("end", "close"), (), ("daemon",)], ids="-".join)
def test_a_worker_thread_leaves_the_interpreter_in_order(
    model_dir: Callable[[str], Path], how: tuple[str, ...]
) -> None:
    """One worker after another, closed or not, or one that never ends: the process exits 0 and says nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", SCRIPT, str(model_dir("dense")), *how],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_the_answer_of_a_loaded_model_is_that_of_its_weights(loader: MlxLoader, tmp_path: Path) -> None:
    """Two seeds of weights, two answers: what is loaded is what lies in the directory."""
    answers = []
    for seed in (1, 2, 1):
        path = tiny_models.build(tmp_path / f"m{len(answers)}", "dense", seed=seed)
        runner: Any = loader.load(ModelRef("m", path))
        answers.append(solo(Loaded(runner._model, runner.limits), job("a", tiny_models.prompt_ids(30))).tokens)
        runner.close()
    assert answers[0] == answers[2] != answers[1]
    assert np.unique(answers[0]).size > 3
