"""Memory for rows beside the store of prefixes: the store has what nobody else needs. On the worker thread only.

What is stored costs nothing but memory, so it never keeps a model or a request out for good. Only what running rows
stand on (or a new one would begin with) is worth a wait: their conversations would be cold at the next turn, and a
server whose requests push out each other's prefixes computes all of them again. So a request waits for those rows to
end, but not longer than half its time in the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from inference.ports import Clock
from inference.prefix_store import PrefixStore
from inference.scheduler.budget import Load, assembly_bytes, estimate_bytes, fits
from inference.scheduler.request import Ticket
from inference.scheduler.residents import Resident
from inference.scheduler.settings import SchedulerSettings

PATIENCE = 0.5
"""Part of the longest wait in the queue after which a request comes before what running rows stand on."""


class Room:
    """Divides the device between rows and the store. `limit_bytes` is what both may use, 0 is no limit."""

    def __init__(self, store: PrefixStore | None, settings: SchedulerSettings, clock: Clock) -> None:
        self._store = store
        self._patience_s = PATIENCE * settings.queue_deadline_s
        self._clock = clock
        self._impatient_s = inf
        self.limit_bytes = 0

    def admits(self, ticket: Ticket, resident: Resident, loads: Sequence[Load], *, alone: bool) -> bool:
        """Whether a ticket's rows, which `loads` counts already, have room now; the store makes it if it can.

        `alone`: no other rows run.
        """
        if not fits(loads, self.limit_bytes):
            return False
        if self._store is None or self.limit_bytes <= 0:
            return True
        request = ticket.request
        if (over := self._over(loads)) > 0:
            resident.runner.make_room(over, ticket.job_id, request.prompt, request.cache, request.params.kv)
        if (over := self._over(loads, copies=False)) > 0:
            patient_until_s = ticket.submitted_s + self._patience_s
            if not alone and self._clock() < patient_until_s:
                self._impatient_s = min(self._impatient_s, patient_until_s)
                return False
            self._store.free(over, ticket.job_id, locked=True)
        self._bound(loads)
        return True

    def patience_ended(self) -> bool:
        """Whether somebody has waited long enough since this was last asked, so that another look is worth it."""
        if self._clock() < self._impatient_s:
            return False
        self._impatient_s = inf
        return True

    def divide(self, loads: Sequence[Load]) -> None:
        """Keeps the store within what these rows leave; what they stand on may stay."""
        if self._store is None:
            return
        self._bound(loads)
        if self.limit_bytes > 0 and (over := self._over(loads)) > 0:
            self._store.free(over, "")

    def give_back(self, nbytes: int) -> int:
        """The store gives up to `nbytes` back to a device that is full, locked or not; how many it gave."""
        return 0 if self._store is None else self._store.free(nbytes, "", locked=True)

    def sweep(self) -> None:
        if self._store is not None:
            self._store.sweep()

    def prove(self) -> None:
        """In an idle moment."""
        if self._store is not None:
            self._store.prove()

    def _over(self, loads: Sequence[Load], *, copies: bool = True) -> int:
        """Bytes that rows and store need above the limit.

        A row is assembled from what is stored, so what it stands on is the copy that the estimate counts beside it.
        """
        assert self._store is not None
        needed = estimate_bytes(loads) - (0 if copies else assembly_bytes(loads))
        return needed + self._store.held_bytes - self.limit_bytes

    def _bound(self, loads: Sequence[Load]) -> None:
        assert self._store is not None
        room = self.limit_bytes - estimate_bytes(loads) + assembly_bytes(loads)
        self._store.keep_within(max(0, room) if self.limit_bytes > 0 else None)
