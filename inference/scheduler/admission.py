"""Who may wait, for how long, and who is next. Runs on the event loop and the worker under one lock; no device call.

A request is refused here, before it costs anything, or it gets a `Ticket`. Slots that are free count as room, so a
burst into an idle server is not refused for waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from zlib import crc32

from inference.errors import (
    BusyError,
    Draining,
    EngineFatal,
    InferenceError,
    InvalidParameter,
    MemoryPressure,
    QueueFull,
    QueueTimeout,
)
from inference.ports import Clock
from inference.scheduler.checks import check_memory, check_params, granted_tokens
from inference.scheduler.fair_queue import FairQueue
from inference.scheduler.mailbox import Mailbox
from inference.scheduler.request import Request, Ticket
from inference.scheduler.settings import SchedulerSettings
from inference.scheduler.view import SchedulerView


class Admission:
    """Every ticket that is not over, waiting or running. All methods are thread-safe; `settings` may be replaced."""

    def __init__(self, settings: SchedulerSettings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: FairQueue[Ticket] = FairQueue()
        self._running: dict[int, Ticket] = {}
        self._number = 0
        self._service_s = 1.0
        self._refusal: Callable[[], InferenceError] | None = None

    def admit(self, request: Request, view: SchedulerView, mailbox: Mailbox) -> Ticket:
        """A place in the queue. Raises `RequestError` for what can never be served and `BusyError` for the rest."""
        if self._refusal is not None:
            raise self._refusal()
        check_params(request.params)
        self._check_choices(request.params.n)
        max_tokens = granted_tokens(request)
        model = view.model(request.model.id)
        if model is not None and model.limits is not None and view.memory is not None:
            check_memory(request, max_tokens, model.limits, view.memory.limit_bytes, self.settings.reserve_tokens)
        if view.pressure and view.memory is not None:
            held, may = view.memory.active_bytes, view.memory.limit_bytes
            full = f"The device's memory is full: {held} bytes are held and {may} bytes may be."
            raise MemoryPressure(full, retry_after_s=self.retry_after_s(request.id))
        with self._lock:
            self._check_room(request)
            self._number += 1
            ticket = Ticket(request, self._number, max_tokens, self._clock(), mailbox)
            self._queue.push(request.client, ticket)
        return ticket

    def _check_choices(self, n: int) -> None:
        if not 1 <= n <= self.settings.max_batch:
            most = self.settings.max_batch
            raise InvalidParameter(f"n must be between 1 and {most}: so many answers run at once here.", param="n")

    def _check_room(self, request: Request) -> None:
        if self._refusal is not None:  # drained since the first look
            raise self._refusal()
        taken = sum(ticket.choices for ticket in self._running.values())
        free_slots = max(0, self.settings.max_batch - taken)
        depth, own = len(self._queue), self._queue.waiting(request.client)
        full = depth >= self.settings.max_queue + free_slots
        if full or (request.client and own >= self.settings.max_queue_per_client + free_slots):
            who = f"{depth} requests are waiting" if full else f"{own} requests of this client are waiting"
            raise QueueFull(f"The server is busy: {who}.", retry_after_s=self._retry_after_s(request.id, depth))

    def waiting(self) -> Sequence[Ticket]:
        """Who waits, in the order to serve them."""
        with self._lock:
            return list(self._queue)

    def tickets(self) -> Sequence[Ticket]:
        """Who waits or runs."""
        with self._lock:
            return [*self._running.values(), *self._queue]

    def running(self) -> Sequence[Ticket]:
        with self._lock:
            return list(self._running.values())

    @property
    def depth(self) -> int:
        return len(self._queue)

    @property
    def submitted(self) -> int:
        """How many tickets were ever given."""
        return self._number

    def take(self, ticket: Ticket) -> bool:
        """Moves a ticket from the queue to a row. False: it is not waiting any more."""
        with self._lock:
            if not self._queue.serve(ticket.request.client, ticket):
                return False
            self._running[ticket.number] = ticket
            return True

    def withdraw(self, ticket: Ticket) -> bool:
        """Takes a ticket out of the queue. False: it was not waiting."""
        with self._lock:
            return self._queue.remove(ticket.request.client, ticket)

    def release(self, ticket: Ticket, service_s: float | None = None) -> None:
        """Frees a running ticket's slot; `service_s` is how long it took, where it ran to its end."""
        with self._lock:
            self._running.pop(ticket.number, None)
            if service_s is not None:
                self._service_s += 0.2 * (service_s - self._service_s)

    def overdue(self) -> list[tuple[Ticket, BusyError]]:
        """Takes out who has waited too long, each with the reason."""
        if not len(self._queue):
            return []
        before_s = self._clock() - self.settings.queue_deadline_s
        late = [ticket for ticket in self.waiting() if ticket.submitted_s <= before_s]
        return [(ticket, self._late(ticket)) for ticket in late if self.withdraw(ticket)]

    def _late(self, ticket: Ticket) -> BusyError:
        retry_s = self.retry_after_s(ticket.request.id)
        waited_s = self.settings.queue_deadline_s
        if ticket.awaits_memory:
            needs = f" for the {ticket.needs_bytes} bytes that this request needs" if ticket.needs_bytes else ""
            return MemoryPressure(f"No memory became free within {waited_s:g} s{needs}.", retry_after_s=retry_s)
        return QueueTimeout(f"No place became free within {waited_s:g} s.", retry_after_s=retry_s)

    def close(self, refusal: Callable[[], InferenceError]) -> list[Ticket]:
        """Refuses everything from now on and empties the queue; who waited is returned."""
        with self._lock:
            self._refusal = refusal
        return [ticket for ticket in self.waiting() if self.withdraw(ticket)]

    def retry_after_s(self, request_id: str) -> int:
        return self._retry_after_s(request_id, len(self._queue))

    def _retry_after_s(self, request_id: str, depth: int) -> int:
        """Queue depth x recent service time, spread by a quarter each way so that clients do not return together."""
        spread = 0.75 + 0.5 * (crc32(request_id.encode()) % 1000) / 1000
        return round(spread * self._service_s * (depth + 1) / self.settings.max_batch)


def draining() -> InferenceError:
    return Draining("The server is shutting down.", retry_after_s=5)


def dead() -> InferenceError:
    return EngineFatal("The engine is not running.")
