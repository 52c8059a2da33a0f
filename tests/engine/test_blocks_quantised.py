"""Quantised rows: plain blocks up to the grid line behind the start, quantised ones from there, and the cold bits."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inference.engine import kv
from inference.engine.assembly import quantise
from inference.engine.blocks import joined, store_needs, unstorable
from inference.engine.kv import KVState, quantised_from
from inference.engine.kv_columns import KVMismatch
from inference.engine.loader import MlxLoader
from inference.engine.mlx_lm_door import KVCache, QuantizedKVCache, make_prompt_cache
from inference.engine.prefill import pieces
from inference.engine.recorder import BlockRecorder
from inference.engine.runner import MlxRunner
from inference.engine.settings import EngineSettings
from inference.engine.snapshots import RecurrentSnapshot, snapshot
from inference.params import KVQuantisation
from inference.ports import ModelRef
from tests import tiny_models
from tests.engine.stored_rows import Stored, resumed

IDS = tiny_models.prompt_ids(700)


@pytest.fixture(scope="module", params=["dense", "hybrid"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """MLX quantises groups of 32 values at least, so heads are wider than elsewhere."""
    directory = tiny_models.build(tmp_path_factory.mktemp("wide"), request.param, head_dim=64)
    runner = MlxLoader(EngineSettings()).load(ModelRef(request.param, directory))
    assert isinstance(runner, MlxRunner)
    return runner._model


def read(model: Any, state: KVState, at: int, how: KVQuantisation) -> tuple[KVState, Stored, np.ndarray]:
    """Prefills `IDS` from token `at` on, quantising where a row does; its blocks and the last logits."""
    begins, logits = quantised_from(how), mx.array(0)
    recorder, blocks, taken = BlockRecorder(256, at), [], dict[int, RecurrentSnapshot]()
    if at == begins:
        state = quantise(state, how)
    for first, last in pieces(at, len(IDS)):
        logits = model(mx.array(IDS[first:last])[None], cache=state)
        kv.wait(state, logits)
        blocks += recorder.record(state, last)
        if store_needs(state).snapshots:
            taken[last] = snapshot(state, last)
        if last == begins:
            state = quantise(state, how)
    tail = recorder.tail()
    return state, Stored(IDS, blocks + ([tail] if tail else []), taken), np.array(logits[0, -1])


@pytest.mark.parametrize(("start", "bits"), [(0, 4), (1, 8), (256, 4), (300, 8)])
def test_a_row_made_of_blocks_is_bitwise_the_cold_one(model: Any, start: int, bits: int) -> None:
    how = KVQuantisation(bits, 32, start)
    _, stored, cold = read(model, make_prompt_cache(model), 0, how)
    begins = quantised_from(how)
    for block in stored.blocks:
        assert set(block.per_layer) == ({2} if block.end <= begins else {6})
    for depth in (256, 512):
        state = resumed(model, stored, depth, how)
        kinds = {type(entry) for entry in state} & {KVCache, QuantizedKVCache}
        assert kinds == ({KVCache} if depth < begins else {QuantizedKVCache})
        assert unstorable(state) is None
        _, _, warm = read(model, state, depth, how)
        assert np.array_equal(warm, cold)


def test_a_branch_before_the_start_is_as_exact_as_ever(model: Any) -> None:
    how = KVQuantisation(4, 32, 500)
    _, plain, exact = read(model, make_prompt_cache(model), 0, KVQuantisation(4, 32, 10_000))
    _, stored, rounded = read(model, make_prompt_cache(model), 0, how)
    assert not np.allclose(exact, rounded, atol=1e-3)
    for one, other in zip(plain.blocks[:2], stored.blocks[:2], strict=True):
        for left, right in zip(joined(one).stacks, joined(other).stacks, strict=True):
            assert bool(mx.array_equal(left, right))


def test_quantised_blocks_are_smaller_and_never_taken_for_plain_ones(model: Any) -> None:
    how = KVQuantisation(4, 64, 256)
    _, stored, _ = read(model, make_prompt_cache(model), 0, how)
    first, second = stored.blocks[:2]
    assert second.nbytes < 0.2 * first.nbytes  # 4 bits and two float32 for 64 values, of 32 bits each
    with pytest.raises(KVMismatch, match="quantised"):
        resumed(model, stored, 512)


@pytest.mark.parametrize(("start", "line"), [(0, 0), (1, 256), (255, 256), (256, 256), (257, 512), (5000, 5120)])
def test_the_line_is_the_first_at_or_behind_the_start(start: int, line: int) -> None:
    assert quantised_from(KVQuantisation(8, 64, start)) == line
