"""Own chunked prefill on the absolute grid of 256 tokens.

The model is called with exactly the tokens between two grid lines, whatever the step size and wherever a row starts.
That makes the arithmetic of a position independent of how its prompt was cut: a prompt resumed at a grid line gives
bitwise the KV of a cold one (on the CPU; measured for dense, hybrid and sliding-window models), while other chunk
sizes differ by about 1e-5. Pieces of 256 prefill as fast as 512 or 1024 (677, 704, 662 tokens/s, 34M model, CPU).

A row that begins within a block is no cold row's like anyway, so what it has left is read in one piece where a piece
can hold it: 68 and 25 tokens cost 8 % more than 93 at once (34M model, CPU).

The last prompt token is left to decode, whose first step feeds it, or read with the rest where that costs less and the
state is plain keys and values: a recurrent state behind the last token is of no use to a twin, forks need a state that
they all have read, and quantised entries are not made in the middle of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from inference.engine import kv
from inference.engine.kv import KVState
from inference.engine.last_logits import LastLogits
from inference.engine.rows import Row
from inference.engine.settings import GRID_TOKENS
from inference.engine.trail import Trail
from inference.events import Looked
from inference.ports import Job
from inference.tokens import KVOffset, TokenIds

_OLDEST_EVERY = 4
"""One chunk in so many goes to the row that has waited longest, so that short prompts cannot hold it back for ever."""

_TOKENS_PER_LAYER = 8
"""A last piece of more tokens than this for each layer leaves the last of them to decode.

