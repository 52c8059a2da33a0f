"""What the disk's thread has to do, and in which order: what is to go, reads that jobs wait for, orders, then writing.

What the end of an answer waits for is written in turns with reading, and before everything else that is to be written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from inference.cache.disk_plan import Want
from inference.cache.disk_queue import SaveQueue, Waiting

type Task = Callable[[], object]


class DiskOrders:
    """Given from any thread, taken by one, which has each done before it takes the next. `fetch` and `write` are how.

    `saves` may be changed under `change` alone; whoever does it wakes those who wait for it.
    """

    def __init__(
        self, queue_bytes: int, fetch: Callable[[str, Want], object], write: Callable[[Waiting], object]
    ) -> None:
        self.change = threading.Condition()
        self.saves = SaveQueue(queue_bytes)
        self._fetch = fetch
        self._write = write
        self._wants: deque[tuple[str, Want]] = deque()
        self._at_once: deque[Task] = deque()
        self._orders: deque[Task] = deque()
        self._was_urgent = False
        self._busy = True
        self._closing = False

    @property
    def waiting_jobs(self) -> int:
        return len(self._wants)

    @property
    def are_idle(self) -> bool:
        """Whether nothing is left to do, and nothing is being done."""
        return not (self._busy or self._are_some)

    @property
    def _are_some(self) -> bool:
        return bool(self._at_once or self._wants or self._orders or self.saves)

    # --- given --------------------------------------------------------------------------------------------------

    def want(self, job: str, want: Want) -> None:
        """A job waits for what there is of a prompt."""
        with self.change:
            self._wants.append((job, want))
            self.change.notify_all()

    def first(self, task: Task) -> None:
        """Before everything that was not given so."""
        with self.change:
            self._at_once.append(task)
            self.change.notify_all()

    def add(self, task: Task) -> None:
        """Behind what jobs wait for."""
        with self.change:
            self._orders.append(task)
            self.change.notify_all()

    def stop(self) -> None:
        """Nothing more is to be done."""
        with self.change:
            self._closing = True
            self.change.notify_all()

    # --- taken --------------------------------------------------------------------------------------------------

    def next(self) -> Task | None:
        """What is to be done now, waiting until there is something; None once it is over. What was taken before is
        done."""
        with self.change:
            self._busy = False
            self.change.notify_all()
            while not (self._are_some or self._closing):
                self.change.wait()
            if self._closing:
                return None
            self._busy = True
            return self._foremost()

    def _foremost(self) -> Task:
        if self._at_once:
            return self._at_once.popleft()
        if self._wants and not self._must_write_first():
            return partial(self._fetch, *self._wants.popleft())
        if self._orders and not self.saves.is_urgent:
            return self._orders.popleft()
        return partial(self._write, self.saves.first())

    def _must_write_first(self) -> bool:
        """What the end of an answer waits for and what a job waits for take turns."""
        self._was_urgent = self.saves.is_urgent and not self._was_urgent
        return self._was_urgent
