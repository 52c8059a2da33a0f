"""Where the tokens of a row lie in the buffers of mlx-lm's cache classes, plain and batched.

Growing entries hold every token, behind the padding of the row where they are batched, and end in spare room. Rings
hold the last tokens only, and from some point on in rotated order. `held` reads all of that into one record, so that
nothing else needs to know these classes' insides (mlx-lm 0.32.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from inference.engine.mlx_lm_door import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

GROWING = (KVCache, QuantizedKVCache, BatchKVCache)
RINGS = (RotatingKVCache, BatchRotatingKVCache)
RECURRENT = ArraysCache


class KVMismatch(Exception):
    """State, blocks and snapshot do not fit together. A fault of the caller: nothing was stored or assembled."""


@dataclass(frozen=True, slots=True)
class Held:
    """Tokens `first` to `end` (exclusive) of a row are held; token t lies in column (t + `shift`) mod `columns`."""

    first: int
    end: int
    shift: int
    columns: int

    def cut(self, array: mx.array, row: int, start: int, end: int) -> mx.array:
        """(1, heads, tokens, width) of `start` to `end` in order: a view, or a copy where a ring's seam is crossed."""
        if not self.first <= start < end <= self.end:
            raise KVMismatch(f"Tokens {start} to {end} were asked for and {self.first} to {self.end} are held.")
        at = (start + self.shift) % self.columns
        behind = at + end - start - self.columns
        if behind <= 0:
            return array[row : row + 1, :, at : at + end - start]
        return mx.concatenate([array[row : row + 1, :, at:], array[row : row + 1, :, :behind]], axis=2)


def held(entry: Any, row: int) -> Held:
    """What an attention entry holds of a row. Of a batched one this reads arrays that the last step computed."""
    columns = token_arrays(entry)[0].shape[2]
    if isinstance(entry, BatchKVCache):
        padding = _at(entry.left_padding, row)
        return Held(0, entry._idx - padding, padding, columns)
    if isinstance(entry, RotatingKVCache):
        rotated = entry._idx < min(entry.offset, columns)
        return _ring(entry.offset, entry._idx, rotated, columns)
    if isinstance(entry, BatchRotatingKVCache):
        ring = _ring(_at(entry.offset, row), entry._idx, entry.rotated, columns)
        padding = max(0, _at(entry.left_padding, row))
        return Held(ring.first + padding, ring.end, ring.shift, columns)
    return Held(0, entry.offset, 0, columns)


def _at(numbers: Any, row: int) -> int:
    """Read whole: indexing would start a computation for every layer, and the last step has computed these."""
    return int(numbers.tolist()[row])


def _ring(end: int, index: int, rotated: bool, columns: int) -> Held:
    """`index` is the column behind the newest token. A rotated ring is full, and its oldest token is there."""
    first = end - (columns if rotated else index)
    return Held(first, end, (index if rotated else 0) - first, columns)


def token_arrays(entry: Any) -> list[mx.array]:
    """Arrays (rows, heads, columns, width) of an attention entry: keys and values, three of each when quantised."""
    if entry.keys is None:
        raise KVMismatch("A cache entry of this model was never written.")
    if isinstance(entry, QuantizedKVCache):
        return [*entry.keys, *entry.values]
    return [entry.keys, entry.values]


def leaves(state: Iterable[Any]) -> Iterator[Any]:
    """The entries of a state, those inside of lists one by one."""
    for entry in state:
        if isinstance(entry, CacheList):
            yield from leaves(entry.caches)
        else:
            yield entry


def attention_leaves(state: Iterable[Any]) -> list[Any]:
    return [leaf for leaf in leaves(state) if not isinstance(leaf, RECURRENT)]


def recurrent_leaves(state: Iterable[Any]) -> list[Any]:
    return [leaf for leaf in leaves(state) if isinstance(leaf, RECURRENT)]
