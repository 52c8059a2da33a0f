"""Where jobs come in: warm from the store, cold, or waiting for blocks that another job computes or the disk reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from inference.engine.kv import KVState
from inference.engine.prefill import PrefillQueue, PrefillRow
from inference.engine.rows import Row
from inference.engine.store import ModelStore
from inference.events import Explained, Looked
from inference.params import CacheScope, KVQuantisation
from inference.ports import Started, StepOutput
from inference.tokens import KVOffset, Prompt, TokenIds


class Entrance:
    """Puts rows into the prefill queue. Without a `store` every one begins cold; `fresh` makes an empty state."""

    def __init__(self, queue: PrefillQueue, fresh: Callable[[], KVState], store: ModelStore | None) -> None:
        self._queue = queue
        self._fresh = fresh
        self._store = store
        self._waiting: dict[str, list[Row]] = {}
        self._reading: set[str] = set()

    def __len__(self) -> int:
        """Jobs that wait, forks included."""
        return sum(map(len, self._waiting.values()))

    def lookup(self, prompt: Prompt, scope: CacheScope | None, kv: KVQuantisation | None) -> Looked:
        return Looked() if self._store is None else self._store.lookup(prompt, scope, kv)

    def explain(self, prompt: Prompt, scope: CacheScope | None, kv: KVQuantisation | None) -> Explained:
        return Explained() if self._store is None else self._store.explain(prompt, scope, kv)

    def make_room(
        self, nbytes: int, by: str, prompt: Prompt, scope: CacheScope | None, kv: KVQuantisation | None
    ) -> None:
        if self._store is not None:
            self._store.make_room(nbytes, by, prompt, scope, kv)

    def take(self, row: Row) -> list[StepOutput]:
        """A new job: joins the prefill of the one it is a fork of, or comes in by itself."""
        job = row.job
        if job.fork_of:
            if (waiting := self._with(job.fork_of)) is not None:
                waiting.append(row)
                return []
            origin = self._queue.find(job.fork_of)
            if origin is not None and origin.takes(job):
                origin.rows.append(row)
                return [] if self._store is None else [Started(job.id, origin.looked)]
        return self._enter([row])

    def read(self) -> list[StepOutput]:
        """Lets those in for whom the disk has read, or whose patience with it is over."""
        if self._store is None or not self._reading:
            return []
        done = [job_id for job_id in self._reading if not self._store.is_reading(job_id)]
        self._reading.difference_update(done)
        waited = [self._waiting.pop(job_id) for job_id in done if job_id in self._waiting]
        return [output for rows in waited for output in self._enter(rows, read=True)]

    def again(self, rows: list[Row], ids: TokenIds) -> None:
        """Rows that are computed once more after a fault: cold, and nothing of them is kept."""
        self._queue.add(PrefillRow(rows, ids, self._fresh(), restarted=True))

    def cancel(self, job_id: str, *, keep: bool) -> list[StepOutput] | None:
        """Takes a job out that does not decode yet; forks that shared its way stay. None: it is not in here."""
        if (waiting := self._with(job_id)) is not None:
            return self._stop_waiting(waiting, job_id)
        row = self._queue.drop(job_id)
        if row is None:
            return None
        return [] if row.rows else self.left(row, keep=keep)

    # --- prefill ------------------------------------------------------------------------------------------------

    def advanced(self, row: PrefillRow) -> list[StepOutput]:
        """A chunk of a row is computed and stored: who waited for just that comes in, all when no more is stored."""
        if self._store is None or row.trail is None or not row.claim:
            return []
        if row.trail.over:
            return self._unclaim(row)
        return self._wake(self._store.in_flight.advance(row.claim, row.trail.stored_tokens))

    def completed(self, row: PrefillRow) -> list[StepOutput]:
        """A row's prompt is read: its trail goes on with the first of its rows, and each fork gets its own."""
        if row.trail is not None:
            row.trail.read()
            row.row.trail, row.trail = row.trail, None
            for fork in row.rows[1:]:
                fork.trail = self._store.follow(fork.job) if self._store is not None else None
        return self._unclaim(row)

    def left(self, row: PrefillRow, *, keep: bool) -> list[StepOutput]:
        """A prefill has ended before its time."""
        if row.trail is not None:
            if keep:
                row.trail.release()
            else:
                row.trail.discard()
        return self._unclaim(row)

    def close(self) -> None:
        """Nobody comes in any more; what is half done is not kept."""
        for row in self._queue:
            if row.trail is not None:
                row.trail.discard()
        self._queue.clear()
        self._waiting.clear()
        self._reading.clear()
        self._store = None  # it knows how to make empty states, and so holds the weights

    # --- inside -------------------------------------------------------------------------------------------------

    def _enter(self, rows: list[Row], *, read: bool = False) -> list[StepOutput]:
        """`read`: what the disk has is in memory by now."""
        job = rows[0].job
        if self._store is None:
            self._queue.add(PrefillRow(rows, job.prompt.ids, self._fresh()))
            return []
        if not read and self._store.reads_ahead(job):
            self._waiting[job.id] = rows
            self._reading.add(job.id)
            return []
        if (awaited := self._store.must_wait(job)) is not None:
            self._waiting[job.id] = rows
            self._plan_for(awaited)
            return []
        state, trail, looked = self._store.begin(job)
        row = PrefillRow(rows, job.prompt.ids, state, KVOffset(looked.cached_tokens), trail=trail, looked=looked)
        if trail is not None:
            row.claim = job.id
            self._store.claim(job, row.offset)
        self._queue.add(row)
        return [Started(one.job.id, looked) for one in rows]

    def _plan_for(self, job_id: str) -> None:
        """Others wait for a row: where they go on, a recurrent state has to be kept."""
        origin = next((row for row in self._queue if row.claim == job_id), None)
        if origin is not None and origin.trail is not None and self._store is not None:
            origin.trail.plan(self._store.in_flight.wanted_snapshots(job_id))

    def _with(self, job_id: str) -> list[Row] | None:
        return next((rows for rows in self._waiting.values() if any(row.job.id == job_id for row in rows)), None)

    def _stop_waiting(self, rows: list[Row], job_id: str) -> list[StepOutput]:
        """Forks of a job that leaves come in anew under the name of the next."""
        name = next(name for name, waiting in self._waiting.items() if waiting is rows)
        rest = [row for row in rows if row.job.id != job_id]
        if name != job_id:
            self._waiting[name] = rest
            return []
        del self._waiting[name]
        outputs = self._wake(self._store.in_flight.end(name)) if self._store is not None else []
        return outputs + (self._enter(rest) if rest else [])

    def _unclaim(self, row: PrefillRow) -> list[StepOutput]:
        claim, row.claim = row.claim, ""
        return self._wake(self._store.in_flight.end(claim)) if self._store is not None and claim else []

    def _wake(self, job_ids: Iterable[str]) -> list[StepOutput]:
        """Each looks again: it begins, or waits for somebody else."""
        woken = [self._waiting.pop(job_id) for job_id in job_ids if job_id in self._waiting]
        return [output for rows in woken for output in self._enter(rows)]
