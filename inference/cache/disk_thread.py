"""The one thread that touches the disk: what is to go first, then reads that jobs wait for, orders, and writing.

Who asks behind a removal is never given what it removes.

The worker hands over what is evaluated and never waits: a full queue drops what was to be written and counts it. What
is read is evaluated when the worker gets it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from inference.cache.disk import DiskStore
from inference.cache.disk_counters import DiskStats
from inference.cache.disk_fetch import Fetched, fetch
from inference.cache.disk_plan import Plan, Want, forecast, may_help
from inference.cache.disk_records import KEY_BYTES, BlockLabel, Handle

log = logging.getLogger(__name__)

QUEUE_BYTES: Final = 256 * 1024 * 1024
"""Of memory that may be held only to be written."""


class DiskThread:
    """`prepare` is called on the thread, before anything else."""

    def __init__(
        self,
        store: DiskStore,
        *,
        prepare: Callable[[], object] = lambda: None,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._store = store
        self._prepare = prepare
        self._queue_bytes = queue_bytes
        self._change = threading.Condition()
        self._wants: deque[tuple[str, Want]] = deque()
        self._fetched: deque[Fetched] = deque()
        self._removals: deque[Callable[[], object]] = deque()
        self._orders: deque[Callable[[], object]] = deque()
        self._asked: set[Future[Any]] = set()
        self._saves: OrderedDict[bytes, tuple[BlockLabel, Handle, bool]] = OrderedDict()
        self._queued_bytes = 0
        self._scanned = False
        self._busy = True
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="mlxd-disk", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # --- reading ------------------------------------------------------------------------------------------------

    def may_help(self, want: Want) -> bool:
        """Whether it is worth a job's while to wait: always, until what an earlier process left is known."""
        return self._thread.is_alive() and (not self._scanned or may_help(self._store.index, want))

    def forecast(self, want: Want) -> Plan:
        """What would be read, by names alone; nothing while it is not known what is there."""
        return forecast(self._store.index, want) if self._scanned and self.may_help(want) else Plan()

    def want(self, job: str, want: Want) -> None:
        """The answer is among `fetched` some time later, in any case."""
        with self._change:
            self._wants.append((job, want))
            self._change.notify_all()

    def fetched(self) -> list[Fetched]:
        """What has come since the last call."""
        found = []
        while self._fetched:
            found.append(self._fetched.popleft())
        return found

    # --- writing ------------------------------------------------------------------------------------------------

    def holds(self, key: bytes) -> bool:
        """Whether it is on the disk or about to be."""
        return key in self._store.index or key in self._saves

    def save(self, label: BlockLabel, handle: Handle, *, until_s: float = 0.0, first_to_go: bool = False) -> bool:
        """Puts an evaluated handle into the queue; False when that is full (at `until_s`, if it is worth waiting)."""
        if self.holds(label.key):
            return True
        nbytes = handle.nbytes
        with self._change:
            while self._queued_bytes + nbytes > self._queue_bytes and self._saves:
                if not self._change.wait(until_s - monotonic()) if until_s > monotonic() else True:
                    self._store.counters.refused["queue_full"] += 1
                    return False
            self._saves[label.key] = (label, handle, first_to_go)
            self._queued_bytes += nbytes
            self._change.notify_all()
        return True

    def drop(self, keys: Iterable[bytes], *, spare_pinned: bool = False) -> None:
        """Neither kept nor written any more; `spare_pinned`: but for what is saved."""
        gone = tuple(keys)
        with self._change:
            for key in gone:
                if (waiting := self._saves.pop(key, None)) is not None:
                    self._queued_bytes -= waiting[1].nbytes
        self._remove(lambda: self._store.drop(gone, spare_pinned=spare_pinned))

    def distrust(self, keys: Iterable[bytes]) -> None:
        """As `drop`, and with all that stands behind, for it was computed from what is not true."""
        untrue = tuple(keys)
        self._remove(lambda: self._distrust(untrue))

    def _distrust(self, keys: Iterable[bytes]) -> None:
        """On the thread, where nothing is being written meanwhile."""
        gone, index = set(keys), self._store.index
        gone.update(entry.key for key in tuple(gone) for entry in index.from_here(key))
        with self._change:
            for key, (label, handle, _) in list(self._saves.items()):  # what stands before comes before
                if key in gone or label.parent[:KEY_BYTES] in gone:
                    gone.update((key, *(entry.key for entry in index.from_here(key))))
                    del self._saves[key]
                    self._queued_bytes -= handle.nbytes
        self._store.drop(gone)

    def clear(self, root: bytes | None = None, *, model: str = "") -> None:
        """Removes all of a tree or a model, or everything, from the disk and from the queue."""
        with self._change:
            for key, (label, handle, _) in list(self._saves.items()):
                if (root is None or label.root == root) and (not model or label.model == model):
                    del self._saves[key]
                    self._queued_bytes -= handle.nbytes
        self._remove(lambda: self._store.clear(root, model=model))

    def _remove(self, removal: Callable[[], object]) -> None:
        with self._change:
            self._removals.append(removal)
            self._change.notify_all()

    def mark_used(self, key: bytes) -> None:
        """A path that ends there was used."""
        self._order(lambda: self._store.mark_used(key))

    def ask[Answer](self, work: Callable[[DiskStore], Generator[None, None, Answer]]) -> Future[Answer]:
        """Has something done in steps, between which reads that jobs wait for come first. From any thread.

        The future fails with what the work raises, and is cancelled when the thread ends before it. The work ends at
        its next step when the future is cancelled.
        """
        future: Future[Answer] = Future()
        steps = work(self._store)

        def step() -> None:
            if future.cancelled():
                return steps.close()
            with suppress(InvalidStateError):  # cancelled just now
                try:
                    next(steps)
                except StopIteration as done:
                    return future.set_result(done.value)
                except Exception as error:
                    return future.set_exception(error)
            return self._order(step)

        self._asked.add(future)
        future.add_done_callback(self._asked.discard)
        self._order(step)
        if not self._thread.is_alive():
            future.cancel()
        return future

    def _order(self, order: Callable[[], object]) -> None:
        with self._change:
            self._orders.append(order)
            self._change.notify_all()

    # --- the end ------------------------------------------------------------------------------------------------

    def settle(self, timeout_s: float) -> bool:
        """Waits until nothing is left to do; whether that was so in time."""
        with self._change:
            return self._change.wait_for(self._is_idle, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Lets it finish what is queued; whether it did in time. Then nothing is done any more."""
        done = self.settle(timeout_s)
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(timeout_s if done else 0.0)
        return done

    def _is_idle(self) -> bool:
        return not (self._busy or self._has_work()) or not self._thread.is_alive()

    def _has_work(self) -> bool:
        return bool(self._removals or self._wants or self._orders or self._saves)

    # --- what it does -------------------------------------------------------------------------------------------

    def stats(self) -> DiskStats:
        store, counted = self._store, self._store.counters
        return DiskStats(
            directory=str(store.directory),
            files=len(store.index),
            nbytes=store.index.nbytes,
            limit_bytes=store.limit_bytes,
            written_today_bytes=store.budget.used_bytes,
            day_bytes=store.limits.day_bytes,
            outage=store.outage if self._thread.is_alive() else "thread_ended",
            scanning=not self._scanned,
            queued_bytes=self._queued_bytes,
            waiting_jobs=len(self._wants),
            written_files=counted.written_files,
            written_bytes=counted.written_bytes,
            read_files=counted.read_files,
            read_bytes=counted.read_bytes,
            read_tokens=counted.read_tokens,
            read_back_ratio=round(counted.read_back_ratio, 4),
            refused=dict(counted.refused),
            dropped=dict(counted.dropped),
        )

    def _run(self) -> None:
        self._prepare()
        self._do(self._store.open)
        self._scanned = True
        while (task := self._next()) is not None:
            self._do(task)
        self._do(self._store.close)
        for future in list(self._asked):
            future.cancel()

    def _do(self, task: Callable[[], object]) -> None:
        """Whatever goes wrong costs the one task."""
        try:
            task()
        except Exception as error:
            log.error("the disk's thread could not finish a task: %s", type(error).__name__)
            self._store.counters.refused["fault"] += 1

    def _next(self) -> Callable[[], object] | None:
        with self._change:
            self._busy = False
            self._change.notify_all()
            while not (self._has_work() or self._closing):
                self._change.wait()
            if self._closing:
                return None
            self._busy = True
            if self._removals:
                return self._removals.popleft()
            if self._wants:
                job, want = self._wants.popleft()
                return lambda: self._fetch(job, want)
            if self._orders:
                return self._orders.popleft()
            label, handle, first_to_go = next(iter(self._saves.values()))
            return lambda: self._write(label, handle, first_to_go)

    def _fetch(self, job: str, want: Want) -> None:
        found = Fetched(job, want)
        try:
            found = fetch(self._store, job, want)
        finally:
            self._fetched.append(found)

    def _write(self, label: BlockLabel, handle: Handle, first_to_go: bool) -> None:
        """It stays in the queue until it is written, so that it is known all the time."""
        try:
            self._store.write(label, handle, first_to_go=first_to_go)
        finally:
            with self._change:
                waiting = self._saves.get(label.key)
                if waiting is not None and waiting[1] is handle:  # else it was dropped, and has come again
                    del self._saves[label.key]
                    self._queued_bytes -= handle.nbytes
