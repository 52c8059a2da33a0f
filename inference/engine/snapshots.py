"""Snapshots: the state of a model's recurrent layers at one depth.

A recurrent state is a sum over everything read so far: it cannot be cut, so it can only be used at the very depth it
was taken. It may be as large as ten blocks of KV, so where to take one is planned elsewhere, sparsely.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from inference.engine.kv import KVState
from inference.engine.kv_columns import KVMismatch, attention_leaves, held, recurrent_leaves
from inference.engine.packing import Packed, pack


@dataclass(frozen=True, slots=True, eq=False)
class RecurrentSnapshot:
    """Arrays of all recurrent layers after `depth` tokens, in layer order. Evaluated, and never written."""

    depth: int
    packed: Packed

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes


def snapshot(state: KVState, depth: int, row: int = 0) -> RecurrentSnapshot:
    """Copies the recurrent arrays of a row that has read exactly `depth` tokens, and waits for the copy.

    Raises `KVMismatch` when an attention layer tells that the row stands elsewhere.
    """
    stands = {held(entry, row).end for entry in attention_leaves(state)}
    if stands - {depth}:
        raise KVMismatch(f"The row has read {max(stands)} tokens, not {depth}.")
    arrays = [
        None if array is None else array[row : row + 1] for entry in recurrent_leaves(state) for array in entry.cache
    ]
    taken = RecurrentSnapshot(depth, pack(arrays))
    taken.packed.wait()
    return taken


def restore(fresh: KVState, taken: RecurrentSnapshot) -> None:
    """Puts copies of a snapshot's arrays into an empty row. They are unevaluated when this returns."""
    entries = recurrent_leaves(fresh)
    arrays = iter(taken.packed.arrays)
    if sum(len(entry.cache) for entry in entries) != len(taken.packed.places):
        raise KVMismatch("The snapshot is of another model.")
    for entry in entries:
        entry.cache = [None if (array := next(arrays)) is None else mx.contiguous(array) for _ in entry.cache]
