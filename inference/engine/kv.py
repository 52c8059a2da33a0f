"""KV state of rows: one cache entry per layer, in mlx-lm's classes, plain for one row and batched for several.

A row's state is a list of entries that need not equal the layers. A row alone keeps plain entries: they need no
mask in decode and, unlike batched ones, exist for every class. Rows that decode together are merged into one padded
state and taken out of it again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx

from inference.engine.mlx_lm_door import KVCache
from inference.engine.settings import GRID_TOKENS
from inference.params import KVQuantisation

KVState = list[Any]
"""Cache entries of one row or of one batch."""


def can_batch(state: Iterable[Any]) -> bool:
    """Whether rows of this state may share a batch.

    mlx-lm cannot merge chunked, concatenating and quantised entries, and merges a ring with attention sinks
    (`keep`) into one without them, silently.
    """
    return all(_merges(entry) for entry in state)


def _merges(entry: Any) -> bool:
    if (inner := getattr(entry, "caches", None)) is not None:
        return can_batch(inner)
    return hasattr(entry, "merge") and not getattr(entry, "keep", 0)


def merge(states: Sequence[KVState]) -> KVState:
    """One batched state of several plain ones, shorter rows padded on the left. Each must hold at least one token."""
    return [entries[0].merge(list(entries)) for entries in zip(*states, strict=True)]


def extract(batched: KVState, row: int) -> KVState:
    """The plain state of one row of a batch."""
    return [entry.extract(row) for entry in batched]


def fork(state: KVState) -> KVState:
    """The same state once more: its arrays are shared until one of the two is written to."""
    return copy.deepcopy(state)


def is_plain(state: KVState) -> bool:
    """Whether a state is keys and values of every token and nothing else."""
    return bool(state) and all(type(entry) is KVCache for entry in state)


def can_quantise(state: KVState) -> bool:
    """Whether all keys and values of this state can be quantised, and there are some.

    mlx-lm cannot quantise rings, chunked entries and lists of entries; recurrent state has no keys and stays exact.
    """
    growing = [entry for entry in state if type(entry) is KVCache]
    return bool(growing) and not any(
        hasattr(entry, "keys") or hasattr(entry, "caches") for entry in state if type(entry) is not KVCache
    )


def quantised_from(how: KVQuantisation) -> int:
    """The grid line at which a row's layers become quantised: the first at or behind the token that was asked for.

    So the blocks before it are the same for every row, and a branch from one of them is as exact as it ever was.
    """
    return -(-how.start_tokens // GRID_TOKENS) * GRID_TOKENS


def quantise(state: KVState, wanted: KVQuantisation | None) -> None:
    """Quantises, in place, the entries that have come to `quantised_from`. Done before each time tokens are fed."""
    if wanted is None:
        return
    for at, entry in enumerate(state):
        if type(entry) is KVCache and entry.offset >= quantised_from(wanted):
            state[at] = entry.to_quantized(group_size=wanted.group_size, bits=wanted.bits)


def begin(state: Iterable[Any]) -> None:
    """Starts computing the state on the device and returns."""
    mx.async_eval([entry.state for entry in state])  # type: ignore[no-untyped-call]


def wait(state: Iterable[Any], *others: Any) -> None:
    """Computes the state, and other arrays with it."""
    mx.eval([entry.state for entry in state], *others)


def nbytes(state: Iterable[Any]) -> int:
    """Device bytes the entries hold, padding included."""
    return sum(entry.nbytes for entry in state if not entry.empty())


def row_cost(state: Iterable[Any], tokens_per_chunk: int) -> tuple[int, int]:
    """(bytes per token, fixed bytes) of one row, from entries that hold at least one token.

    Only shapes are read, so the entries may be unevaluated. A ring holds its window and, in prefill, one chunk more;
    growing entries are padded to a step of tokens.
    """
    per_token = fixed = 0
    for entry in _leaves(state):
        if getattr(entry, "keys", None) is None:
            fixed += sum(array.nbytes for array in _held(entry))
            continue
        token_bytes = sum(_bytes_per_token(array) for array in _flat((entry.keys, entry.values)))
        window = getattr(entry, "max_size", None) or getattr(entry, "chunk_size", None)
        if window:
            fixed += token_bytes * (window + tokens_per_chunk - 1)
        else:
            per_token += token_bytes
            fixed += token_bytes * (getattr(entry, "step", 1) - 1)
    return per_token, fixed


def _leaves(state: Iterable[Any]) -> Iterable[Any]:
    for entry in state:
        if (inner := getattr(entry, "caches", None)) is not None:
            yield from _leaves(inner)
        else:
            yield entry


def _held(entry: Any) -> list[Any]:
    return [array for array in _flat(entry.state) if isinstance(array, mx.array)]


def _flat(value: Any) -> Iterable[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _bytes_per_token(array: Any) -> int:
    """Keys and values are (rows, heads, tokens, width)."""
    return int(array.shape[1] * array.shape[3] * array.itemsize)
