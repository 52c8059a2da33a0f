"""How far two computations of the same tokens lie apart, and how far rounding alone may take them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Final

import mlx.core as mx

from inference.engine.blocks import KVBlock, KVPart
from inference.engine.kv import KVState
from inference.engine.kv_columns import attention_leaves, recurrent_leaves, token_arrays
from inference.engine.mlx_lm_door import QuantizedKVCache
from inference.engine.snapshots import RecurrentSnapshot
from inference.params import KVQuantisation

TOP: Final = 16
"""Of each draw the most likely tokens are compared: those that could be drawn at all."""
_QUANTISED: Final = 6
"""Arrays of a quantised layer: words, scales and biases of keys and of values."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What rounding may do: to a log-probability, and to keys, values and states as a part of the largest of them.

    `kv` is infinite where an expert chosen by a hair makes honest values of one token differ altogether.
    """

    logprob: float
    kv: float


_HALF_BYTES: Final = 2
_FOUR: Final = 4
_ROUTED: Final = 2
_FULL: Final = Tolerance(1e-3, 1e-3)
_HALF: Final = Tolerance(1.0, 0.25)
_EIGHT_BITS: Final = Tolerance(0.02, 0.02)
_FOUR_BITS: Final = Tolerance(0.2, 0.2)


@dataclass(frozen=True, slots=True)
class Draw:
    """What a row would have drawn: its `best` token, and the log-probabilities of some."""

    best: int
    best_logprob: float
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def is_sound(self) -> bool:
        """Whether all of it are numbers."""
        return all(map(isfinite, self.logprobs))


def draw(logits: Any, ids: tuple[int, ...] = ()) -> Draw:
    """Of logits (vocabulary,): the log-probabilities of `ids`, or else of the most likely."""
    logits = logits.astype(mx.float32)
    logprobs: Any = logits - mx.logsumexp(logits)
    best: Any = mx.argmax(logprobs)
    at: Any = mx.array(ids) if ids else mx.argsort(-logprobs)[:TOP]
    found = logprobs[at]
    mx.eval(best, at, found)
    return Draw(best.item(), logprobs[best].item(), tuple(at.tolist()), tuple(found.tolist()))


def distance(warm: Draw, cold: Draw) -> float:
    """The largest difference of log-probabilities; infinite where there is no number."""
    if not (warm.is_sound and cold.is_sound):
        return inf
    return max(abs(one - other) for one, other in zip(warm.logprobs, cold.logprobs, strict=True))


def parts(warm: Draw, cold: Draw, near: float) -> bool:
    """Whether the cold row would have gone on otherwise, and not by a hair. `cold` knows the warm one's tokens."""
    if cold.best == warm.best:
        return False
    chosen = cold.logprobs[warm.ids.index(warm.best)] if warm.best in warm.ids else -inf
    return not cold.best_logprob - chosen <= near


def tolerance(state: KVState, how: KVQuantisation | None, *, routed: bool) -> Tolerance:
    """By the least exact kind of number in a row's state. `routed`: the model has experts to choose from."""
    arrays = [array for leaf in attention_leaves(state) for array in token_arrays(leaf)]
    arrays += [array for leaf in recurrent_leaves(state) for array in leaf.cache if array is not None]
    narrowest = min((array.itemsize for array in arrays if mx.issubdtype(array.dtype, mx.floating)), default=0)
    rounding = _FULL if narrowest > _HALF_BYTES else _HALF
    if how is not None and any(isinstance(leaf, QuantizedKVCache) for leaf in attention_leaves(state)):
        coarse = _EIGHT_BITS if how.bits > _FOUR else _FOUR_BITS
        rounding = Tolerance(max(rounding.logprob, coarse.logprob), max(rounding.kv, coarse.kv))
    return Tolerance(rounding.logprob * _ROUTED, inf) if routed else rounding


def block_distance(stored: KVBlock, cold: KVBlock, how: KVQuantisation | None) -> float:
    """Of the tokens that `cold` holds, which lie within `stored`; 0 where the two are not kept in the same form."""
    if stored.per_layer != cold.per_layer:
        return 0.0
    ours, theirs = _tokens(stored, cold.start, cold.end), _tokens(cold, cold.start, cold.end)
    return _farthest(zip(_plain(ours, cold.per_layer, how), _plain(theirs, cold.per_layer, how), strict=True))


def state_distance(stored: RecurrentSnapshot, cold: RecurrentSnapshot) -> float:
    """Of two recurrent states at one depth."""
    pairs = zip(stored.packed.arrays, cold.packed.arrays, strict=True)
    return _farthest((ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None)


def _tokens(block: KVBlock, start: int, end: int) -> list[mx.array]:
    """A block's arrays, those of tokens `start` to `end`."""
    some = [_cut(part, start, end) for part in block.parts if part.end > start and part.start < end]
    return [mx.concatenate(list(pieces), axis=2) for pieces in zip(*some, strict=True)]


def _cut(part: KVPart, start: int, end: int) -> list[mx.array]:
    first, last = max(0, start - part.start), end - part.start
    return [array[:, :, first:last] for array in part.packed.arrays if array is not None]


def _plain(arrays: list[mx.array], per_layer: tuple[int, ...], how: KVQuantisation | None) -> Iterator[mx.array]:
    left = iter(arrays)
    for count in per_layer:
        layer = [next(left) for _ in range(count)]
        if count == _QUANTISED and how is not None:
            for words, scales, biases in (layer[:3], layer[3:]):
                yield mx.dequantize(words, scales, biases, group_size=how.group_size, bits=how.bits)
        else:
            yield from layer


def _farthest(pairs: Iterable[tuple[mx.array, mx.array]]) -> float:
    """The largest difference as a part of the largest value of its array; infinite where there is no number."""
    found = [_apart(ours.astype(mx.float32), theirs.astype(mx.float32)) for ours, theirs in pairs]
    farthest: Any = mx.max(mx.stack(found)).item() if found else 0.0
    return float(farthest)


def _apart(ours: mx.array, theirs: mx.array) -> mx.array:
    apart = mx.abs(ours - theirs) / mx.maximum(mx.max(mx.abs(theirs)), 1e-6)
    return mx.max(mx.where(mx.isnan(apart), mx.array(inf), apart))
