"""Who gets a row next, and which models come and go for it. On the worker thread only.

One look goes through the queue in its fair order. A request whose model is not loaded makes the worker want it (one
model at a time, the first in order); one whose memory or rows do not fit stops all behind it, or small requests would
starve it for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from math import inf
from typing import Any

from inference.errors import InferenceError, MemoryPressure, ModelError
from inference.events import Admitted
from inference.ports import ModelLimits, ModelRef
from inference.scheduler.admission import Admission
from inference.scheduler.budget import estimate_bytes
from inference.scheduler.checks import check_memory, check_quantisation, check_vocabulary, reserved_lengths
from inference.scheduler.pool import Ended, Leave, MemoryNotReturned, ModelInUse, PoolRules, Receipt
from inference.scheduler.request import Ticket
from inference.scheduler.residents import Resident, Residents, Wanted, weights_bytes
from inference.scheduler.room import Room
from inference.scheduler.running import Running
from inference.scheduler.settings import SchedulerSettings
from inference.scheduler.view import Tally


class Intake:
    """Lets requests in. `pressure` and the room's limit are set from the device's figures before each look."""

    def __init__(
        self,
        residents: Residents,
        running: Running,
        admission: Admission,
        room: Room,
        settings: SchedulerSettings,
        tally: Tally,
    ) -> None:
        self._residents = residents
        self._running = running
        self._admission = admission
        self._room = room
        self._settings = settings
        self._tally = tally
        self._wants: deque[Wanted] = deque()
        self._unloads: dict[str, list[Future[Receipt | None]]] = {}
        self.pressure = False

    def want(self, ref: ModelRef, future: Future[ModelLimits]) -> None:
        """A model is to be loaded, whether or not anybody waits for it."""
        self._residents.forgive(ref.id)
        self._wants.append(Wanted(ref, self._admission.submitted, future))

    def unload(self, model_id: str, leave: Leave, future: Future[Receipt | None]) -> None:
        """A model is to go once its rows have ended, at once, or only if nobody needs it."""
        waiting = [ticket for ticket in self._admission.waiting() if ticket.request.model.id == model_id]
        resident = self._residents.get(model_id)
        running = len(resident.rows) if resident is not None else 0
        if leave is Leave.UNUSED and (running or waiting):
            fail(future, ModelInUse(model_id, running, len(waiting)))
            return
        if leave is Leave.NOW:
            ended = Ended(f"The model {model_id} was unloaded by an admin.")
            for ticket in waiting:
                self._refuse(ticket, ended)
            if resident is not None:
                self._running.end_all(resident, ended)
        self._wants = deque(wanted for wanted in self._wants if wanted.ref.id != model_id or wanted.future)  # restored
        self._unloads.setdefault(model_id, []).append(future)

    def rule(self, rules: PoolRules) -> None:
        """Other rules for who may stay hold from now on."""
        self._residents.rules = rules
        self._running.changed = True

    def bar(self, ref: ModelRef, error: InferenceError) -> None:
        """From now on only an order loads this model; requests for it get the error."""
        self._residents.bar(ref, error)
        self._running.changed = True

    def expire(self) -> bool:
        """Lets go of idle models that have stayed too long. Whether there were any."""
        needed = {ticket.request.model.id for ticket in self._admission.waiting()}
        overstayed = self._residents.overstayed(needed)
        for resident in overstayed:
            self._residents.unload(resident)
        return bool(overstayed)

    def look(self) -> None:
        """Starts what can start now and loads at most one model."""
        self._finish_unloads()
        waiting = self._admission.waiting()
        wanted = self._wanted(waiting)
        leaving = self._residents.leaving(wanted.ref) if wanted else []
        held: dict[str, float] = dict.fromkeys(self._unloads, -1)
        if wanted:
            held |= {one.ref.id: max(one.loaded_number, wanted.number) for one in leaving if one.ref.id not in held}
        self._residents.draining = held
        owed = self._start(waiting, held)
        if wanted and all(self._may_leave(resident) and resident.ref.id not in owed for resident in leaving):
            self._bring(wanted, leaving)

    def _may_leave(self, resident: Resident) -> bool:
        """It has no rows, and it is still what is loaded: starting a row may have had its engine rebuilt."""
        return not resident.rows and self._residents.get(resident.ref.id) is resident

    def _start(self, waiting: Sequence[Ticket], held: dict[str, float]) -> set[str]:
        """Starts tickets in order. Returns the models that still owe one its row before they may leave."""
        owed: set[str] = set()
        room = not self.pressure
        for ticket in waiting:
            model_id = ticket.request.model.id
            resident = self._residents.get(model_id)
            if resident is None:
                self._refuse_for_model(ticket)
                continue
            if not self._announce(ticket, resident) or ticket.number > held.get(model_id, inf):
                continue
            if room:
                slots = len(self._running) + ticket.choices <= self._settings.max_batch
                room = slots and self._make_room(ticket, resident)
                if room:
                    self._running.start(ticket, resident)
                    continue
            ticket.awaits_memory = ticket.awaits_memory or self.pressure
            owed.add(model_id)
        return owed

    def _make_room(self, ticket: Ticket, resident: Resident) -> bool:
        """Whether the ticket's memory can be reserved now; idle models are unloaded for it."""
        lengths = reserved_lengths(ticket.request, ticket.max_tokens, self._settings.reserve_tokens)
        keep = {resident.ref.id, *(busy.ref.id for busy in self._running.busy())}
        while True:
            loads = self._running.loads(resident, lengths)
            if self._room.admits(ticket, resident, loads, alone=not len(self._running)):
                ticket.awaits_memory = False
                return True
            spare = self._residents.spare(keep)
            if spare is None:
                ticket.awaits_memory = True
                ticket.needs_bytes = estimate_bytes([(resident.limits, lengths)]) - resident.limits.weights_bytes
                return False
            self._residents.unload(spare)

    def _announce(self, ticket: Ticket, resident: Resident) -> bool:
        """Tells the reader that its request has its place, or that it can never be served. False: it was refused."""
        if ticket.announced:
            return True
        request, limits = ticket.request, resident.limits
        try:
            check_vocabulary(request, limits)
            check_quantisation(request, limits)
            check_memory(request, ticket.max_tokens, limits, self._room.limit_bytes, self._settings.reserve_tokens)
        except InferenceError as error:
            self._refuse(ticket, error)
            return False
        ticket.announced = True
        looked = resident.runner.lookup(request.prompt, request.cache, request.params.kv)
        admitted = Admitted(
            request.id,
            ticket.prompt_tokens,
            looked.cached_tokens,
            looked.verdict,
            looked.warmth.value,
            looked.parting,
        )
        return ticket.mailbox.put((admitted,))

    def _refuse_for_model(self, ticket: Ticket) -> None:
        error = self._residents.failure(ticket.request.model.id)
        if error is not None:
            self._refuse(ticket, error)

    def _refuse(self, ticket: Ticket, error: InferenceError) -> None:
        if self._admission.withdraw(ticket):
            ticket.mailbox.fail(error)

    def _wanted(self, waiting: Sequence[Ticket]) -> Wanted | None:
        """The model to bring in next: one that was ordered, else the first in the queue that is not loaded."""
        while self._wants:
            wanted = self._wants[0]
            resident = self._residents.get(wanted.ref.id)
            blocked = resident is None and self._residents.blocked(wanted.ref)
            if resident is None and not blocked:
                return wanted
            self._wants.popleft()
            if resident is not None:
                resolve(wanted.future, resident.limits)
            else:
                fail(wanted.future, self._no_place(wanted.ref))
        for ticket in waiting:
            ref = ticket.request.model
            if self._residents.get(ref.id) is None and self._residents.failure(ref.id) is None:
                if not self._residents.blocked(ref):
                    return Wanted(ref, ticket.number)
                self._refuse(ticket, self._no_place(ref))
        return None

    def _no_place(self, ref: ModelRef) -> MemoryPressure:
        pinned = ", ".join(sorted(self._residents.rules.pinned)[:8])
        return MemoryPressure(
            f"The model {ref.id} finds no place in memory: its weights have {weights_bytes(ref.path)} bytes,"
            f" {self._room.limit_bytes} bytes and {self._residents.rules.max_models} models may be held, and {pinned}"
            " may not leave.",
            retry_after_s=30,
        )

    def _bring(self, wanted: Wanted, leaving: Sequence[Resident]) -> None:
        """Unloads who must leave and loads the model; if that fails, who left is brought back."""
        self._running.changed = True  # whatever comes of it, the queue is to be looked at again
        for resident in leaving:
            self._residents.unload(resident)
        if len(self._residents) and not self._has_room_for(wanted.ref):
            self._residents.crowded(wanted.ref)
            return
        ordered = bool(self._wants) and self._wants[0] is wanted
        try:
            loaded = self._residents.load(wanted.ref, self._admission.submitted)
        except (ModelError, MemoryPressure) as error:
            if ordered:
                self._wants.popleft()
            fail(wanted.future, error)
            number = self._admission.submitted
            self._wants.extend(Wanted(one.ref, number) for one in leaving)
            return
        if loaded is None:
            return  # it needs more room: another look, with more models asked to leave
        self._tally.add(model_loads=1)
        if ordered:
            self._wants.popleft()
        self._residents.show()
        resolve(wanted.future, loaded.limits)

    def _has_room_for(self, ref: ModelRef) -> bool:
        """Whether weights of the files' size fit beside what is reserved; the loader knows better, but too late."""
        needed = estimate_bytes(self._running.loads()) + weights_bytes(ref.path)
        return self._room.limit_bytes <= 0 or needed <= self._room.limit_bytes

    def _finish_unloads(self) -> None:
        for model_id, futures in list(self._unloads.items()):
            resident = self._residents.get(model_id)
            if resident is not None and resident.rows:
                continue
            receipt = None if resident is None else self._residents.unload(resident)
            del self._unloads[model_id]
            self._residents.show()
            for future in futures:
                if receipt is None or receipt.returned:
                    resolve(future, receipt)
                else:
                    fail(future, MemoryNotReturned(receipt))


def resolve[Result](future: Future[Result] | None, result: Result) -> None:
    if future is not None:
        with suppress(InvalidStateError):  # whoever waited has given up, or was told already that the worker is gone
            future.set_result(result)


def fail(future: Future[Any] | None, error: Exception) -> None:
    if future is not None:
        with suppress(InvalidStateError):
            future.set_exception(error)
