"""Decode in lanes: rows of like length share a batch, each lane one mlx-lm `GenerationBatch` (see decision 0003).

A batch pads every row to its longest; measured, a row of 20k tokens joined by seven of 500 grew 146 MB of KV to 983.
So rows share a lane only while no row is padded by more than its own length, short ones by at most 1024 tokens.
All rows of a lane grow alike, so the padding never does: the rule holds from a join until the next one.

`GenerationBatch` runs one step ahead: a step starts the next token on the device and returns the one before. A row
that ends with token k has therefore been fed k already; the draw that ran ahead is dropped with the row.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import mlx.core as mx

from inference.engine import kv
from inference.engine.kv import KVState
from inference.engine.mlx_lm_door import GenerationBatch, StopSequences
from inference.engine.rows import Row
from inference.engine.sampler import LaneSampler, Penalties
from inference.tokens import TokenIds

SHORT_TOKENS = 1024
"""Below this, padding is too small to keep rows apart."""
_NEVER_STOPS = StopSequences()


def may_share(lengths_tokens: Sequence[int]) -> bool:
    """Whether rows of these lengths may share a lane: longest at most twice the shortest, or short ones together."""
    shortest = min(lengths_tokens)
    return max(lengths_tokens) - shortest <= max(shortest, SHORT_TOKENS)


class Lane:
    """Rows that are stepped together. One row keeps its plain KV state; it is merged when a second joins."""

    def __init__(self, model: object, rows: Sequence[Row], state: KVState) -> None:
        """Feeds each row's last token: its next token is on its way when this returns.

        Several rows are forks: `state` is what they all have read, and each gets its own copy of it.
        """
        self.rows = list(rows)
        kv.quantise(state, rows[0].job.kv)
        self.mergeable = kv.can_batch(state) and not any(row.alone for row in rows)
        self._sampler = LaneSampler([row.sampling for row in rows])
        self._batch = GenerationBatch(
            model,
            list(rows),
            mx.array([row.ids[-1] for row in rows], dtype=mx.uint32),
            state if len(rows) == 1 else kv.merge([state] * len(rows)),
            [list(_recent(row)) for row in rows],
            [None] * len(rows),
            self._sampler,
            [(Penalties(row.sampling),) if row.sampling.has_penalties else () for row in rows],
            [_NEVER_STOPS] * len(rows),
            [sys.maxsize] * len(rows),
        )

    @property
    def lengths_tokens(self) -> list[int]:
        return [row.length_tokens for row in self.rows]

    @property
    def kv_bytes(self) -> int:
        return kv.nbytes(self._batch.prompt_cache)

    def takes(self, other: Lane) -> bool:
        return self.mergeable and other.mergeable and may_share(self.lengths_tokens + other.lengths_tokens)

    def join(self, other: Lane) -> None:
        """Takes over the rows of a lane just made."""
        mine, theirs = self._batch, other._batch
        if len(self.rows) == len(other.rows) == 1:
            mine.prompt_cache = kv.merge([mine.prompt_cache, theirs.prompt_cache])
            theirs.prompt_cache = []
        else:
            for lane in (self, other):
                if len(lane.rows) == 1:
                    lane._batch.prompt_cache = kv.merge([lane._batch.prompt_cache])
        mine.extend(theirs)
        self.rows += other.rows
        self._seat()

    def step(self) -> list[tuple[Row, int]]:
        """One token for each row."""
        kv.quantise(self._batch.prompt_cache, self.rows[0].job.kv)
        return [(reply.uid, int(reply.token)) for reply in self._batch.next()]

    def drop(self, gone: Sequence[Row]) -> None:
        """Frees rows; the others are not disturbed."""
        keep = [at for at, row in enumerate(self.rows) if row not in gone]
        if len(keep) == len(self.rows):
            return
        left = [self.rows[at] for at in keep]
        if len(keep) == 1:  # taken out rather than filtered: plain entries again, and one copy instead of two
            state = kv.extract(self._batch.prompt_cache, keep[0])
            self._batch.prompt_cache = []
            self._batch.filter(keep)
            self._batch.prompt_cache = state
        else:
            self._batch.filter(keep)
        self.rows = left
        self._seat()

    def _seat(self) -> None:
        self._sampler.seat([row.sampling for row in self.rows])


def _recent(row: Row) -> TokenIds:
    """The tokens a row's penalties look at, less the one that is fed now."""
    return row.ids[:-1][-row.job.sampling.penalty_context_tokens :] if row.sampling.has_penalties else ()


class Lanes:
    """All rows in decode."""

    def __init__(self) -> None:
        self._lanes: list[Lane] = []

    def __iter__(self) -> Iterator[Lane]:
        return iter(tuple(self._lanes))

    def __len__(self) -> int:
        """Rows, not lanes."""
        return sum(len(lane.rows) for lane in self._lanes)

    @property
    def kv_bytes(self) -> int:
        return sum(lane.kv_bytes for lane in self._lanes)

    def find(self, job_id: str) -> tuple[Lane, Row] | None:
        return next(((lane, row) for lane in self._lanes for row in lane.rows if row.job.id == job_id), None)

    def home_for(self, lane: Lane) -> Lane | None:
        """The fullest lane that a new row's lane may join, None when it is to be a lane of its own."""
        fitting = [other for other in self._lanes if other.takes(lane)]
        return max(fitting, key=lambda other: len(other.rows), default=None)

    def add(self, lane: Lane) -> None:
        self._lanes.append(lane)

    def remove(self, lane: Lane) -> None:
        self._lanes.remove(lane)

    def drop(self, lane: Lane, gone: Sequence[Row]) -> None:
        lane.drop(gone)
        if not lane.rows:
            self._lanes.remove(lane)

    def clear(self) -> None:
        self._lanes.clear()
