"""Blocks: the KV of one run of tokens for all attention layers, copied out of a row that is being computed.

A block belongs to one stretch of the absolute grid of 256 tokens; the last one of a text may be shorter. It holds
the sliding-window layers too, all their tokens: a ring can then be rebuilt at any depth, at branches and edits as
well. Recurrent layers have no tokens; their states are in snapshots.

Blocks are evaluated when they leave this module, so any thread may read or save them, and nothing ever writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mlx.core as mx

from inference.engine.kv import KVState
from inference.engine.kv_columns import GROWING, RINGS, KVMismatch, attention_leaves, held, leaves, token_arrays
from inference.engine.mlx_lm_door import ArraysCache
from inference.engine.packing import Packed, along_tokens, pack, packed
from inference.engine.settings import GRID_TOKENS


@dataclass(frozen=True, slots=True, eq=False)
class KVBlock:
    """Keys and values of tokens `start` to `end` (exclusive), arrays (1, heads, tokens, width) in layer order.

    `per_layer` says how many arrays each attention layer has: 2, or 6 where it is quantised.
    """

    start: int
    end: int
    packed: Packed
    per_layer: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return self.end - self.start

    @property
    def nbytes(self) -> int:
        """Device bytes: those of the tokens and nothing else."""
        return self.packed.nbytes


@dataclass(frozen=True, slots=True)
class StoreNeeds:
    """What storing a model's state takes.

    `snapshots`: it has recurrent layers, so a row can only be resumed where one was taken. `every_tokens`: in decode
    the state must be captured at least that often, or the smallest window has overwritten tokens.
    """

    snapshots: bool
    every_tokens: int


def unstorable(state: Iterable[Any]) -> str | None:
    """Why a state cannot be kept in blocks and snapshots; None when it can.

    Only classes known to be reproduced exactly are taken, subclasses of them are not. A state that has been computed
    once is told more surely than an empty one: entries that the model leaves alone show only then.
    """
    entries = list(leaves(state))
    started = any(not entry.empty() for entry in entries if type(entry) in (*GROWING, *RINGS, ArraysCache))
    for entry in entries:
        if type(entry) not in (*GROWING, *RINGS, ArraysCache):
            return f"{type(entry).__name__} has no rule"
        if type(entry) in RINGS and getattr(entry, "keep", False):
            return "its window keeps the first tokens"
        if started and type(entry) is not ArraysCache and entry.empty():
            return "the model leaves a cache entry empty"
    return None


def store_needs(state: Iterable[Any]) -> StoreNeeds:
    entries = list(leaves(state))
    windows = [int(entry.max_size) for entry in entries if isinstance(entry, RINGS)]
    return StoreNeeds(any(isinstance(entry, ArraysCache) for entry in entries), min([GRID_TOKENS, *windows]))


def capture(state: KVState, start: int, end: int, row: int = 0) -> KVBlock:
    """Copies tokens `start` to `end`, which lie within one block of the grid, and waits for the copy.

    `state` is a row's own, or a lane's with the row's place in it. Raises `KVMismatch` when an entry does not hold all
    of the tokens: they are not computed yet, or a window has moved on.
    """
    if not start < end <= block_end(start):
        raise KVMismatch(f"Tokens {start} to {end} are not within one block.")
    arrays: list[mx.array] = []
    per_layer = []
    for entry in attention_leaves(state):
        where, layer = held(entry, row), token_arrays(entry)
        arrays += [where.cut(array, row, start, end) for array in layer]
        per_layer.append(len(layer))
    return _evaluated(KVBlock(start, end, pack(arrays), tuple(per_layer)))


def join(parts: Sequence[KVBlock]) -> KVBlock:
    """One block of parts that follow each other. The parts are not needed any more."""
    if len(parts) == 1:
        return parts[0]
    if any(left.end != right.start or left.per_layer != right.per_layer for left, right in pairwise(parts)):
        raise KVMismatch("Parts of a block do not follow each other.")
    joined = along_tokens([part.packed for part in parts])
    return _evaluated(KVBlock(parts[0].start, parts[-1].end, joined, parts[0].per_layer))


def cut(block: KVBlock, end: int) -> KVBlock:
    """The tokens of a block before `end`, as a view that keeps the whole block alive."""
    if not block.start < end <= block.end:
        raise KVMismatch(f"A block of tokens {block.start} to {block.end} cannot be cut at {end}.")
    stacks = [stack[:, :, : end - block.start] for stack in block.packed.stacks]
    return _evaluated(KVBlock(block.start, end, packed(stacks, block.packed.places), block.per_layer))


def block_end(token: int) -> int:
    """The grid line behind a token."""
    return (token // GRID_TOKENS + 1) * GRID_TOKENS


def _evaluated(block: KVBlock) -> KVBlock:
    block.packed.wait()
    return block
