"""Assembly: a row's state made of stored blocks, cut at a token, ready to be continued.

Every buffer is made anew in one copy, for rows write into theirs and blocks are shared. The result is what a cold row
holds after `depth` tokens: growing layers all tokens and spare room, rings the last window in order, quantised layers
quantised, recurrent layers the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx

from inference.engine.blocks import KVBlock, KVPart
from inference.engine.kv import KVState, quantised_from
from inference.engine.kv_columns import (
    GROWING,
    RINGS,
    KVMismatch,
    attention_leaves,
    leaves,
    recurrent_leaves,
    token_arrays,
)
from inference.engine.mlx_lm_door import KVCache, QuantizedKVCache
from inference.engine.settings import GRID_TOKENS
from inference.engine.snapshots import RecurrentSnapshot, restore
from inference.params import KVQuantisation

_PLAIN = 2
"""Arrays of a layer that is not quantised."""


def assemble(
    fresh: KVState,
    blocks: Sequence[KVBlock],
    depth: int,
    snapshot: RecurrentSnapshot | None = None,
    *,
    quantised: KVQuantisation | None = None,
    room_tokens: int = 0,
) -> KVState:
    """Fills `fresh` (the model's empty cache) with the first `depth` tokens of `blocks` and returns it, evaluated.

    `blocks` follow each other from token 0 on and reach `depth`, which may lie inside of the last. Recurrent layers
    need a snapshot of exactly that depth. `room_tokens` more fit in before a layer has to be copied to grow: the rest
    of the prompt, say. Raises `KVMismatch`, and `fresh` is then to be thrown away.
    """
    if depth == 0:
        return fresh
    _require_chain(blocks, depth)
    if quantised is not None and depth >= quantised_from(quantised):
        fresh = quantise(fresh, quantised)
    parts = [part for block in blocks for part in block.parts if part.start < depth]
    for entry, arrays in zip(attention_leaves(fresh), _layers(parts, len(attention_leaves(fresh))), strict=True):
        _fill(entry, parts, arrays, depth, room_tokens)
    if recurrent_leaves(fresh):
        if snapshot is None or snapshot.depth != depth:
            raise KVMismatch(f"Recurrent layers need a snapshot at {depth} tokens.")
        restore(fresh, snapshot)
    mx.eval([array for leaf in leaves(fresh) for array in _arrays(leaf)])
    return fresh


def quantise(state: KVState, how: KVQuantisation) -> KVState:
    """The state of one row with its growing layers quantised. mlx-lm knows no quantised rings and batches."""
    return [
        entry.to_quantized(group_size=how.group_size, bits=how.bits) if type(entry) is KVCache else entry
        for entry in state
    ]


def _require_chain(blocks: Sequence[KVBlock], depth: int) -> None:
    at = 0
    for block in blocks:
        if block.start != at or (block.end % GRID_TOKENS and block is not blocks[-1]):
            raise KVMismatch(f"A block of tokens {block.start} to {block.end} does not follow {at} tokens.")
        at = block.end
    if not blocks or not blocks[-1].start < depth <= at:
        raise KVMismatch(f"Blocks of {at} tokens do not end where {depth} tokens do.")


def _layers(parts: Sequence[KVPart], count: int) -> Iterator[list[list[mx.array]]]:
    """For each attention layer: its arrays in each part."""
    if any(len(part.per_layer) != count for part in parts):
        raise KVMismatch("A block is of another model.")
    views = [iter(part.packed.arrays) for part in parts]
    for layer in range(count):
        yield [
            [array for _ in range(part.per_layer[layer]) if (array := next(view)) is not None]
            for part, view in zip(parts, views, strict=True)
        ]


def _fill(entry: Any, parts: Sequence[KVPart], arrays: list[list[mx.array]], depth: int, room_tokens: int) -> None:
    if type(entry) in RINGS:
        _fill_ring(entry, parts, arrays, depth)
    elif type(entry) in GROWING:
        _fill_growing(entry, parts, arrays, depth, room_tokens)
    else:
        raise KVMismatch(f"{type(entry).__name__} has no rule.")


def _fill_growing(
    entry: Any, parts: Sequence[KVPart], arrays: list[list[mx.array]], depth: int, room_tokens: int
) -> None:
    """mlx-lm copies a buffer whole each time it grows, so there is room for one token at the very least."""
    if type(entry) is QuantizedKVCache:
        arrays = [_quantised(some, entry) for some in arrays]
    if len({len(some) for some in arrays}) > 1 or (type(entry) is KVCache) != (len(arrays[0]) == _PLAIN):
        raise KVMismatch("A row that is not quantised cannot be made of quantised blocks.")
    columns = ((depth + room_tokens) // GRID_TOKENS + 1) * GRID_TOKENS
    whole = [_joined(layer, parts, 0, depth, columns - depth) for layer in zip(*arrays, strict=True)]
    half = len(whole) // 2
    entry.keys, entry.values = whole if half == 1 else (tuple(whole[:half]), tuple(whole[half:]))
    entry.offset = depth


def _fill_ring(entry: Any, parts: Sequence[KVPart], arrays: list[list[mx.array]], depth: int) -> None:
    """The last window, oldest first. A full ring without spare columns is what decode expects to rotate."""
    first = max(0, depth - entry.max_size)
    entry.keys, entry.values = (_joined(layer, parts, first, depth, 0) for layer in zip(*arrays, strict=True))
    entry.offset = depth
    entry._idx = depth - first


def _joined(layer: Sequence[mx.array], parts: Sequence[KVPart], first: int, depth: int, room_tokens: int) -> mx.array:
    """Tokens `first` to `depth` of one array and room behind them, in a buffer of its own."""
    pieces = []
    for array, part in zip(layer, parts, strict=True):
        if part.end <= first:
            continue
        if part.start < first or part.end > depth:
            array = array[:, :, max(0, first - part.start) : depth - part.start]
        pieces.append(array)
    if room_tokens:
        _, heads, _, width = pieces[0].shape
        zero = mx.array(0, pieces[0].dtype)  # as a view: zeros of the full size would be written twice
        pieces.append(mx.broadcast_to(zero, (1, heads, room_tokens, width)))
    return mx.contiguous(pieces[0]) if len(pieces) == 1 else mx.concatenate(pieces, axis=2)


def _quantised(arrays: list[mx.array], entry: Any) -> list[mx.array]:
    """Rounding is by token and group, so a block quantised here is bitwise what a quantised row holds."""
    if len(arrays) != _PLAIN:
        return arrays
    return [array for plain in arrays for array in mx.quantize(plain, group_size=entry.group_size, bits=entry.bits)]


def _arrays(leaf: Any) -> list[mx.array]:
    if hasattr(leaf, "cache"):
        return [array for array in leaf.cache if array is not None]
    return token_arrays(leaf)
