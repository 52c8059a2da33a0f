"""Blocks: the KV of one run of tokens for all attention layers, copied out of a row that is being computed.

A block belongs to one stretch of the absolute grid of 256 tokens; the last one of a text may be shorter. It holds
the sliding-window layers too, all their tokens: a ring can then be rebuilt at any depth, at branches and edits as
well. Recurrent layers have no tokens; their states are in snapshots.

Blocks are evaluated when they leave this module, so any thread may read or save them, and nothing ever writes them.
Where two of them begin with the same tokens, both can hold these in one allocation: blocks are made of parts.
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
from inference.engine.packing import Packed, along_tokens, copied, pack, packed
from inference.engine.settings import GRID_TOKENS


@dataclass(frozen=True, slots=True, eq=False)
class KVPart:
    """Keys and values of tokens `start` to `end` (exclusive), arrays (1, heads, tokens, width) in layer order.

    `per_layer` says how many arrays each attention layer has: 2, or 6 where it is quantised. Blocks that begin alike
    hold one and the same part; it goes when the last of them does.
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

    def halves(self, at: int) -> tuple[KVPart, KVPart]:
        """Copies of the tokens before depth `at` and of those behind, unevaluated."""
        stacks = self.packed.stacks
        before = copied([stack[:, :, : at - self.start] for stack in stacks], self.packed.places)
        behind = copied([stack[:, :, at - self.start :] for stack in stacks], self.packed.places)
        return KVPart(self.start, at, before, self.per_layer), KVPart(at, self.end, behind, self.per_layer)


@dataclass(frozen=True, slots=True, eq=False)
class KVBlock:
    """A block, made of parts that follow each other. One part, unless it shares its beginning with other blocks."""

    parts: tuple[KVPart, ...]

    @property
    def start(self) -> int:
        return self.parts[0].start

    @property
    def end(self) -> int:
        return self.parts[-1].end

    @property
    def per_layer(self) -> tuple[int, ...]:
        return self.parts[0].per_layer

    @property
    def tokens(self) -> int:
        return self.end - self.start

    @property
    def nbytes(self) -> int:
        """Device bytes, those of shared parts included."""
        return sum(part.nbytes for part in self.parts)

    def parted(self, tokens: int) -> KVBlock:
        """The same block with a part that ends behind its first `tokens`: itself, or two copies in a part's place."""
        at = self.start + tokens
        if not self.start < at <= self.end:
            raise KVMismatch(f"A block of tokens {self.start} to {self.end} cannot be parted at {at}.")
        if any(part.end == at for part in self.parts):
            return self
        parted = [part.halves(at) if part.start < at < part.end else (part,) for part in self.parts]
        return _evaluated(KVBlock(tuple(part for some in parted for part in some)))

    def sharing(self, other: KVBlock, tokens: int) -> KVBlock:
        """The same tokens, the first `tokens` of them held by the parts of `other`, which must end there.

        The rest is copied where this block's own part does not begin there, so that no byte is held twice.
        """
        at = self.start + tokens
        if other.start != self.start or other.per_layer != self.per_layer or at >= self.end:
            raise KVMismatch("Blocks of other tokens or another layout share nothing.")
        if all(part.end != at for part in other.parts):
            raise KVMismatch(f"No part ends at {at}.")
        first = [part for part in other.parts if part.end <= at]
        parts = [part.halves(at)[1] if part.start < at else part for part in self.parts if part.end > at]
        return _evaluated(KVBlock((*first, *parts)))


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
    return _evaluated(block_of(start, end, pack(arrays), tuple(per_layer)))


def block_of(start: int, end: int, packed: Packed, per_layer: tuple[int, ...]) -> KVBlock:
    """A block in one part."""
    return KVBlock((KVPart(start, end, packed, per_layer),))


def joined(block: KVBlock) -> Packed:
    """A block's arrays as whole stacks, evaluated: its own, or a copy where it has several parts."""
    if len(block.parts) == 1:
        return block.parts[0].packed
    whole = along_tokens([part.packed for part in block.parts])
    whole.wait()
    return whole


def join(blocks: Sequence[KVBlock]) -> KVBlock:
    """One block, in one part, of pieces that follow each other. The pieces are not needed any more."""
    if len(blocks) == 1:
        return blocks[0]
    parts = [part for block in blocks for part in block.parts]
    if any(left.end != right.start or left.per_layer != right.per_layer for left, right in pairwise(parts)):
        raise KVMismatch("Parts of a block do not follow each other.")
    whole = along_tokens([part.packed for part in parts])
    return _evaluated(block_of(parts[0].start, parts[-1].end, whole, parts[0].per_layer))


def cut(block: KVBlock, end: int) -> KVBlock:
    """The tokens of a block before `end`, as a view that keeps all parts with such tokens alive."""
    if not block.start < end <= block.end:
        raise KVMismatch(f"A block of tokens {block.start} to {block.end} cannot be cut at {end}.")
    return _evaluated(KVBlock(tuple(_until(part, end) for part in block.parts if part.start < end)))


def _until(part: KVPart, end: int) -> KVPart:
    if part.end <= end:
        return part
    stacks = [stack[:, :, : end - part.start] for stack in part.packed.stacks]
    return KVPart(part.start, end, packed(stacks, part.packed.places), part.per_layer)


def block_end(token: int) -> int:
    """The grid line behind a token."""
    return (token // GRID_TOKENS + 1) * GRID_TOKENS


def _evaluated(block: KVBlock) -> KVBlock:
    for part in block.parts:
        part.packed.wait()
    return block
