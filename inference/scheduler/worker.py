"""The one thread that owns models and KV: take orders, let requests in, step every model, deliver, publish, again.

A turn is short (one step of each model), so that whatever arrives waits for one step at most. Errors of a request end
that request, errors of an engine its rows; anything else ends the thread, and the scheduler says so.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any

from inference.errors import EngineFatal, InferenceError, MemoryPressure
from inference.ports import Clock, ModelLimits, ModelLoader, ModelRef
from inference.scheduler.admission import Admission, draining
from inference.scheduler.audits import Audits, Told
from inference.scheduler.budget import estimate_bytes
from inference.scheduler.intake import Intake, fail, resolve
from inference.scheduler.pool import Leave, PoolRules, Receipt
from inference.scheduler.pulse import Pulse
from inference.scheduler.request import Ticket
from inference.scheduler.residents import Residents
from inference.scheduler.room import Room
from inference.scheduler.running import Running
from inference.scheduler.settings import SchedulerSettings
from inference.scheduler.view import SchedulerView, Tally

log = logging.getLogger(__name__)

IDLE_S = 1.0
"""How long the worker sleeps when there is nothing to do: often enough to be seen alive, too rarely to cost."""
BARREN_S = 0.001
"""Pause after a turn in which no model gave any output."""
CHANGE_S = 0.01
"""A view of 1,000 rows costs about 1 ms, so a burst of changes is shown as one."""


class Worker:
    """`run` is the thread; `cancel`, `load`, `unload`, `wake`, `stop`, `abandon` are for others; `view` is for all."""

    def __init__(
        self,
        loader_factory: Callable[[], ModelLoader],
        settings: SchedulerSettings,
        clock: Clock,
        admission: Admission,
        pulse: Pulse,
        tally: Tally,
        on_audit: Told | None = None,
    ) -> None:
        self._loader_factory = loader_factory
        self._settings = settings
        self._clock = clock
        self._admission = admission
        self._pulse = pulse
        self._tally = tally
        self._on_audit = on_audit
        self._bell = threading.Event()
        self._orders: deque[Callable[[Intake], None]] = deque()
        self._cancelled: deque[Ticket] = deque()
        self._stop = False
        self._futures: set[Future[Any]] = set()
        self._stale = True
        self._untidy = False
        self._worked_s = 0.0
        self._intake: Intake | None = None
        self.view = SchedulerView()

    # --- from other threads -------------------------------------------------------------------------------------

    def wake(self) -> None:
        self._bell.set()

    def cancel(self, ticket: Ticket) -> None:
        """Frees the ticket's row before the next step."""
        self._cancelled.append(ticket)
        self._bell.set()

    def load(self, ref: ModelRef) -> Future[ModelLimits]:
        future: Future[ModelLimits] = Future()

        def want(intake: Intake) -> None:
            self._audits.abandon()
            intake.want(ref, future)

        self._order(future, want)
        return future

    def unload(self, model_id: str, leave: Leave) -> Future[Receipt | None]:
        future: Future[Receipt | None] = Future()
        self._order(future, lambda intake: intake.unload(model_id, leave, future))
        return future

    def bar(self, ref: ModelRef, error: InferenceError) -> None:
        self._orders.append(lambda intake: intake.bar(ref, error))
        self._bell.set()

    def rule(self, rules: PoolRules) -> None:
        self._orders.append(lambda intake: intake.rule(rules))
        self._bell.set()

    def ask[Answer](self, question: Callable[[ModelLoader, Residents], Answer]) -> Future[Answer]:
        """Has something looked up on the worker's thread, in turn. The future fails with what the question raises."""
        future: Future[Answer] = Future()

        def answer(_intake: Intake) -> None:
            try:
                resolve(future, question(self._loader, self._residents))
            except Exception as error:
                fail(future, error)

        self._order(future, answer)
        return future

    def kept(self, job_ids: Collection[str]) -> Future[None] | None:
        """What the store says of what these jobs have left so far; None where nothing outlives the process."""
        store = None if self._intake is None else self._loader.store
        return None if store is None else store.kept(job_ids)

    def _order(self, future: Future[Any], order: Callable[[Intake], None]) -> None:
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        self._orders.append(order)
        self._bell.set()

    def abandon(self, error: InferenceError) -> None:
        """Fails the orders that nobody will carry out any more."""
        for future in list(self._futures):
            fail(future, error)

    def stop(self) -> None:
        self._stop = True
        self._bell.set()

    # --- the thread ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Works until it is stopped. Whatever it raises means that the engine is gone."""
        self._pulse.begin("start", self._settings.load_floor_s)
        self._loader = self._loader_factory()
        self._residents = Residents(self._loader, self._settings, self._clock, self._pulse, self._publish)
        self._running = Running(self._residents, self._admission, self._settings, self._clock, self._pulse, self._tally)
        self._audits = Audits(self._loader, self._residents, self._settings, self._pulse, self._on_audit)
        room = self._room = Room(self._loader.store, self._settings, self._clock)
        self._intake = Intake(self._residents, self._running, self._admission, room, self._settings, self._tally)
        while not self._stop:
            self._turn(self._intake)
        self._close()

    def _turn(self, intake: Intake) -> None:
        self._take_orders(intake)
        while self._cancelled:
            self._running.cancel(self._cancelled.popleft())
        self._running.end_overdue()
        if self._admission.depth or len(self._running):
            self._audits.abandon()
        if self._running.changed or self._room.patience_ended():
            self._running.changed = False
            self._stale = True
            intake.look()
        barren = True
        for resident in self._running.busy():
            barren = not self._running.step(resident) and barren
            self._untidy, self._worked_s = True, self._clock()
        self._publish_if_due(intake)
        if barren and not self._running.changed:
            self._rest(intake)

    def _take_orders(self, intake: Intake) -> None:
        if self._bell.is_set():
            self._bell.clear()  # before the orders are read: what comes from now on rings again
            self._running.changed = True
        while self._orders:
            self._orders.popleft()(intake)

    def _rest(self, intake: Intake) -> None:
        """Sleeps until something comes, or for a moment if rows are there whose step gave nothing."""
        if self._running.busy():
            self._bell.wait(BARREN_S)
            return
        if self._audit():
            return
        self._pulse.begin("rest", self._settings.watchdog_s)
        self._pulse.beat()
        if not self._bell.wait(min(IDLE_S, self._settings.tidy_after_s, self._settings.watchdog_s / 4)):
            self._running.changed = self._admission.depth > 0  # memory may have become free outside
            self._room.sweep()
            if self._untidy:  # what nothing has worked beside since cannot have changed: an idle device is left alone
                self._room.prove()
            intake.expire()
            self._tidy()
            self._audits.begin()
            self._pulse.beat()
            self._publish()

    def _audit(self) -> bool:
        """A step of an audit, if one is under way: the next turn looks at what has come meanwhile."""
        on = self._audits.resident
        try:
            if not self._audits.step():
                return False
        except EngineFatal as error:
            if on is not None:
                self._running.rebuild(on, error)
        self._untidy, self._worked_s = True, self._clock()
        return True

    def _tidy(self) -> None:
        """Once in each idle time: buffers kept for speed are worth more to the rest of the machine by now."""
        if self._untidy and self._clock() - self._worked_s >= self._settings.tidy_after_s:
            self._untidy = False
            self._loader.release_unused()

    def _publish_if_due(self, intake: Intake) -> None:
        """Changes are shown within 10 ms, or at once when they were the last for now; figures every `publish_s`."""
        age_s = self._clock() - self.view.published_s
        self._stale = self._stale or self._running.changed
        if age_s >= self._settings.publish_s or (self._stale and (age_s >= CHANGE_S or not len(self._running))):
            self._relieve(intake)
            self._running.changed = intake.expire() or self._running.changed
            self._publish()

    def _relieve(self, intake: Intake) -> None:
        """Keeps within the device's memory: the store shrinks first, idle models go next, then the newest row."""
        self._running.extend_reservations()
        limit_bytes = self._room.limit_bytes = self._loader.memory().limit_bytes
        self._room.sweep()
        self._room.divide(self._running.loads())
        if intake.pressure:
            intake.pressure, self._running.changed = False, True
        if limit_bytes <= 0 or not self._over(limit_bytes):
            return
        self._audits.abandon()
        self._loader.release_unused()
        self._shrink_store(limit_bytes)
        while self._over(limit_bytes) and (spare := self._residents.spare(())):
            self._residents.unload(spare)
        if self._over(limit_bytes):
            intake.pressure = True
            held = f"{self._loader.memory().active_bytes} bytes are held and {limit_bytes} bytes may be"
            self._running.end_newest(
                MemoryPressure(f"The device's memory is full ({held}); the newest request was ended.")
            )

    def _shrink_store(self, limit_bytes: int) -> None:
        """The store gives back what the device holds too much, in the end also what running rows stand on."""
        over = self._loader.memory().active_bytes - limit_bytes
        if over > 0 and self._room.give_back(over):
            self._loader.release_unused()

    def _over(self, limit_bytes: int) -> bool:
        active_bytes = self._loader.memory().active_bytes
        return active_bytes > limit_bytes or (
            bool(len(self._running)) and estimate_bytes(self._running.loads()) > limit_bytes
        )

    def _publish(self) -> None:
        now_s = self._clock()
        self._stale = False
        memory = self._loader.memory()
        running, intake, store = self._running, self._intake, self._loader.store
        self._room.limit_bytes = memory.limit_bytes
        self.view = SchedulerView(
            models=self._residents.views(),
            rows=running.views(now_s),
            queue_depth=self._admission.depth,
            memory=memory,
            store=None if store is None else store.totals(),
            reserved_bytes=estimate_bytes(running.loads()),
            pressure=intake is not None and intake.pressure,
            decode_tps=running.decode.read(now_s),
            prefill_tps=running.prefill.read(now_s),
            counters=self._tally.counters,
            heartbeat_s=self._pulse.at_s,
            published_s=now_s,
        )

    def _close(self) -> None:
        """Ends what is left and frees the models; the thread is about to end."""
        error: InferenceError = draining()
        for resident in self._residents.all():
            self._running.end_all(resident, error)
            self._residents.close(resident)
        if (store := self._loader.store) is not None:
            store.close()
        self._loader.release_unused()
