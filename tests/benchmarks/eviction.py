"""What making room costs a stream: the time that evicting takes out of a step, against the time of one chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import mlx.core as mx
import pytest

from inference.cache.blocks import Root
from inference.cache.limits import CacheLimits
from inference.cache.prefix_cache import PrefixCache
from inference.cache.store import Store
from inference.engine import kv, trail
from inference.engine.blocks import KVBlock, capture
from inference.engine.loader import MlxLoader
from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.runner import MlxRunner
from inference.engine.settings import GRID_TOKENS, EngineSettings
from inference.ports import ModelRef
from tests import tiny_models
from tests.benchmarks.figure import Figure, Spread
from tests.benchmarks.scenario_models import SIZE, scenario_model
from tests.engine.harness import Loaded
from tests.engine.warm_rows import ask, runner_on

CONVERSATIONS: Final = 24
CONVERSATION_BLOCKS: Final = 16
NEWCOMERS: Final = 12
NEWCOMER_TOKENS: Final = 2048
MANY: Final = 1000
MANY_BLOCKS: Final = 20
BATCHES: Final = 10
QUIET_STEPS: Final = 20
CHUNK: Final = 1.0
"""Of a chunk's time: what an eviction may take out of a step."""


def run() -> Iterator[Figure]:
    """The store is full of other conversations; one stream decodes while newcomers push them out."""
    runner = MlxLoader(EngineSettings()).load(ModelRef("dense", scenario_model("dense")))
    assert isinstance(runner, MlxRunner)
    loaded = Loaded(runner._model, runner.limits)
    cache = filled(loaded.model)
    evicting_s, chunk_s = beside_a_stream(runner_on(cache, loaded, "weights"))
    went = cache.stats().counters["evicted_tokens"]
    detail = f"chunk {1e3 * chunk_s:.0f} ms, {went} tokens evicted of {CONVERSATIONS} conversations"
    yield never_above("eviction in a step / a chunk", [one / chunk_s for one in evicting_s], detail)
    many = f"{MANY} conversations, {MANY * MANY_BLOCKS * GRID_TOKENS / 1e6:.1f} million tokens; no buffers"
    yield never_above("one of a large store / a chunk", [one / chunk_s for one in large_batches()], many)


def never_above(name: str, chunks: list[float], detail: str) -> Figure:
    """The longest counts, not the median."""
    return Figure(name, f"{Spread.of(chunks)} x", f"each <= {CHUNK:g}", max(chunks) <= CHUNK, detail)


def filled(model: Any) -> PrefixCache:
    """A store with room for exactly what it holds: random KV, since only its buffers matter here."""
    conversations = [blocks(model) for _ in range(CONVERSATIONS)]
    total = sum(block.nbytes for held in conversations for block in held)
    cache = PrefixCache(CacheLimits(budget_bytes=total), time.monotonic)
    for at, held in enumerate(conversations):
        ids = tiny_models.prompt_ids(CONVERSATION_BLOCKS * GRID_TOKENS, seed=100 + at)
        lease = cache.hold(cache.lookup(Root("others", "others"), (*ids, 1)), "fill")
        assert not cache.commit(lease, ids, 0, held).refused_tokens
        cache.release(lease)
    return cache


def blocks(model: Any) -> list[KVBlock]:
    """The blocks of one conversation that was never computed."""
    state, tokens = make_prompt_cache(model), CONVERSATION_BLOCKS * GRID_TOKENS
    for entry in state:
        shape = (1, SIZE["num_key_value_heads"], tokens, SIZE["head_dim"])
        entry.keys, entry.values = (mx.random.normal(shape) for _ in range(2))
        entry.offset = tokens
    kv.wait(state)
    return [capture(state, start, start + GRID_TOKENS) for start in range(0, tokens, GRID_TOKENS)]


def beside_a_stream(runner: MlxRunner) -> tuple[list[float], float]:
    """(seconds that evictions took in each step that had some, seconds of a step's chunk)."""
    runner.start(ask("stream", tiny_models.prompt_ids(64), max_tokens=100_000))
    runner.step()
    quiet_s = median(seconds(runner.step) for _ in range(QUIET_STEPS))
    evicting_s, chunks_s = list[float](), list[float]()
    with evictions_timed() as spent_s:
        for at in range(NEWCOMERS):
            runner.start(ask(f"n{at}", tiny_models.prompt_ids(NEWCOMER_TOKENS, seed=1000 + at), max_tokens=1))
            while runner.active_jobs > 1:
                spent_s.clear()
                took_s = seconds(runner.step)
                evicting_s += [sum(spent_s)] if spent_s else []
                chunks_s.append(took_s - sum(spent_s) - quiet_s)
    return evicting_s, median(chunks_s)


@contextmanager
def evictions_timed() -> Iterator[list[float]]:
    """The seconds that went into choosing what goes and taking it out, and into giving its buffers back."""
    spent_s = list[float]()

    def timed(work: Callable[..., Any], evicted: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any) -> Any:
            began_s = time.perf_counter()
            done = work(*args)
            if evicted(args, done):
                spent_s.append(time.perf_counter() - began_s)
            return done

        return inner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "room", timed(Store.room, lambda _args, done: done[1]))
        patch.setattr(trail, "_give_back", timed(trail._give_back, lambda args, _done: args[0]))
        yield spent_s


@dataclass(frozen=True)
class Sized:
    """A block without buffers."""

    tokens: int = GRID_TOKENS
    nbytes: int = GRID_TOKENS


def large_batches() -> list[float]:
    """Seconds of each batch, a thirty-second of the budget, in a store of more blocks than a device has room for."""
    handles = [Sized()] * MANY_BLOCKS
    cache = PrefixCache(CacheLimits(budget_bytes=MANY * MANY_BLOCKS * GRID_TOKENS), time.monotonic)
    with evictions_timed() as spent_s:
        at = 0
        while len(spent_s) < BATCHES:
            ids = (at, *range(1, MANY_BLOCKS * GRID_TOKENS))
            lease = cache.hold(cache.lookup(Root("m", "w"), (*ids, 1)), "r")
            cache.commit(lease, ids, 0, handles)
            cache.release(lease)
            at += 1
        return list(spent_s)


def seconds(work: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s