Read together they spare a forward pass of one token, but all of them go through the end of the last layer, which
makes no keys and values. Measured (random qwen3, CPU), both cost the same at 40 to 50 tokens with 4 layers, 120 to 200
with 16 and about 250 with 32.
"""
_TOKENS_PER_NARROW_LAYER = 32
"""The same where only the last token goes through the feed-forward part of the last layer."""


@dataclass(slots=True, eq=False)
class PrefillRow:
    """Rows whose first `offset` ids are in `state`. `ids` is the whole sequence, to be computed up to `goal`.

    Several `rows` are forks that share it; progress is told of the first, and when that leaves, of the next.
    `restarted` rows are computed again after a fault; their progress is not reported a second time. `claim` is the job
    under whose name others wait for what is computed here, `trail` its way in the store, `looked` what it began with.
    `to_end`: the last token is read with the rest, unless forks come; `logits` are then what follows it.
    """

    rows: list[Row]
    ids: TokenIds
    state: KVState
    offset: KVOffset = field(default=KVOffset(0))
    restarted: bool = False
    trail: Trail | None = None
    claim: str = ""
    looked: Looked = field(default_factory=Looked)
    to_end: bool = False
    logits: Any = None

    @property
    def row(self) -> Row:
        return self.rows[0]

    @property
    def goal(self) -> int:
        return len(self.ids) if self.to_end and len(self.rows) == 1 else len(self.ids) - 1

    @property
    def remaining_tokens(self) -> int:
        return self.goal - self.offset

    def ends_in_one_pass(self, tokens_per_layer: int) -> bool:
        """Whether reading its last token with the rest is possible and worth it."""
        if self.row.job.kv is not None or not kv.is_plain(self.state):
            return False
        *_, (start, end) = self.pieces(len(self.ids))
        return end - start <= tokens_per_layer * len(self.state)

    def pieces(self, end: int) -> Iterator[tuple[int, int]]:
        """What the model is called with, one after the other, to read up to `end`."""
        cuts = self.trail.cuts if self.trail is not None else ()
        return pieces(self.offset, end, cuts, whole=self.row.job.kv is None)

    def takes(self, job: Job) -> bool:
        """Whether a job may share this prefill: it reads the same, into the same kind of state."""
        return self.ids == job.prompt.ids and self.row.job.kv == job.kv and not self.restarted


class PrefillQueue:
    """Rows in prefill, oldest first.

    Shortest remaining first, so that a short prompt does not wait behind a 20k one (each chunk costs the long row
    little and saves the short one all of its wait); every fourth chunk goes to the oldest, which therefore gets at
    least a quarter of the prefill however many short ones keep coming. `last` is what rows may read their last token
    with (None: decode feeds it).
    """

    def __init__(self, last: LastLogits | None = None) -> None:
        self._rows: list[PrefillRow] = []
        self._turn = 0
        self._last = last

    def __len__(self) -> int:
        """Jobs, forks included."""
        return sum(len(row.rows) for row in self._rows)

    def __iter__(self) -> Iterator[PrefillRow]:
        return iter(self._rows)

    def add(self, row: PrefillRow) -> None:
        last = self._last
        if last is not None and last.narrows:
            row.to_end = row.ends_in_one_pass(_TOKENS_PER_NARROW_LAYER if last.narrows_block else _TOKENS_PER_LAYER)
        self._rows.append(row)

    def remove(self, row: PrefillRow) -> None:
        self._rows.remove(row)

    def find(self, job_id: str) -> PrefillRow | None:
        return next((row for row in self._rows if any(one.job.id == job_id for one in row.rows)), None)

    def drop(self, job_id: str) -> PrefillRow | None:
        """Takes a job out; forks that shared its prefill keep it. What it was in, and None when it is not in prefill.

        Nobody is left in a prefill without `rows`.
        """
        row = self.find(job_id)
        if row is not None:
            row.rows = [one for one in row.rows if one.job.id != job_id]
            if not row.rows:
                self.remove(row)
        return row

    def clear(self) -> None:
        self._rows.clear()

    def chunks(self, step_tokens: int) -> Iterator[tuple[PrefillRow, int]]:
        """(row, end of its chunk) until `step_tokens` are spent: one long chunk or several short prompts."""
        left = step_tokens
        for row in self._by_turn():
            end = chunk_end(row.offset, row.goal, left)
            if end == row.offset < row.goal:
                break  # the rest of the step does not reach a grid line
            left -= end - row.offset
            yield row, end

    def _by_turn(self) -> list[PrefillRow]:
        rows = sorted(self._rows, key=lambda row: row.remaining_tokens)
        self._turn += bool(rows)
        if rows and self._turn % _OLDEST_EVERY == 0:
            rows.remove(self._rows[0])
            rows.insert(0, self._rows[0])
        return rows


def chunk_end(start: int, goal: int, budget_tokens: int) -> int:
    """Where a chunk from `start` ends: at `goal` if that is within the budget, else at the last grid line that is."""
    if goal - start <= budget_tokens:
        return goal
    return max(start, (start + budget_tokens) // GRID_TOKENS * GRID_TOKENS)


def pieces(start: int, end: int, cuts: Sequence[int] = (), *, whole: bool = False) -> Iterator[tuple[int, int]]:
    """`start` to `end` cut at every grid line between them, and at `cuts` (ascending).

    `whole`: from within a block the lines are passed over if no piece is longer than a block by that.
    """
    passes = whole and start % GRID_TOKENS > 0 and end - start <= GRID_TOKENS
    while start < end:
        line = end if passes else (start // GRID_TOKENS + 1) * GRID_TOKENS
        stop = min(end, line, next((cut for cut in cuts if cut > start), line))
        yield start, stop
        start = stop


def compute(model: Any, row: PrefillRow, end: int, last: LastLogits | None = None) -> None:
    """Brings the ids up to `end` into the row's state and waits for them; the logits behind the last id are begun."""
    trail = row.trail
    for start, stop in row.pieces(end):
        kv.quantise(row.state, row.row.job.kv)
        piece = mx.array(row.ids[start:stop])[None]
        if last is not None and stop == len(row.ids):
            row.logits = last(model, piece, row.state)
        else:
            model(piece, cache=row.state)
        kv.begin(row.state)  # logits in the middle are never asked for, so their layer is not computed
        if trail is not None:
            trail.computed(row.state, stop)
    kv.wait(row.state)
    row.offset = KVOffset(end)
