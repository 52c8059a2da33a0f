"""Decode in lanes: rows of like length share a batch, stepped together (see decisions 0003 and 0005).

A batch pads every row to its longest; measured, a row of 20k tokens joined by seven of 500 grew 146 MB of KV to 983.
So rows share a lane only while no row is padded by more than its own length, short ones by at most 1024 tokens.
All rows of a lane grow alike, so the padding never does: the rule holds from a join until the next one.

A lane runs one step ahead: a step starts the next token on the device and returns the one before. A row that ends
with token k has therefore been fed k already; the draw that ran ahead is dropped with the row, and not even made where
every row is known to end with the token it has. Where a draw depends on which token the last one was (a grammar,
penalties), the forward pass is under way before that token is asked for, so that the processor works on the mask
while the device works on the logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from inference.engine import kv
from inference.engine.kv import KVState
from inference.engine.logprobs import Measured, measure
from inference.engine.rows import Row
from inference.engine.sampler import LaneSampler
from inference.engine.steering import steer
from inference.events import TokenLogprob
from inference.tokens import TokenIds

SHORT_TOKENS = 1024
"""Below this, padding is too small to keep rows apart."""


def may_share(lengths_tokens: Sequence[int]) -> bool:
    """Whether rows of these lengths may share a lane: longest at most twice the shortest, or short ones together."""
    shortest = min(lengths_tokens)
    return max(lengths_tokens) - shortest <= max(shortest, SHORT_TOKENS)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token that a row drew, with its log-probability where the job asks for it."""

    row: Row
    token: int
    logprob: TokenLogprob | None = None


class Lane:
    """Rows that are stepped together. One row keeps its plain KV state; it is merged when a second joins."""

    def __init__(self, model: Any, rows: Sequence[Row], state: KVState, logits: Any = None) -> None:
        """Each row's next token is on its way when this returns, drawn from `logits`, (1, vocabulary).

        Without them each row's last token is fed first. Several rows are forks: `state` is what they all have read, and
        each gets its own copy of it.
        """
        for row in rows:
            row.rewind()
        self.rows = list(rows)
        kv.quantise(state, rows[0].job.kv)
        self.mergeable = kv.can_batch(state) and not any(row.alone for row in rows)
        self._model = model
        self._state = state if len(rows) == 1 else kv.merge([state] * len(rows))
        self._sampler = LaneSampler([row.sampling for row in rows])
        self._tokens: Any = None
        self._logprobs: list[Measured | None] = []
        if logits is None:
            logits = self._forward(mx.array([row.ids[-1] for row in rows], dtype=mx.uint32))
        self._draw(logits)

    @property
    def lengths_tokens(self) -> list[int]:
        return [row.length_tokens for row in self.rows]

    @property
    def kv_bytes(self) -> int:
        return kv.nbytes(self._state)

    def takes(self, other: Lane) -> bool:
        return self.mergeable and other.mergeable and may_share(self.lengths_tokens + other.lengths_tokens)

    def join(self, other: Lane) -> None:
        """Takes over the rows of a lane just made."""
        if len(self.rows) == len(other.rows) == 1:
            self._state = kv.merge([self._state, other._state])
        else:
            for lane in (self, other):
                if len(lane.rows) == 1:
                    lane._state = kv.merge([lane._state])
            for mine, theirs in zip(self._state, other._state, strict=True):
                mine.extend(theirs)
        other._state = []
        self._tokens = mx.concatenate([self._tokens, other._tokens])
        self._logprobs += other._logprobs
        self._seat([*self.rows, *other.rows])

    def step(self) -> list[Drawn]:
        """One token for each row."""
        tokens, logprobs = self._tokens, self._logprobs
        kv.quantise(self._state, self.rows[0].job.kv)
        logits = self._forward(tokens)
        last = all(row.ends_next for row in self.rows)
        if any(row.listens for row in self.rows):
            if not last:
                mx.async_eval(logits)  # type: ignore[no-untyped-call]
            for row, token in zip(self.rows, tokens.tolist(), strict=True):
                row.read(token)
        if not last:  # what was fed is still in the state, for a trail to compute: the output layer is not
            self._draw(logits)
        return [
            Drawn(row, token, None if logprob is None else logprob.read(token))
            for row, token, logprob in zip(self.rows, tokens.tolist(), logprobs, strict=True)
        ]

    def _forward(self, tokens: Any) -> Any:
        """Logits after one more token of each row, (rows, vocabulary), unevaluated."""
        return self._model(tokens[:, None], cache=self._state)[:, -1, :]

    def _draw(self, logits: Any) -> None:
        """Starts the draw of each row's next token."""
        self._tokens = self._sampler(steer(logits, self.rows))
        self._logprobs = measure(logits, self._tokens, [row.job.top_logprobs for row in self.rows])
        measured = [array for one in self._logprobs if one is not None for array in one.arrays]
        mx.async_eval(self._tokens, measured)  # type: ignore[no-untyped-call]

    def drop(self, gone: Sequence[Row]) -> None:
        """Frees rows; the others are not disturbed."""
        keep = [at for at, row in enumerate(self.rows) if row not in gone]
        if len(keep) == len(self.rows):
            return
        if len(keep) > 1:
            for entry in self._state:
                entry.filter(keep)
        else:  # taken out rather than filtered: plain entries again, and one copy instead of two
            self._state = kv.extract(self._state, keep[0]) if keep else []
        self._tokens = self._tokens[mx.array(keep)] if keep else None
        self._logprobs = [self._logprobs[at] for at in keep]
        self._seat([self.rows[at] for at in keep])

    # --- the store ----------------------------------------------------------------------------------------------

    def follow(self, row: Row) -> None:
        """Lets a row's trail take what is complete; the state holds all of `row.ids`."""
        if row.trail is not None and row.trail.is_due(row.length_tokens):
            row.trail.drew(self._state, self.rows.index(row), row.ids)

    def leave_trail(self, row: Row, *, keep: bool, stop: TokenIds = ()) -> None:
        """Ends a row's trail. `stop` is a token that was fed and belongs to no answer: the template writes it too."""
        trail, row.trail = row.trail, None
        if trail is None:
            return
        if keep:
            trail.ended(self._state, self.rows.index(row), (*row.ids, *stop))
        else:
            trail.discard()

    def leave_trails(self, *, keep: bool) -> None:
        for row in self.rows:
            self.leave_trail(row, keep=keep)

    def _seat(self, rows: list[Row]) -> None:
        self.rows = rows
        self._sampler.seat([row.sampling for row in rows])


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
