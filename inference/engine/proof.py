"""What a block's KV is, in two numbers, made on the device: to see later that nothing has written to it."""

from __future__ import annotations

from collections.abc import Hashable

import mlx.core as mx

from inference.cache.blocks import BlockHandle
from inference.engine.blocks import KVBlock

_BITS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}


def proof(block: BlockHandle) -> tuple[Hashable, Hashable]:
    """The sums of all values and of their squares, read as whole numbers, modulo 2**32: without rounding in any order.

    So the same tokens have the same proof in one part and in several, and one changed value changes the first sum. It
    reads what rows are assembled from.
    """
    assert isinstance(block, KVBlock)
    arrays = [array for part in block.parts for array in part.packed.arrays if array is not None]
    raw = [array.view(_BITS[array.itemsize]).astype(mx.uint32) for array in arrays]
    sums = mx.stack([mx.stack([one.sum(), (one * one).sum()]) for one in raw]).sum(axis=0)
    return sums[0].item(), sums[1].item()
