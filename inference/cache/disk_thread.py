"""The one thread that touches the disk: what is to go first, then reads that jobs wait for, orders, and writing.

Who asks behind a removal is never given what it removes.

The worker hands over what is evaluated and never waits: a full queue drops what was to be written and counts it. What
is read is evaluated when the worker gets it; jobs that wait for the same file are given one reading of it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable
from concurrent.futures import Future
from functools import partial
from time import monotonic
from typing import Any, Final

from inference.cache.disk import DiskStore
from inference.cache.disk_fetch import Fetched, fetch
from inference.cache.disk_orders import DiskOrders
from inference.cache.disk_outage import THREAD_ENDED
from inference.cache.disk_plan import Plan, Want, forecast, may_help
from inference.cache.disk_queue import Waiting
from inference.cache.disk_records import BlockLabel, Handle, Stored
from inference.cache.disk_removals import Likes, own, untrue
from inference.cache.disk_stats import DiskStats, health_of, stats_of
from inference.cache.disk_steps import take_step
from inference.cache.session_record import SessionRecord
from inference.prefix_store import DiskHealth

log = logging.getLogger(__name__)

QUEUE_BYTES: Final = 256 * 1024 * 1024
"""Of memory that may be held only to be written."""


class DiskThread:
    """`prepare` is called on the thread, before anything else."""

    def __init__(
        self, store: DiskStore, *, prepare: Callable[[], object] = lambda: None, queue_bytes: int = QUEUE_BYTES
    ) -> None:
        self._store = store
        self._prepare = prepare
        self._todo = DiskOrders(queue_bytes, self._fetch, self._write)
        self._saves = self._todo.saves
        self._fetched: deque[Fetched] = deque()
        self._removals: deque[Callable[[], object]] = deque()
        self._asked: set[Future[Any]] = set()
        self._read: dict[bytes, Stored] = {}
        self._scanned = False
        self._thread = threading.Thread(target=self._run, name="mlxd-disk", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # --- reading ------------------------------------------------------------------------------------------------

    def may_help(self, want: Want) -> bool:
        """Whether it is worth a job's while to wait: always, until what an earlier process left is known."""
        return self._thread.is_alive() and (not self._scanned or may_help(self._store.index, want))

    def may_recall(self, session: str) -> bool:
        """Whether an earlier process may have left something of a session."""
        return self._thread.is_alive() and (not self._scanned or self._store.sessions.was_left(session))

    def forecast(self, want: Want) -> Plan:
        """What would be read, by names alone; nothing while it is not known what is there, or will be in a moment."""
        knows = self._scanned and not self._removals and self.may_help(want)
        return forecast(self._store.index, want) if knows else Plan()

    def want(self, job: str, want: Want) -> None:
        """The answer is among `fetched` some time later, in any case."""
        self._todo.want(job, want)

    def fetched(self) -> list[Fetched]:
        """What has come since the last call."""
        return [self._fetched.popleft() for _ in range(len(self._fetched))]

    # --- writing ------------------------------------------------------------------------------------------------

    def holds(self, key: bytes, *, exact: bool = False) -> bool:
        """Whether it is on the disk or about to be; `exact`: known to be so in every bit."""
        waiting, index = self._saves.get(key), self._store.index
        if exact:
            return index.is_exact(key) or (waiting is not None and waiting.label.exact)
        return waiting is not None or key in index

    def is_written(self, key: bytes, *, exact: bool = False) -> bool:
        return self._store.index.is_exact(key) if exact else key in self._store.index

    def save(
        self,
        label: BlockLabel,
        handle: Handle,
        *,
        job: str = "",
        until_s: float = 0.0,
        first_to_go: bool = False,
        better: bool = False,
    ) -> bool:
        """Puts an evaluated handle into the queue; False when that is full (at `until_s`, if it is worth waiting).

        `better`: an exact one is wanted also where there is one that is not.
        """
        with self._todo.change:
            if self.holds(label.key, exact=better and label.exact):
                if (waiting := self._saves.get(label.key)) is not None:
                    waiting.jobs.add(job)
                return True
            while not self._saves.fits(handle.nbytes):
                if not self._todo.change.wait(until_s - monotonic()) if until_s > monotonic() else True:
                    self._store.counters.refused["queue_full"] += 1
                    return False
            self._saves.put(Waiting(label, handle, first_to_go, {job}))
            self._todo.change.notify_all()
        return True

    @property
    def is_roomy(self) -> bool:
        """Whether half of the queue is free."""
        return self._saves.nbytes <= self._saves.most_bytes // 2

    def kept(self, jobs: Collection[str]) -> Future[None]:
        """Is done when what these jobs have left so far is on the disk, or will not come there. From any thread."""
        with self._todo.change:
            future = self._saves.barrier(jobs)
            self._todo.change.notify_all()
        if not self._thread.is_alive():
            self._forsake()
        return future

    def _forsake(self) -> None:
        with self._todo.change:
            self._saves.close()

    def note(self, record: SessionRecord, passed: Collection[bytes]) -> None:
        """Has written down where a session ended, having `passed` these blocks. A tenth of a millisecond."""
        self._todo.first(lambda: self._store.note(record, passed))

    def let_go(self, keys: Iterable[bytes], *, end: bytes = b"", name: str = "", spare: Iterable[bytes] = ()) -> None:
        """Neither kept nor written any more: what a conversation had. What others have there, or have saved, stays.

        All that is there up to the block `end` goes too, and up to where the session of that `name` ended, which is
        forgotten; but nothing that `spare` names.
        """
        keys, spared = tuple(keys), frozenset(spare)
        self._remove(lambda: self._let_go({*keys, *self._store.left_of(end, name)} - spared))

    def _let_go(self, keys: set[bytes]) -> None:
        """On the thread, where nothing is being written meanwhile."""
        with self._todo.change:
            gone = own(keys, self._store.index, self._saves.labels)
            self._saves.drop(gone)
        self._store.drop(gone, spare_pinned=True)

    def distrust(self, keys: Iterable[bytes], likes: Likes | None = None) -> None:
        """These and `likes` go, whoever has them, with all behind them: it was computed from what is not true."""
        named = tuple(keys)
        self._remove(lambda: self._distrust(named, likes))

    def _distrust(self, keys: Iterable[bytes], likes: Likes | None) -> None:
        """On the thread, where nothing is being written meanwhile."""
        keys = keys if likes is None else (*keys, *likes.on_disk(self._store.index, self._store.ids))
        with self._todo.change:
            keys = keys if likes is None else (*keys, *likes.among(self._saves.labels))
            gone = untrue(keys, self._store.index, self._saves.labels)
            self._saves.drop(gone)
        self._store.drop(gone)

    def clear(self, root: bytes | None = None, *, model: str = "") -> None:
        """Removes all of a tree or a model, or everything, from the disk and from the queue."""
        with self._todo.change:
            self._saves.drop_those_of(root, model)
        self._remove(lambda: self._store.clear(root, model=model))

    def _remove(self, removal: Callable[[], object]) -> None:
        def work() -> None:
            self._read.clear()  # whoever asks behind it is not given what was read before it
            try:
                removal()
            finally:
                self._removals.popleft()

        self._removals.append(removal)
        self._todo.first(work)

    def mark_used(self, key: bytes) -> None:
        """A path that ends there was used."""
        self._todo.add(lambda: self._store.mark_used(key))

    def ask[Answer](self, work: Callable[[DiskStore], Generator[None, None, Answer]]) -> Future[Answer]:
        """Has something done in steps, between which reads that jobs wait for come first. From any thread.

        The future fails with what the work raises, and is cancelled when the thread ends before it. The work ends at
        its next step when the future is cancelled.
        """
        future: Future[Answer] = Future()
        self._asked.add(future)
        future.add_done_callback(self._asked.discard)
        self._todo.add(partial(take_step, work(self._store), future, self._todo.add))
        if not self._thread.is_alive():
            future.cancel()
        return future

    # --- the end ------------------------------------------------------------------------------------------------

    def settle(self, timeout_s: float) -> bool:
        """Waits until nothing is left to do; whether that was so in time."""
        with self._todo.change:
            return self._todo.change.wait_for(lambda: self._todo.are_idle or not self._thread.is_alive(), timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Lets it finish what is queued; whether it did in time. Then nothing is done any more."""
        done = self.settle(timeout_s)
        self._todo.stop()
        self._thread.join(timeout_s if done else 0.0)
        return done

    # --- what it does -------------------------------------------------------------------------------------------

    def stats(self) -> DiskStats:
        return stats_of(
            self._store,
            outage=self._outage,
            scanning=not self._scanned,
            queued_bytes=self._saves.nbytes,
            waiting_jobs=self._todo.waiting_jobs,
        )

    def health(self) -> DiskHealth:
        return health_of(self._store, self._outage)

    @property
    def _outage(self) -> str:
        return self._store.outage if self._thread.is_alive() else THREAD_ENDED

    def _run(self) -> None:
        self._prepare()
        self._do(self._store.open)
        self._scanned = True
        while (task := self._todo.next()) is not None:
            self._do(task)
        self._do(self._store.close)
        self._forsake()
        for future in list(self._asked):
            future.cancel()

    def _do(self, task: Callable[[], object]) -> None:
        """Whatever goes wrong costs the one task."""
        try:
            task()
        except Exception as error:
            log.error("the disk's thread could not finish a task: %s", type(error).__name__)
            self._store.counters.refused["fault"] += 1

    def _fetch(self, job: str, want: Want) -> None:
        found = Fetched(job, want)
        try:
            found = fetch(self._store, job, want, self._read)
        finally:
            self._fetched.append(found)
            if not self._todo.waiting_jobs:
                self._read.clear()

    def _write(self, waiting: Waiting) -> None:
        """It stays in the queue until it is written, so that it is known all the time."""
        try:
            self._store.write(waiting.label, waiting.handle, first_to_go=waiting.first_to_go)
        finally:
            with self._todo.change:
                if self._saves.get(waiting.label.key) is waiting:  # else it was dropped, and has come again
                    self._saves.remove(waiting.label.key)
