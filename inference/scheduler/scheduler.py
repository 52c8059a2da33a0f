"""The scheduler as the service sees it: submit, read the view, load, unload, drain, stop; and what it does in need."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace

from inference.errors import EngineFatal, GenerationStalled, InferenceError, ModelLoading
from inference.events import Explained
from inference.params import CacheScope, KVQuantisation
from inference.ports import Clock, ModelLimits, ModelLoader, ModelRef
from inference.prefix_store import AuditResult, PrefixStore
from inference.scheduler.admission import Admission, dead, draining
from inference.scheduler.intake import resolve
from inference.scheduler.mailbox import Doorbell, Mailbox
from inference.scheduler.open_requests import RequestView, request_views
from inference.scheduler.pool import Ended, Leave, PoolRules, Receipt
from inference.scheduler.pulse import Pulse
from inference.scheduler.request import Generation, Request, Ticket
from inference.scheduler.residents import Residents
from inference.scheduler.settings import SchedulerSettings
from inference.scheduler.view import SchedulerView, Tally
from inference.scheduler.watchdog import Watchdog
from inference.scheduler.worker import Worker
from inference.tokens import Prompt

log = logging.getLogger(__name__)


class Scheduler:
    """One worker thread, one watchdog, one queue. `loader_factory` is called on the worker thread.

    `on_death(cause)` and `on_hang()` are called once, from a thread of the scheduler's own, after every client was
    told; the process should then end. Stacks are written to the file descriptor `dump_fd` before `on_hang`. `on_audit`
    hears on the worker thread what came of computing a warm request once more, and must not block.
    """

    def __init__(
        self,
        loader_factory: Callable[[], ModelLoader],
        settings: SchedulerSettings | None = None,
        clock: Clock = time.monotonic,
        *,
        on_death: Callable[[BaseException | None], None] | None = None,
        on_hang: Callable[[], None] | None = None,
        dump_fd: int | None = None,
        on_audit: Callable[[AuditResult], None] | None = None,
    ) -> None:
        self._settings = settings or SchedulerSettings()
        self._clock = clock
        self._on_death = on_death
        self._on_hang = on_hang
        self._dump_fd = dump_fd
        self._admission = Admission(self._settings, clock)
        self._tally = Tally()
        self._pulse = Pulse(clock, self._settings.watchdog_s)
        self._worker = Worker(
            loader_factory, self._settings, clock, self._admission, self._pulse, self._tally, on_audit
        )
        self._thread = threading.Thread(target=self._work, name="mlxd-worker", daemon=True)
        duties = (self._end_overdue, self._end_drain, self._check_thread)
        self._watchdog = Watchdog(self._pulse, clock, self._settings.tick_s, duties, self._stalled)
        self._doorbells: dict[asyncio.AbstractEventLoop, Doorbell] = {}
        self._lock = threading.Lock()
        self._dead = False
        self._stopping = False
        self._drain: Future[bool] | None = None
        self._drain_until_s = 0.0

    # --- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        self._watchdog.start()

    @property
    def alive(self) -> bool:
        """Whether the worker can still serve; False at once when its thread has ended, or the watchdog gave it up."""
        return not self._dead and not self._stopping and self._thread.is_alive()

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the worker last made progress; up to about 1 s while it is idle."""
        return self._clock() - self._pulse.at_s

    def readiness(self) -> tuple[bool, str]:
        """Whether requests are answered now, and if not, a word: starting, loading, rebuilding, draining, dead."""
        view = self._worker.view
        if self._drain is not None or self._stopping:
            return False, "draining"
        if self._thread.ident is not None and not self.alive:
            return False, "dead"
        if view.memory is None:
            return False, "starting"
        if view.rebuilding:
            return False, "rebuilding"
        if view.loading and not any(model.limits for model in view.models):
            return False, "loading"
        return True, ""

    def drain(self, timeout_s: float) -> Future[bool]:
        """Refuses new requests, fails waiting ones with `Draining`, lets running ones end; past the time they fail too.

        The future is True if all ended by themselves. Returns at once; a second call gives the same future.
        """
        with self._lock:
            if self._drain is not None:
                return self._drain
            future = self._drain = Future()
            self._drain_until_s = self._clock() + timeout_s
        self._fail_all(self._admission.close(draining), draining())
        self._end_drain()
        return future

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Ends the worker (rows that still run fail with `Draining`) and frees the models. False: it did not end."""
        self._stopping = True
        self._fail_all(self._admission.close(draining), draining())
        self._worker.stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        self._watchdog.stop()
        self._worker.abandon(draining())
        return not self._thread.is_alive()

    # --- requests -----------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Generation:
        """Takes a request, on the event loop that will read it. Raises `RequestError`, `BusyError` or `EngineFatal`."""
        loop = asyncio.get_running_loop()
        settings = self._settings
        mailbox = Mailbox(
            self._doorbell(loop),
            lambda: self._abandoned(ticket),
            self._tally.ended,
            choices=request.params.n,
            max_events=settings.mailbox_events,
            max_chars=settings.mailbox_chars,
        )
        try:
            ticket = self._admission.admit(request, self._worker.view, mailbox)
        except InferenceError:
            self._tally.add(refused=1)
            raise
        self._tally.add(submitted=1)
        self._worker.wake()
        return Generation(ticket, self._worker.kept)

    def snapshot(self) -> SchedulerView:
        """What the scheduler is doing: the worker's last figures, with queue, counters and state of this moment."""
        return replace(
            self._worker.view,
            queue_depth=self._admission.depth,
            counters=self._tally.counters,
            heartbeat_s=self._pulse.at_s,
            alive=self.alive,
            draining=self._drain is not None,
        )

    def load(self, model: ModelRef) -> Future[ModelLimits]:
        """Brings a model in, in turn. The future fails with `ModelError`; a model that is there already is no error."""
        return self._ordered(self._worker.load(model))

    def unload(self, model_id: str, leave: Leave = Leave.DRAINED) -> Future[Receipt | None]:
        """Lets a model go; what that gave back, None where it was not loaded.

        The future fails with `ModelInUse` or, when the memory did not come back, with `MemoryNotReturned`.
        """
        return self._ordered(self._worker.unload(model_id, leave))

    def bar(self, model: ModelRef, error: InferenceError) -> None:
        """Has requests for a model fail with an error until somebody orders it."""
        self._worker.bar(model, error)

    def rule(self, rules: PoolRules) -> None:
        """Changes who may stay in memory, from the worker's next turn on."""
        self._worker.rule(rules)

    def limit(self, settings: SchedulerSettings) -> None:
        """Changes the limits of the queue and of single answers; the others stay as they were at the start."""
        self._admission.settings = replace(
            self._settings,
            max_queue=settings.max_queue,
            max_queue_per_client=settings.max_queue_per_client,
            queue_deadline_s=settings.queue_deadline_s,
            generation_deadline_s=settings.generation_deadline_s,
        )

    def end(self, request_id: str) -> int:
        """Ends the requests of an id, wherever they are; their readers are told by whom. How many there were."""
        found = [one for one in self._admission.tickets() if one.request.id == request_id and not one.mailbox.closed]
        for ticket in found:
            ticket.mailbox.cancel(Ended("The request was ended by an admin."))
        return len(found)

    def requests(self) -> tuple[RequestView, ...]:
        """Those that run, as of the worker's last turn, and those that wait, in the order in which they came."""
        return request_views(self._admission.tickets(), self._worker.view.rows, self._clock())

    def explain(
        self, model: ModelRef, prompt: Prompt, cache: CacheScope | None, kv: KVQuantisation | None = None
    ) -> Future[Explained]:
        """What a request would begin with now. Nothing is computed, locked or counted.

        The future fails with `ModelLoading` while the model is not in memory: its store is told by what it loads.
        """

        def look(_loader: ModelLoader, residents: Residents) -> Explained:
            resident = residents.get(model.id)
            if resident is None:
                raise ModelLoading(f"The model {model.id} is not in memory now, and to explain does not load it.")
            return resident.runner.explain(prompt, cache, kv)

        return self._ordered(self._worker.ask(look))

    def store[Answer](self, question: Callable[[PrefixStore], Answer]) -> Future[Answer | None]:
        """Asks the store of prefixes something, or has it do something, in turn. None: nothing is kept here."""
        return self._ordered(
            self._worker.ask(lambda loader, _: None if loader.store is None else question(loader.store))
        )

    def _ordered[Result](self, future: Future[Result]) -> Future[Result]:
        if self._dead or self._stopping:  # looked at after the order was placed, so that none is left behind
            self._worker.abandon(dead())
        return future

    def _doorbell(self, loop: asyncio.AbstractEventLoop) -> Doorbell:
        if loop not in self._doorbells:
            open_ones = {known: bell for known, bell in self._doorbells.items() if not known.is_closed()}
            self._doorbells = {**open_ones, loop: Doorbell(loop)}
        return self._doorbells[loop]

    def _abandoned(self, ticket: Ticket) -> None:
        """A mailbox was cancelled: the ticket leaves the queue here, or its row before the next step."""
        if not self._admission.withdraw(ticket):
            self._worker.cancel(ticket)

    def _fail_all(self, tickets: Iterable[Ticket], error: InferenceError) -> None:
        for ticket in tickets:
            ticket.mailbox.fail(error)

    # --- duties of the watchdog ---------------------------------------------------------------------------------

    def _end_overdue(self) -> None:
        for ticket, error in self._admission.overdue():
            self._fail_all((ticket,), error)

    def _end_drain(self) -> None:
        if self._drain is None or self._drain.done():
            return
        running = self._admission.running()
        if running and self._clock() < self._drain_until_s:
            return
        self._fail_all(running, draining())
        for ticket in running:
            self._worker.cancel(ticket)
        resolve(self._drain, not running)

    def _check_thread(self) -> None:
        if self._thread.ident is not None and not self._thread.is_alive() and not self._stopping:
            self._died(None)

    # --- the worker's end ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        cause: BaseException | None = None
        try:
            self._worker.run()
        except BaseException as error:  # SystemExit too: a thread that ends silently must be seen
            cause = error
        if cause is not None or not self._stopping:
            self._died(cause)

    def _died(self, cause: BaseException | None) -> None:
        if not self._give_up(EngineFatal("The engine has ended unexpectedly.")):
            return
        frames = "".join(traceback.format_tb(cause.__traceback__)) if cause else ""
        log.critical("the worker thread has ended: %s\n%s", type(cause).__name__, frames)
        if self._on_death is not None:
            self._on_death(cause)

    def _stalled(self) -> None:
        pulse = self._pulse
        if not self._give_up(GenerationStalled("The engine has made no progress for too long.")):
            return
        log.critical("no progress within %.0f s: %s", pulse.allowance_s, pulse.doing)
        fd = self._dump_fd if self._dump_fd is not None else sys.__stderr__
        if fd is not None:
            faulthandler.dump_traceback(file=fd, all_threads=True)
        self._worker.stop()
        if self._on_hang is not None:
            self._on_hang()

    def _give_up(self, error: InferenceError) -> bool:
        """Tells every client and refuses new ones. False: that was done before."""
        with self._lock:
            if self._dead:
                return False
            self._dead = True
        self._fail_all(self._admission.close(dead), error)
        self._fail_all(self._admission.running(), error)
        self._worker.abandon(error)
        resolve(self._drain, False)
        return True
