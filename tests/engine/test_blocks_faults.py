"""Planted faults: each kind of wrong block, wrong assembly and wrong snapshot is noticed by what the row then draws.

The comparison with a cold row would be worth nothing if it could not fail. A right row differs from a cold one by
less than `CLOSE`; every fault here must move a log-probability by far more, or be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from inference.engine import kv
from inference.engine.blocks import block_of, joined
from inference.engine.kv import KVState
from inference.engine.kv_columns import KVMismatch, attention_leaves, recurrent_leaves
from inference.engine.mlx_lm_door import RotatingKVCache, make_prompt_cache
from inference.engine.packing import Packed
from inference.engine.packing import packed as repacked
from tests import tiny_models
from tests.engine.harness import Loaded
from tests.engine.stored_rows import CLOSE, Stored, answer, bits, read_and_store, resumed, same_bits

IDS = tiny_models.prompt_ids(560)
DEPTH = 512
FAR = 100 * CLOSE
CLASSES = ("dense", "hybrid", "sliding", "sliding_sinks")
ATTENTION = ("dense", "sliding", "sliding_sinks")
Plant = Callable[[Any, Stored], KVState]


def gap(model: Any, state: KVState, depth: int = DEPTH) -> float:
    return answer(model, IDS).gap(answer(model, IDS, state, depth))


def foreign(model: Any, stored: Stored, ids: tuple[int, ...]) -> KVState:
    """The second block, and the snapshot behind it, are those of other ids."""
    other = read_and_store(model, ids, snapshots_at=(DEPTH,))
    return resumed(model, Stored(IDS, [stored.blocks[0], other.blocks[1]], other.snapshots), DEPTH)


def skipped_token(model: Any, stored: Stored) -> KVState:
    return foreign(model, stored, (*IDS[:400], *IDS[401:]))


def repeated_token(model: Any, stored: Stored) -> KVState:
    return foreign(model, stored, (*IDS[:400], IDS[399], *IDS[400:]))


def stale_prefix(model: Any, stored: Stored) -> KVState:
    """The block follows another first block: its own ids are right."""
    return foreign(model, stored, (*tiny_models.prompt_ids(256, seed=3), *IDS[256:]))


def stale_snapshot(model: Any, stored: Stored) -> KVState:
    other = read_and_store(model, tiny_models.prompt_ids(560, seed=3), snapshots_at=(DEPTH,))
    return resumed(model, Stored(IDS, stored.blocks, other.snapshots), DEPTH)


def snapshot_of_another_depth(model: Any, stored: Stored) -> KVState:
    """It claims the right one."""
    lie = replace(stored.snapshots[256], depth=DEPTH)
    return resumed(model, Stored(IDS, stored.blocks, {DEPTH: lie}), DEPTH)


def wrong_rope_offset(model: Any, stored: Stored) -> KVState:
    state = resumed(model, stored, DEPTH)
    for entry in attention_leaves(state):
        entry.offset += 1
    return state


def cut_one_token_short(model: Any, stored: Stored) -> KVState:
    """The row believes in one token more than its blocks were cut to."""
    state = resumed(model, stored, DEPTH - 1)
    for entry in attention_leaves(state):
        entry.offset += 1
        if isinstance(entry, RotatingKVCache):
            entry.keys, entry.values = (mx.roll(array, 1, axis=2) for array in (entry.keys, entry.values))
    return state


def short_window(model: Any, stored: Stored) -> KVState:
    """A ring made of too few tokens: the rest of the window is empty."""
    state = resumed(model, stored, DEPTH)
    for entry in attention_leaves(state):
        if isinstance(entry, RotatingKVCache):
            for array in (entry.keys, entry.values):
                array[:, :, : entry.max_size // 2] = 0
    return state


def window_out_of_order(model: Any, stored: Stored) -> KVState:
    """A ring that is rotated while its index says that it is not: the next token overwrites a new one."""
    state = resumed(model, stored, DEPTH)
    for entry in attention_leaves(state):
        if isinstance(entry, RotatingKVCache):
            entry.keys, entry.values = (mx.roll(array, 20, axis=2) for array in (entry.keys, entry.values))
    return state


def layers_exchanged(model: Any, stored: Stored) -> KVState:
    def exchanged(packed: Packed) -> Packed:
        return repacked([mx.contiguous(stack[::-1]) for stack in packed.stacks], packed.places)

    blocks = [block_of(one.start, one.end, exchanged(joined(one)), one.per_layer) for one in stored.blocks]
    return resumed(model, Stored(IDS, blocks, stored.snapshots), DEPTH)


PLANTED: list[tuple[Plant, tuple[str, ...]]] = [
    (skipped_token, CLASSES),
    (repeated_token, CLASSES),
    (stale_prefix, CLASSES),
    (wrong_rope_offset, CLASSES),
    (cut_one_token_short, ATTENTION),
    (layers_exchanged, CLASSES),
    (stale_snapshot, ("hybrid", "hybrid_moe")),
    (snapshot_of_another_depth, ("hybrid", "hybrid_moe")),
    (short_window, ("sliding", "sliding_sinks")),
    (window_out_of_order, ("sliding", "sliding_sinks")),
]


@pytest.mark.parametrize(
    ("plant", "architecture"),
    [pytest.param(plant, name, id=f"{plant.__name__}-{name}") for plant, names in PLANTED for name in names],
)
def test_the_comparison_notices(load: Callable[[str], Loaded], plant: Plant, architecture: str) -> None:
    model = load(architecture).model
    stored = read_and_store(model, IDS, snapshots_at=(256, DEPTH, DEPTH - 1))
    assert gap(model, resumed(model, stored, DEPTH)) < CLOSE
    assert gap(model, plant(model, stored)) > FAR


# --- buffers that two owners write ----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["dense", "hybrid", "sliding"])
def test_a_row_writes_into_nothing_but_its_own(load: Callable[[str], Loaded], architecture: str) -> None:
    """Growing, rotating and overwriting a row leaves every stored bit, and the next row of the same blocks, alone."""
    model = load(architecture).model
    stored = read_and_store(model, IDS, snapshots_at=(DEPTH,))
    before, kept = bits(stored.blocks), [one.packed for one in stored.snapshots.values()]
    states_before = [mx.array(stack) for packed in kept for stack in packed.stacks]
    first, second = resumed(model, stored, DEPTH), resumed(model, stored, DEPTH)
    expected = answer(model, IDS, first, DEPTH)
    for entry in attention_leaves(first):
        for array in (entry.keys, entry.values):
            array[...] = 0
    for entry in recurrent_leaves(first):
        for array in entry.cache:
            array[...] = 0
    kv.wait(first)
    assert same_bits(before, bits(stored.blocks))
    assert all(
        bool(mx.array_equal(a, b))
        for a, b in zip(states_before, (stack for packed in kept for stack in packed.stacks), strict=True)
    )
    again = answer(model, IDS, second, DEPTH)
    assert again.tokens == expected.tokens and again.gap(expected) == 0


def test_a_shared_buffer_is_noticed(dense: Loaded) -> None:
    """Rows that hold one array object between them, as assembly must never make: what one writes the other reads."""
    model = dense.model
    stored = read_and_store(model, IDS)
    good = answer(model, IDS, resumed(model, stored, DEPTH, room=256), DEPTH)
    one, other = resumed(model, stored, DEPTH, room=256), resumed(model, stored, DEPTH, room=256)
    for left, right in zip(one, other, strict=True):
        right.keys, right.values = left.keys, left.values
    elsewhere = (*IDS[:DEPTH], *tiny_models.prompt_ids(48, seed=5))
    for start in range(DEPTH, len(IDS) - 1):  # in turn, as lanes are
        for state, ids in ((one, IDS), (other, elsewhere)):
            model(mx.array([[ids[start]]]), cache=state)
    assert good.gap(answer(model, IDS, one, len(IDS) - 1)) > FAR


def test_a_block_that_was_written_is_noticed(dense: Loaded) -> None:
    """The check for stored bits can fail: an array of a block is an array that could be written."""
    stored = read_and_store(dense.model, IDS)
    before = bits(stored.blocks)
    stored.blocks[0].parts[0].packed.stacks[0][0, 0, 5, 3] += 1.0
    assert not same_bits(before, bits(stored.blocks))


# --- a window shorter than a block ----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["sliding", "sliding_sinks"])
def test_a_window_captured_too_late_is_refused_or_noticed(
    load: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """Whoever captures a block whole in decode finds its first tokens overwritten; without the check it would show."""
    from inference.engine import blocks, kv_columns

    model = load(architecture).model
    state = make_prompt_cache(model)
    for token in IDS[:256]:
        model(mx.array([[token]]), cache=state)
    with pytest.raises(KVMismatch):
        blocks.capture(state, 0, 256)

    def careless(held: kv_columns.Held, array: mx.array, row: int, start: int, end: int) -> mx.array:
        columns = [(token + held.shift) % held.columns for token in range(start, end)]
        return array[row : row + 1][:, :, mx.array(columns)]

    monkeypatch.setattr(kv_columns.Held, "cut", careless)
    wrong = Stored(IDS, [blocks.capture(state, 0, 256)])
    short, cold = IDS[:240], answer(model, IDS[:240])
    assert cold.gap(answer(model, short, resumed(model, wrong, 200), 200)) > FAR
