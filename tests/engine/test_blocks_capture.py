"""What is copied out of rows: the same bits however a row is cut, from plain and batched states, and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import ChunkedKVCache, ConcatenateKVCache, RotatingKVCache

from inference.engine import kv
from inference.engine.assembly import assemble
from inference.engine.blocks import KVBlock, block_end, capture, cut, join, store_needs, unstorable
from inference.engine.kv_columns import KVMismatch
from inference.engine.mlx_lm_door import CacheList, KVCache, QuantizedKVCache, make_prompt_cache
from inference.engine.recorder import BlockRecorder
from inference.engine.snapshots import snapshot
from inference.tokens import TokenIds
from tests import tiny_models
from tests.device import settled_bytes
from tests.engine.harness import Loaded
from tests.engine.stored_rows import CLOSE, RecordedRow, Stored, answer, bits, read_and_store, resumed, same_bits

WINDOW = tiny_models.WINDOW_TOKENS


def fed(model: Any, ids: TokenIds, *stops: int) -> kv.KVState:
    """A row that has read `ids` in pieces that end at `stops`."""
    state, at = make_prompt_cache(model), 0
    for stop in (*stops, len(ids)):
        model(mx.array(ids[at:stop])[None], cache=state)
        at = stop
    kv.wait(state)
    return state


# --- what a state needs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "snapshots", "every_tokens"),
    [
        ("dense", False, 256), ("moe", False, 256), ("hybrid", True, 256), ("hybrid_moe", True, 256),
        ("sliding", False, WINDOW), ("sliding_sinks", False, WINDOW),
    ],
)  # fmt: skip
def test_every_class_served_says_what_it_needs(
    load: Callable[[str], Loaded], architecture: str, snapshots: bool, every_tokens: int
) -> None:
    model = load(architecture).model
    for state in (make_prompt_cache(model), fed(model, (5, 6)), kv.merge([fed(model, (5, 6))] * 2)):
        assert unstorable(state) is None
        needs = store_needs(state)
        assert (needs.snapshots, needs.every_tokens) == (snapshots, every_tokens)


def test_what_has_no_rule_is_refused_with_its_name(dense: Loaded) -> None:
    class Changed(KVCache):
        """A subclass may keep its tokens in another way."""

    assert unstorable([KVCache(), ChunkedKVCache(64)]) == "ChunkedKVCache has no rule"
    assert unstorable([CacheList(KVCache(), ConcatenateKVCache())]) == "ConcatenateKVCache has no rule"
    assert unstorable([Changed()]) == "Changed has no rule"
    assert unstorable([RotatingKVCache(64, keep=4)]) == "its window keeps the first tokens"
    assert unstorable([*fed(dense.model, (5, 6)), KVCache()]) == "the model leaves a cache entry empty"
    assert unstorable([KVCache(), QuantizedKVCache(), CacheList(KVCache(), RotatingKVCache(64))]) is None


# --- the same bits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["dense", "sliding", "sliding_sinks"])
def test_blocks_do_not_depend_on_when_they_were_captured(load: Callable[[str], Loaded], architecture: str) -> None:
    """One row, read one token at a time; recorders that follow it at other moments give the same bits."""
    model, ids = load(architecture).model, tiny_models.prompt_ids(290)
    state = make_prompt_cache(model)
    every = store_needs(state).every_tokens
    cuts = [set(Random(seed).sample(range(1, 290), k=seed * 4)) for seed in range(10)]
    followers = [BlockRecorder(1), *(BlockRecorder(every) for _ in cuts)]
    made: list[list[KVBlock]] = [[] for _ in followers]
    for at, token in enumerate(ids, 1):
        model(mx.array([[token]]), cache=state)
        for who, (recorder, blocks) in enumerate(zip(followers, made, strict=True)):
            if at == len(ids) or at >= recorder.due_at or (who and at in cuts[who - 1]):
                blocks += recorder.record(state, at)
    for recorder, blocks in zip(followers, made, strict=True):
        tail = recorder.tail()
        assert tail is not None
        assert [(block.start, block.end) for block in (*blocks, tail)] == [(0, 256), (256, 290)]
        blocks.append(tail)
        assert same_bits(bits(blocks), bits(made[0]))


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_rows_of_a_lane_are_captured_as_if_they_were_alone(load: Callable[[str], Loaded], architecture: str) -> None:
    """Rows of other lengths in one lane, one joins and one leaves: blocks to rounding, and the right ones."""
    model = load(architecture).model
    texts = [tiny_models.prompt_ids(length, seed=length) for length in (250, 33, 300)]
    rows = [RecordedRow(model) for _ in texts]
    for row, text in zip(rows, texts, strict=True):
        row.read(text, len(text))
    written = [tiny_models.prompt_ids(length, seed=length) for length in (61, 131, 90)]
    lane, seats = kv.merge([rows[0].state, rows[1].state]), [0, 1]
    for step in range(131):
        if step == 30:
            joined = kv.merge([rows[2].state])
            for entry, other in zip(lane, joined, strict=True):
                entry.extend(other)
            seats.append(2)
        if step == 61:  # the first has read all it was to read
            rows[0].blocks += rows[0].recorder.record(lane, rows[0].offset, seats.index(0))
            rows[0].snapshots[rows[0].offset] = snapshot(lane, rows[0].offset, 0)
            for entry in lane:
                entry.filter(mx.array([1, 2]))
            seats.remove(0)
        tokens = [written[seat][(step - 30 * (seat == 2)) % len(written[seat])] for seat in seats]
        model(mx.array(tokens)[:, None], cache=lane)
        for at, seat in enumerate(seats):
            rows[seat].offset += 1
            if rows[seat].offset >= rows[seat].recorder.due_at:
                rows[seat].blocks += rows[seat].recorder.record(lane, rows[seat].offset, at)
    for seat, row in enumerate(rows):
        ids = (*texts[seat], *written[seat], *written[seat])[: row.offset]
        if seat in seats:
            row.blocks += row.recorder.record(lane, row.offset, seats.index(seat))
            row.snapshots[row.offset] = snapshot(lane, row.offset, seats.index(seat))
        tail = row.recorder.tail()
        left = Stored(ids, row.blocks + ([tail] if tail else []), row.snapshots)
        alone = read_and_store(model, ids)
        for one, other in zip(bits(left.blocks), bits(alone.blocks), strict=True):
            assert one.shape == other.shape and np.abs(one - other).max() < CLOSE
        asked = (*ids, 7, 8, 9)
        cold, warm = answer(model, asked), answer(model, asked, resumed(model, left, len(ids)), len(ids))
        assert warm.tokens == cold.tokens and warm.gap(cold) < CLOSE


# --- and nothing more -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["dense", "hybrid", "sliding"])
def test_a_block_keeps_nothing_of_the_row_alive(load: Callable[[str], Loaded], architecture: str) -> None:
    """With the row gone, the device holds the bytes that the blocks and snapshots say and no more."""
    model, ids = load(architecture).model, tiny_models.prompt_ids(2000)
    before = settled_bytes()
    stored = read_and_store(model, ids)
    stored.blocks = stored.blocks[3:6]  # cut from the middle of each buffer
    mx.synchronize()
    said = sum(block.nbytes for block in stored.blocks) + sum(one.nbytes for one in stored.snapshots.values())
    assert said <= mx.get_active_memory() - before <= 1.05 * said + 4096


@pytest.mark.parametrize("architecture", ["dense", "sliding"])
def test_a_row_keeps_no_block_alive(load: Callable[[str], Loaded], architecture: str) -> None:
    model, ids = load(architecture).model, tiny_models.prompt_ids(700)
    stored = read_and_store(model, ids)
    state = resumed(model, stored, 650)
    with_blocks, said = settled_bytes(), sum(block.nbytes for block in stored.blocks)
    del stored
    mx.synchronize()
    assert with_blocks - mx.get_active_memory() >= said
    assert len(state) > 0


# --- what cannot be captured or joined ------------------------------------------------------------------------------


def test_tokens_that_are_not_there_are_not_captured(load: Callable[[str], Loaded]) -> None:
    state = fed(load("dense").model, tiny_models.prompt_ids(300), 256)
    for start, end in ((256, 301), (0, 257), (200, 300), (40, 40), (60, 40), (-1, 5)):
        with pytest.raises(KVMismatch):
            capture(state, start, end)
    with pytest.raises(KVMismatch, match="never written"):
        capture(make_prompt_cache(load("dense").model), 0, 1)


def test_a_window_that_has_moved_on_is_noticed(load: Callable[[str], Loaded]) -> None:
    """A window shorter than a block: its first tokens are gone by the time the block is full."""
    model, ids = load("sliding").model, tiny_models.prompt_ids(256)
    state = fed(model, ids, *range(1, 256))
    with pytest.raises(KVMismatch, match="Tokens 0 to 256 were asked for and 216 to 256 are held"):
        capture(state, 0, 256)
    assert capture(state, 256 - WINDOW, 256).tokens == WINDOW
    late = BlockRecorder(store_needs(state).every_tokens)
    with pytest.raises(KVMismatch):
        late.record(state, 256)


def test_a_snapshot_is_taken_where_the_row_stands(load: Callable[[str], Loaded]) -> None:
    state = fed(load("hybrid").model, tiny_models.prompt_ids(100))
    for depth in (99, 101):
        with pytest.raises(KVMismatch, match="has read 100"):
            snapshot(state, depth)
    assert snapshot(state, 100).depth == 100


def test_a_row_is_made_only_of_what_fits(load: Callable[[str], Loaded]) -> None:
    dense, sliding, hybrid = (load(name).model for name in ("dense", "sliding", "hybrid"))
    ids = tiny_models.prompt_ids(700)
    first, second, tail = read_and_store(dense, ids).blocks
    wrong: list[tuple[list[KVBlock], int]] = [
        ([second, tail], 700), ([first, tail], 400), ([first, second], 513), ([first, second, tail], 512),
        ([], 1), ([first, first], 512), ([cut(first, 200), second], 400),
        (read_and_store(sliding, ids).blocks, 600),
    ]  # fmt: skip
    for blocks, depth in wrong:
        with pytest.raises(KVMismatch):
            assemble(make_prompt_cache(dense), blocks, depth)
    stored = read_and_store(hybrid, ids, snapshots_at=(512,))
    for depth, taken in ((256, None), (600, stored.snapshots[512]), (700, stored.snapshots[512])):
        with pytest.raises(KVMismatch, match="snapshot at"):
            assemble(make_prompt_cache(hybrid), stored.up_to(depth), depth, taken)


def test_parts_are_joined_in_order_and_cut_inside(dense: Loaded) -> None:
    state = fed(dense.model, tiny_models.prompt_ids(300), 256)
    whole, parts = capture(state, 0, 256), [capture(state, 0, 100), capture(state, 100, 101), capture(state, 101, 256)]
    assert same_bits(bits([join(parts)]), bits([whole]))
    assert same_bits(bits([cut(whole, 100)]), bits([parts[0]]))
    assert (block_end(0), block_end(255), block_end(256)) == (256, 256, 512)
    with pytest.raises(KVMismatch):
        join([parts[0], parts[2]])
    for end in (0, 257):
        with pytest.raises(KVMismatch):
            cut(whole, end)
    for offset, begun in ((100, None), (100, cut(whole, 99)), (0, whole), (256, whole)):
        with pytest.raises(KVMismatch):
            BlockRecorder(256, offset, begun)
