"""How one token is drawn from logits, for all rows of a lane at once.

Order, as in the models' own reference code: temperature, then top_k, top_p and min_p, each on what the one before
left, then the draw. Tokens that tie at a filter's border are kept together, so nothing depends on how a sort breaks
ties. What is done to logits before (penalties, bias, masks) is `steering`. Logits and log-probabilities give the same
draw, so nothing is normalised: for a row of 152k that took 3 ms on a CPU.

A draw is `argmax(filtered log-probabilities + Gumbel noise)`, the noise keyed by (seed, position) and token id. So a
row's draws depend on its own seed, position and logits, not on its neighbours, its place in the batch or how many
rows were drawn with it. Greedy rows take the exact argmax.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from inference.params import SamplingParams

_MASK_64 = 2**64 - 1
_HEAD_TOKENS = 64
"""A top_k up to this needs the 64 best only: finding them took 9 ms where sorting took 123 (8 rows of 152k, CPU)."""
_LEAST_NOISE = -1e30
"""Gumbel noise can be -inf (1 in 2^23); if that hit the only token left, argmax would pick token 0 instead."""


def mix64(value: int) -> int:
    """A 64-bit integer scrambled (the finaliser of splitmix64), one to one."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)


def stream_key(seed: int, position: int) -> tuple[int, int]:
    """The two words that key the noise of one position of one seed."""
    key = mix64(mix64(seed & _MASK_64) ^ mix64(~position & _MASK_64))
    return key >> 32, key & 0xFFFFFFFF


