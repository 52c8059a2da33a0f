"""Own chunked prefill on the absolute grid of 256 tokens.

The model is called with exactly the tokens between two grid lines, whatever the step size and wherever a row starts.
That makes the arithmetic of a position independent of how its prompt was cut: a prompt resumed at a grid line gives
bitwise the KV of a cold one (on the CPU; measured for dense, hybrid and sliding-window models), while other chunk
sizes differ by about 1e-5. Pieces of 256 prefill as fast as 512 or 1024 (677, 704, 662 tokens/s, 34M model, CPU).

The last prompt token is left to decode: its first step turns it into the first token of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from inference.engine import kv
from inference.engine.kv import KVState
from inference.engine.rows import Row
from inference.engine.settings import GRID_TOKENS
from inference.engine.trail import Trail
from inference.events import Looked
from inference.ports import Job
from inference.tokens import KVOffset, TokenIds

_OLDEST_EVERY = 4
"""One chunk in so many goes to the row that has waited longest, so that short prompts cannot hold it back for ever."""


@dataclass(slots=True, eq=False)
class PrefillRow:
    """Rows whose first `offset` ids are in `state`. `ids` is the whole sequence; all but the last are to be computed.

    Several `rows` are forks that share it; progress is told of the first, and when that leaves, of the next.
    `restarted` rows are computed again after a fault; their progress is not reported a second time. `claim` is the job
    under whose name others wait for what is computed here, `trail` its way in the store, `looked` what it began with.
    """

    rows: list[Row]
    ids: TokenIds
    state: KVState
    offset: KVOffset = field(default=KVOffset(0))
    restarted: bool = False
    trail: Trail | None = None
    claim: str = ""
    looked: Looked = field(default_factory=Looked)

    @property
    def row(self) -> Row:
        return self.rows[0]

    @property
    def goal(self) -> int:
        return len(self.ids) - 1

    @property
    def remaining_tokens(self) -> int:
        return self.goal - self.offset

    def takes(self, job: Job) -> bool:
        """Whether a job may share this prefill: it reads the same, into the same kind of state."""
        return self.ids == job.prompt.ids and self.row.job.kv == job.kv and not self.restarted


class PrefillQueue:
    """Rows in prefill, oldest first.

    Shortest remaining first, so that a short prompt does not wait behind a 20k one (each chunk costs the long row
    little and saves the short one all of its wait); every fourth chunk goes to the oldest, which therefore gets at
    least a quarter of the prefill however many short ones keep coming.
    """

    def __init__(self) -> None:
        self._rows: list[PrefillRow] = []
        self._turn = 0

    def __len__(self) -> int:
        """Jobs, forks included."""
        return sum(len(row.rows) for row in self._rows)

    def __iter__(self) -> Iterator[PrefillRow]:
        return iter(self._rows)

    def add(self, row: PrefillRow) -> None:
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


def pieces(start: int, end: int, cuts: Sequence[int] = ()) -> Iterator[tuple[int, int]]:
    """`start` to `end` cut at every grid line between them, and at `cuts` (ascending)."""
    while start < end:
        line = (start // GRID_TOKENS + 1) * GRID_TOKENS
        stop = min(end, line, next((cut for cut in cuts if cut > start), line))
        yield start, stop
        start = stop


def compute(model: Any, row: PrefillRow, end: int) -> None:
    """Brings the ids up to `end` into the row's state and waits for them."""
    trail = row.trail
    for start, stop in pieces(row.offset, end, trail.cuts if trail is not None else ()):
        kv.quantise(row.state, row.row.job.kv)
        model(mx.array(row.ids[start:stop])[None], cache=row.state)
        kv.begin(row.state)  # the logits are never asked for, so the output layer is not computed
        if trail is not None:
            trail.computed(row.state, stop)
    kv.wait(row.state)
    row.offset = KVOffset(end)
