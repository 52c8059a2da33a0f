"""Counters that stay at 0: each rises when the fault it is there for is planted, and the answers stay right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from inference.cache.keeper import StoreKeeper
from inference.cache.node import Node
from inference.engine import assembly, store
from inference.engine.blocks import KVBlock
from inference.engine.kv import KVState
from inference.engine.kv_columns import attention_leaves
from inference.engine.proof import proof
from tests import tiny_models
from tests.engine.harness import Loaded
from tests.engine.stored_rows import read_and_store
from tests.engine.warm_rows import CLOSE, WarmModel, ask

Load = Callable[[str], Loaded]
ids = tiny_models.prompt_ids


def blocks_of(warm: WarmModel) -> list[Node]:
    return [node for leaf in warm.cache._store.tree.leaves for node in leaf.upwards()]


def spoil(node: Node) -> None:
    """As an engine would that writes into a buffer it shares: one value of one token."""
    assert isinstance(node.handle, KVBlock)
    [array] = [one for one in node.handle.parts[0].packed.arrays[:1] if one is not None]
    array[0, 0, 1, 1] += 1


@pytest.mark.parametrize("architecture", ["dense", "sliding", "hybrid"])
def test_a_row_of_the_wrong_length_begins_cold_and_counts(
    load: Load, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    warm, good = WarmModel(load(architecture)), assembly.assemble
    warm.ask(ask("before", ids(700)))
    assert warm.cache.counters.offset_mismatch == 0

    def bad(*given: Any, **more: Any) -> KVState:
        state = good(*given, **more)
        attention_leaves(state)[-1].offset += 1
        return state

    monkeypatch.setattr(store, "assemble", bad)
    told = warm.ask(one := ask("after", (*ids(700), *ids(40, seed=3))))
    assert (warm.cache.counters.offset_mismatch, told.computed) == (1, 740)
    assert told.gap(warm.cold(one)) < CLOSE
    assert warm.cache.check_integrity() == []


@pytest.mark.parametrize("architecture", ["dense", "sliding"])
def test_what_was_written_to_is_noticed_and_never_read(load: Load, architecture: str) -> None:
    warm = WarmModel(load(architecture))
    keeper = StoreKeeper(warm.cache, mx.clear_cache, proof)
    warm.ask(ask("before", ids(200), max_tokens=1))
    [node] = blocks_of(warm)
    for _ in range(3):
        keeper.prove()
    assert warm.cache.counters.shared_kv_mutated == 0 and blocks_of(warm) == [node]
    spoil(node)
    keeper.prove()
    assert (warm.cache.counters.shared_kv_mutated, blocks_of(warm)) == (1, [])
    told = warm.ask(one := ask("after", ids(200)))
    assert told.computed == 200 and told.gap(warm.cold(one)) < CLOSE


def test_what_was_written_to_goes_from_all_who_hold_it(load: Load) -> None:
    """Siblings that begin alike share the part that was spoiled, so a look at one of them is a look at all."""
    warm = WarmModel(load("dense"))
    keeper = StoreKeeper(warm.cache, mx.clear_cache, proof)
    for text in (ids(200), (*ids(200)[:120], *ids(30, seed=4)), ids(100, seed=5)):
        warm.ask(ask("before", text, max_tokens=1))
    alone = min(blocks_of(warm), key=lambda node: node.tokens)
    while any(node.proof is None for node in blocks_of(warm)):
        keeper.prove()
    spoil(next(node for node in blocks_of(warm) if node is not alone))
    while not warm.cache.counters.shared_kv_mutated:
        keeper.prove()
    assert blocks_of(warm) == [alone] and warm.cache.check_integrity() == []


def test_growing_and_branching_change_no_proof(load: Load) -> None:
    """Looks between all that a store does with a block: a longer one takes its place, siblings take its parts."""
    warm = WarmModel(load("dense"))
    keeper = StoreKeeper(warm.cache, mx.clear_cache, proof)
    for turn, prompt in enumerate((ids(100), ids(180), (*ids(150), *ids(30, seed=4)), (*ids(60), *ids(400, seed=5)))):
        warm.ask(ask(f"t{turn}", prompt, max_tokens=2))
        for _ in range(4 * len(blocks_of(warm))):
            keeper.prove()
    assert warm.cache.counters.shared_kv_mutated == 0 and warm.cache.check_integrity() == []


@pytest.mark.parametrize("at", [1, 100, 255])
def test_a_proof_is_of_the_tokens_and_not_of_how_they_lie(load: Load, at: int) -> None:
    [block] = read_and_store(load("dense").model, ids(256)).blocks[:1]
    other = read_and_store(load("dense").model, ids(256, seed=9)).blocks[0]
    assert proof(block) == proof(block.parted(at)) != proof(other)


def test_nothing_stored_is_nothing_to_prove(load: Load) -> None:
    keeper = StoreKeeper(WarmModel(load("dense")).cache, mx.clear_cache, proof)
    keeper.prove()