@dataclass(slots=True, eq=False)
class RowSampling:
    """A row's sampling state. `position` is that of the next token it draws; `error` what went wrong drawing it."""

    params: SamplingParams
    position: int
    seed: int = field(init=False)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.seed = secrets.randbits(64) if self.params.seed is None else self.params.seed

    def next_key(self) -> tuple[int, int]:
        return stream_key(self.seed, self.position)

    @property
    def head_tokens(self) -> int:
        """How many of the best tokens its filters look at: -1 greedy, 0 no filter, 1 min_p only, 64, or all (2**31).

        Rows of the same figure share a call. It depends on the row's own settings alone, so that company never
        changes which arithmetic a row gets.
        """
        params = self.params
        if params.is_greedy:
            return -1
        if 0 < params.top_k <= _HEAD_TOKENS:
            return _HEAD_TOKENS
        if params.top_k > 0 or params.top_p < 1.0:
            return 2**31
        return 1 if params.min_p > 0.0 else 0

    @property
    def has_penalties(self) -> bool:
        params = self.params
        return params.penalty_context_tokens > 0 and (
            params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        )


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows of a lane drawn by one call; their settings as columns, (rows, 1)."""

    rows: tuple[int, ...]
    index: Any
    head_tokens: int
    temperature: Any
    top_k: Any
    top_p: Any
    log_min_p: Any


class LaneSampler:
    """Draws one token for each row of a lane."""

    def __init__(self, rows: Sequence[RowSampling]) -> None:
        self._rows: list[RowSampling] = []
        self._groups: tuple[_Group, ...] = ()
        self._order: Any = None
        self.seat(rows)

    def seat(self, rows: Sequence[RowSampling]) -> None:
        """Says which rows the batch holds now, in its order."""
        self._rows = list(rows)
        members: dict[int, list[int]] = {}
        for at, row in enumerate(self._rows):
            members.setdefault(row.head_tokens, []).append(at)
        self._groups = tuple(self._group(head, tuple(at)) for head, at in sorted(members.items()))
        seats = [at for group in self._groups for at in group.rows]
        self._order = mx.array(sorted(range(len(seats)), key=seats.__getitem__)) if len(self._groups) > 1 else None

    def _group(self, head_tokens: int, at: tuple[int, ...]) -> _Group:
        params = [self._rows[row].params for row in at]
        everything = 2**31 - 1

        def column(values: list[float]) -> Any:
            return mx.array(values, dtype=mx.float32)[:, None]

        return _Group(
            rows=at,
            index=None if len(at) == len(self._rows) else mx.array(at),
            head_tokens=head_tokens,
            temperature=column([p.temperature for p in params]),
            top_k=mx.array([p.top_k or everything for p in params], dtype=mx.int32)[:, None],
            top_p=column([p.top_p for p in params]),
            log_min_p=column([math.log(p.min_p) if p.min_p > 0.0 else -math.inf for p in params]),
        )

    def __call__(self, logits: Any) -> Any:
        """Token ids, (rows,), unevaluated, from logits, (rows, vocabulary).

        A row whose settings break the draw gets `error` and a stand-in token.
        """
        drawn = [self._draw(group, logits) for group in self._groups]
        for row in self._rows:
            row.position += 1
        return drawn[0] if self._order is None else mx.concatenate(drawn)[self._order]

    def _draw(self, group: _Group, logits: Any) -> Any:
        mine = logits if group.index is None else logits[group.index]
        if group.head_tokens < 0:
            return mx.argmax(mine, axis=-1)
        try:
            return draw(mine, group, [self._rows[at].next_key() for at in group.rows])
        except Exception as error:
            if len(group.rows) > 1:  # one by one, so that only the row at fault is lost
                alone = [self._group(group.head_tokens, (at,)) for at in group.rows]
                return mx.concatenate([self._draw(one, logits) for one in alone])
            self._rows[group.rows[0]].error = error
            return mx.argmax(mine, axis=-1)


def draw(logits: Any, group: _Group, keys: list[tuple[int, int]]) -> Any:
    """One token per row of a group."""
    scaled = _tempered(logits, group.temperature)
    if group.head_tokens > 0:
        scaled = mx.where(scaled >= _border(scaled, group), scaled, -math.inf)
    return mx.argmax(scaled + _noise(keys, scaled.shape[-1]), axis=-1)


def _tempered(logits: Any, temperature: Any) -> Any:
    """Log-probabilities over temperature, shifted so that the best is 0: no temperature can overflow it."""
    exact = logits.astype(mx.float32)
    return (exact - exact.max(axis=-1, keepdims=True)) / temperature


def _border(scaled: Any, group: _Group) -> Any:
    """The least value that survives top_k, top_p and min_p, (rows, 1)."""
    if group.head_tokens == 1:
        return group.log_min_p  # the best token stands at 0
    size = min(group.head_tokens, scaled.shape[-1])
    head = mx.sort(scaled if size == scaled.shape[-1] else mx.topk(scaled, size, axis=-1), axis=-1)[:, ::-1]
    last_k = mx.take_along_axis(head, mx.minimum(group.top_k, size) - 1, axis=-1)
    weights = mx.where(head >= last_k, mx.exp(head), 0.0)
    reached = mx.cumsum(weights, axis=-1)
    kept = (reached - weights < group.top_p * reached[:, -1:]) & (weights > 0.0)
    last_p = mx.take_along_axis(head, mx.maximum(kept.sum(axis=-1, keepdims=True), 1) - 1, axis=-1)
    last_p = mx.where(group.top_p < 1.0, last_p, -math.inf)
    return mx.maximum(mx.maximum(last_k, last_p), group.log_min_p)


def _noise(keys: list[tuple[int, int]], vocabulary: int) -> Any:
    """Gumbel noise, (rows, vocabulary), each row from its own key."""
    if len(keys) == 1:  # the same numbers as below, without the cost of mapping over keys
        noise = mx.random.gumbel((1, vocabulary), key=mx.array(keys[0], dtype=mx.uint32))
    else:
        noise = mx.vmap(lambda key: mx.random.gumbel((vocabulary,), key=key))(mx.array(keys, dtype=mx.uint32))
    return mx.maximum(noise, _LEAST_NOISE)
