"""Keys and values in 8 or 4 bits: close to exact, in a lane of their own, and only where the model can bear it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from inference.engine import kv
from inference.engine.loader import MlxLoader
from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.prefill import PrefillRow, compute
from inference.engine.rows import Row
from inference.engine.runner import MlxRunner
from inference.engine.settings import EngineSettings
from inference.errors import InvalidParameter
from inference.params import KVQuantisation, SamplingParams
from inference.ports import Job, ModelRef
from tests import tiny_models
from tests.engine.harness import Loaded, job, run, solo

PROMPT = [5 + (11 * at) % 300 for at in range(700)]
EIGHT = KVQuantisation(8, 32)
WIDE = {"head_dim": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
"""MLX quantises groups of at least 32 values; the heads of the tiny models have 16."""


def load(directory: Path, architecture: str = "dense") -> Loaded:
    path = tiny_models.build(directory, architecture, **WIDE)
    runner = MlxLoader(EngineSettings()).load(ModelRef(architecture, path))
    assert isinstance(runner, MlxRunner)
    return Loaded(runner._model, runner.limits)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(tmp_path_factory.mktemp("wide"))


def next_logits(loaded: Loaded, wanted: KVQuantisation | None) -> np.ndarray:
    """Logits behind the prompt, its KV made as the runner makes it."""
    one = replace(job("a", PROMPT), kv=wanted)
    row = PrefillRow([Row.of(one)], one.prompt.ids, make_prompt_cache(loaded.model))
    compute(loaded.model, row, row.goal)
    logits = loaded.model(mx.array([[PROMPT[-1]]]), cache=row.state)[0, -1].astype(mx.float32)
    return np.array(logits)


def distance(wide: Loaded, wanted: KVQuantisation) -> float:
    exact = next_logits(wide, None)
    return float(np.abs(next_logits(wide, wanted) - exact).max() / exact.std())


def test_eight_bits_are_close_and_four_are_less_so(wide: Loaded) -> None:
    eight, four = distance(wide, EIGHT), distance(wide, KVQuantisation(4, 32))
    assert 0.0 < eight < 0.05
    assert eight < four < 1.0


def test_it_begins_where_it_is_told(wide: Loaded) -> None:
    assert distance(wide, KVQuantisation(4, 32, start_tokens=len(PROMPT))) == 0.0
    late, early = (distance(wide, KVQuantisation(4, 32, start_tokens=start)) for start in (512, 0))
    assert late > 0.0 and early > 0.0 and late != early


@pytest.mark.parametrize(("bits", "most"), [(8, 0.35), (4, 0.25)])
def test_it_takes_less_memory(wide: Loaded, bits: int, most: float) -> None:
    sizes = {}
    for name, wanted in (("exact", None), ("small", KVQuantisation(bits, 32))):
        runner = wide.runner()
        runner.start(replace(job("a", PROMPT), kv=wanted))
        runner.step()
        runner.step()
        sizes[name] = runner.kv_bytes
    assert sizes["small"] <= most * sizes["exact"]  # of float32


def test_a_quantised_row_beside_a_batch(wide: Loaded) -> None:
    """It decodes in its own lane and neither side says anything else for it; the start is passed while it decodes."""
    free = [job(f"r{at}", PROMPT[at:], max_tokens=30, sampling=SamplingParams(seed=at)) for at in range(3)]
    small = [replace(job("s", PROMPT[:80], max_tokens=30), kv=replace(EIGHT, start_tokens=90))]
    small += [replace(job("t", PROMPT[:90], max_tokens=30), kv=EIGHT)]
    lanes: list[list[int]] = []
    outcomes = run(
        wide.runner(),
        [*free, *small],
        each_step=lambda runner: lanes.append(sorted(len(lane.rows) for lane in runner._lanes)),
    )
    assert [1, 1, 3] in lanes
    for one in (*free, *small):
        assert outcomes[one.id].tokens == solo(wide, one).tokens


def test_forks_of_a_quantised_row(wide: Loaded) -> None:
    def made(at: int) -> Job:
        return replace(job(f"f{at}", PROMPT, sampling=SamplingParams(seed=at), max_tokens=12), kv=EIGHT)

    outcomes = run(wide.runner(), [made(0), replace(made(1), fork_of="f0"), replace(made(2), fork_of="f0")])
    assert sum(step.computed_tokens for one in outcomes.values() for step in one.progress) == len(PROMPT)
    for at in range(3):
        assert outcomes[f"f{at}"].tokens == solo(wide, made(at)).tokens


def test_forks_that_shared_one_state_would_be_found_out(wide: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(at: int) -> Job:
        return replace(job(f"f{at}", PROMPT, sampling=SamplingParams(seed=at), max_tokens=12), kv=EIGHT)

    alone = solo(wide, made(1)).tokens
    monkeypatch.setattr(kv, "fork", lambda state: state)
    outcomes = run(wide.runner(), [made(0), replace(made(1), fork_of="f0")])
    assert outcomes["f1"].tokens != alone


def test_what_a_model_can_bear(wide: Loaded, tmp_path: Path) -> None:
    assert wide.limits.kv_group_sizes == (32, 64)
    assert load(tmp_path / "hybrid", "hybrid").limits.kv_group_sizes == (32, 64)
    for architecture in ("sliding", "sliding_sinks"):  # rings cannot be quantised, nor attention with sinks
        assert load(tmp_path / architecture, architecture).limits.kv_group_sizes == ()


@pytest.mark.parametrize(("architecture", "group_size"), [("dense", 128), ("sliding", 32)])
def test_what_it_cannot_bear_is_refused(tmp_path: Path, architecture: str, group_size: int) -> None:
    loaded = load(tmp_path, architecture)
    outcome = solo(loaded, replace(job("a", PROMPT), kv=KVQuantisation(8, group_size)))
    assert outcome.failed is not None and isinstance(outcome.failed.error, InvalidParameter)


def test_heads_too_narrow_for_any_group(load: Callable[[str], Loaded]) -> None:
    assert load("dense").limits.kv_group_sizes == ()


def test_recurrent_state_alone_is_not_quantised() -> None:
    class Recurrent:
        """No keys, as mlx-lm's ArraysCache."""

    assert not kv.can_quantise([Recurrent()])
