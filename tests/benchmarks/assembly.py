"""What the store costs the engine: a row made of blocks against one plain copy of its bytes, and capture in prefill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from inference.engine import kv
from inference.engine.assembly import assemble
from inference.engine.blocks import KVBlock, capture
from inference.engine.kv import KVState
from inference.engine.mlx_lm_door import KVCache, load_model, make_prompt_cache
from inference.engine.prefill import pieces
from inference.engine.recorder import BlockRecorder
from inference.engine.settings import GRID_TOKENS
from tests.benchmarks.figure import Figure, Spread, at_most, report
from tests.benchmarks.models import benchmark_model

TOKENS = 16_384
PREFILL_TOKENS = 1024
ROUNDS = 15
PREFILLS = 3
LIMIT = 1.3


def run() -> Iterator[Figure]:
    model = load_model(Path(benchmark_model()))[0]
    for heads in (1, 4):
        yield from against_a_copy(model, heads)
    yield capture_in_prefill(model)


def against_a_copy(model: Any, heads: int) -> Iterator[Figure]:
    """The copy goes into buffers as large as the row's, for a fresh buffer costs as much as the copy on a CPU."""
    state = filled(model, heads)
    blocks = [capture(state, start, start + GRID_TOKENS) for start in range(0, TOKENS, GRID_TOKENS)]
    ratios, copy_ms, assembly_ms = [], [], []
    for turn in range(ROUNDS):
        times = {}
        for what in (plain_copy, from_blocks)[:: 1 - 2 * (turn % 2)]:
            times[what] = seconds(lambda what=what: what(model, state, blocks))
        ratios.append(times[from_blocks] / times[plain_copy])
        copy_ms.append(times[plain_copy] * 1e3)
        assembly_ms.append(times[from_blocks] * 1e3)
    size = f"{sum(block.nbytes for block in blocks) / 1e6:.0f} MB, {len(blocks)} blocks"
    detail = f"{size}; copy {Spread.of(copy_ms)} ms, assembly {Spread.of(assembly_ms)} ms"
    yield at_most(f"assembly / copy, {heads} KV head{'s' * (heads > 1)}", ratios, LIMIT, detail)


def filled(model: Any, heads: int) -> KVState:
    """A row of random KV: 16k tokens of prefill would take a minute and their values do not matter here."""
    state = make_prompt_cache(model)
    for entry in state:
        assert isinstance(entry, KVCache)
        entry.keys, entry.values = (mx.random.normal((1, heads, TOKENS, 64)) for _ in range(2))
        entry.offset = TOKENS
    kv.wait(state)
    return state


def plain_copy(_model: Any, state: KVState, _blocks: list[KVBlock]) -> list[mx.array]:
    copies = []
    for array in (array for entry in state for array in (entry.keys, entry.values)):
        room = mx.broadcast_to(mx.array(0, array.dtype), (1, array.shape[1], GRID_TOKENS, array.shape[3]))
        copies.append(mx.concatenate([array, room], axis=2))
    mx.eval(copies)
    return copies


def from_blocks(model: Any, _state: KVState, blocks: list[KVBlock]) -> KVState:
    return assemble(make_prompt_cache(model), blocks, TOKENS)


def capture_in_prefill(model: Any) -> Figure:
    """Time in the recorder behind every piece, against the time of the whole prefill."""
    prefilled(model)  # warms up
    runs = [prefilled(model) for _ in range(PREFILLS)]
    shares, per_block_ms = (
        [100 * capture_s / all_s for all_s, capture_s in runs],
        [capture_s / (PREFILL_TOKENS / GRID_TOKENS) * 1e3 for _, capture_s in runs],
    )
    detail = f"per block {Spread.of(per_block_ms)} ms, {PREFILL_TOKENS} tokens in {Spread.of(s for s, _ in runs)} s"
    return report("capture, share of prefill", shares, "%", detail)


def prefilled(model: Any) -> tuple[float, float]:
    """(seconds of a prefill, seconds of them spent on its blocks)."""
    state, recorder = make_prompt_cache(model), BlockRecorder(GRID_TOKENS)
    began_s, capture_s = time.perf_counter(), 0.0
    for start, stop in pieces(0, PREFILL_TOKENS):
        model(mx.arange(start, stop)[None], cache=state)
        kv.wait(state)
        capture_s += seconds(lambda stop=stop: recorder.record(state, stop))
    return time.perf_counter() - began_s, capture_s


def seconds(work: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s
