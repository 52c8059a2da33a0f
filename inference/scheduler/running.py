"""The rows that run: started in their model's runner, stepped, their output delivered, ended one way or another.

Errors stay where they belong: a row's with the row, a step's with the rows of that model, and after an unsafe one the
engine is built anew. What is left of a row is freed in the turn in which it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from inference.errors import EngineFatal, GenerationFailed, InferenceError, MemoryPressure, ModelError
from inference.events import FinishReason
from inference.ports import Clock, Prefilled, RowFailed, Sampled, Started, StepOutput
from inference.scheduler.admission import Admission
from inference.scheduler.budget import Load
from inference.scheduler.choices import Choices
from inference.scheduler.pulse import Pulse
from inference.scheduler.rates import Rate
from inference.scheduler.request import Ticket
from inference.scheduler.residents import Resident, Residents
from inference.scheduler.row import Row
from inference.scheduler.settings import SchedulerSettings
from inference.scheduler.view import RowView, Tally

log = logging.getLogger(__name__)

WORK_S = 0.001
"""A step shorter than this that gives nothing did nothing."""


class Running:
    """All rows of all models. `changed` is set when a slot or memory became free."""

    def __init__(
        self,
        residents: Residents,
        admission: Admission,
        settings: SchedulerSettings,
        clock: Clock,
        pulse: Pulse,
        tally: Tally,
    ) -> None:
        self._residents = residents
        self._admission = admission
        self._settings = settings
        self._clock = clock
        self._pulse = pulse
        self._tally = tally
        self.changed = True
        self.decode = Rate()
        self.prefill = Rate()

    def __len__(self) -> int:
        return sum(len(resident.rows) for resident in self._residents.all())

    def busy(self) -> list[Resident]:
        return [resident for resident in self._residents.all() if resident.rows]

    def loads(self, joined: Resident | None = None, more: Sequence[int] = ()) -> list[Load]:
        """What the memory estimate is made of, also with rows of these lengths `more` in the model `joined`."""
        return [
            (one.limits, [*(row.held_tokens for row in one.rows.values()), *(more if one is joined else ())])
            for one in self._residents.all()
        ]

    def views(self, now_s: float) -> tuple[RowView, ...]:
        return tuple(row.view(now_s) for resident in self.busy() for row in resident.rows.values())

    def start(self, ticket: Ticket, resident: Resident) -> None:
        """Gives a ticket its rows, unless it was cancelled in between."""
        if not self._admission.take(ticket):
            return
        now_s = resident.last_used_s = self._clock()
        try:
            deadline_s = ticket.request.params.deadline_s or self._admission.settings.generation_deadline_s
            choices = Choices(ticket, now_s, self._settings.reserve_tokens, deadline_s)
            resident.rows |= {row.job.id: row for row in choices.rows}
            for row in choices.rows:
                resident.runner.start(row.job)
        except EngineFatal as error:
            self.rebuild(resident, error)
        except Exception as error:
            self._not_started(ticket, resident, error)

    def _not_started(self, ticket: Ticket, resident: Resident, error: Exception) -> None:
        shown = _shown(error, "The request could not be started.", ticket)
        row = resident.rows.get(ticket.job_id)
        if row is not None:
            row.choices.fail(shown)
            self._deliver(resident, row.choices)
            return
        self._admission.release(ticket)
        ticket.mailbox.fail(shown)

    def step(self, resident: Resident) -> bool:
        """One step of one model. False: nothing came of it.

        A step that computed in silence (an engine may compute rows again after a fault) is progress all the same; one
        that returned at once with nothing is not, or an engine that turns in circles would never be found out.
        """
        self._pulse.begin(f"step {resident.ref.id}", max(self._settings.watchdog_s, 10 * resident.slowest_s))
        began_s, awake_s = self._clock(), self._pulse.awake_s
        try:
            outputs = resident.runner.step()
        except EngineFatal as error:
            self.rebuild(resident, error)
            return True
        except Exception as error:
            self._step_failed(resident, error)
            return True
        resident.took(self._pulse.awake_s - awake_s)
        worked = bool(outputs) or self._clock() - began_s >= WORK_S
        if worked:
            self._pulse.beat()
        self._route(resident, outputs)
        return worked

    def _route(self, resident: Resident, outputs: Sequence[StepOutput]) -> None:
        """Gives each output to its row, then delivers what each request has to say in one piece."""
        now_s = self._clock()
        told: dict[int, Choices] = {}
        for output in outputs:
            row = resident.rows.get(output.job_id)
            if row is None or row.over:
                continue  # cancelled, or ended by a stop string within this step
            told[row.ticket.number] = row.choices
            try:
                self._feed(row, output, now_s)
            except Exception as error:
                row.choices.fail(_shown(error, "The answer could not be turned into text.", row.ticket))
        for choices in told.values():
            self._deliver(resident, choices)

    def _feed(self, row: Row, output: StepOutput, now_s: float) -> None:
        match output:
            case Sampled():
                before = row.completion_tokens
                row.sampled(output, now_s)
                self.decode.add(row.completion_tokens - before)
            case Prefilled():
                row.choices.prefilled(output)
                self.prefill.add(output.computed_tokens)
            case Started():
                row.choices.looked = output.looked
            case RowFailed():
                row.choices.fail(output.error)

    def _deliver(self, resident: Resident, choices: Choices) -> None:
        events = choices.take_events()
        if events:
            choices.ticket.mailbox.put(events)
        for row in choices.rows:
            if row.over:
                self._free(resident, row)

    def _free(self, resident: Resident, row: Row) -> None:
        """Frees a row's place here and in the runner (which may have done so itself)."""
        if resident.rows.pop(row.job.id, None) is None:
            return
        self.changed = True
        resident.last_used_s = self._clock()
        if resident.rows.keys().isdisjoint(row.ticket.job_ids):
            self._admission.release(row.ticket, resident.last_used_s - row.started_s)
        try:
            resident.runner.cancel(row.job.id)
        except Exception as error:
            self.rebuild(resident, EngineFatal("The engine could not free a request and is rebuilt."), error)

    def cancel(self, ticket: Ticket) -> None:
        """Frees the rows of a ticket whose reader is gone."""
        resident = self._residents.get(ticket.request.model.id)
        for job_id in ticket.job_ids if resident is not None else ():
            if resident is not None and (row := resident.rows.get(job_id)) is not None:
                self._free(resident, row)

    def end_overdue(self) -> None:
        """Ends answers that have reached their wall-clock limit, with `length`."""
        now_s = self._clock()
        for resident in self.busy():
            for row in list(resident.rows.values()):
                if row.deadline_s is not None and now_s >= row.deadline_s and not row.over:
                    row.finish(FinishReason.LENGTH, now_s)
                    self._deliver(resident, row.choices)

    def extend_reservations(self) -> None:
        """Reserves more for rows that have grown into what they had."""
        for resident in self.busy():
            for row in resident.rows.values():
                if row.outgrown:
                    row.extend_reservation()

    def end_newest(self, error: InferenceError) -> None:
        """Ends the request that began last."""
        rows = [(row.ticket.number, resident, row) for resident in self.busy() for row in resident.rows.values()]
        if rows:
            _, resident, row = max(rows, key=lambda entry: entry[0])
            row.choices.fail(error)
            self._deliver(resident, row.choices)

    def end_all(self, resident: Resident, error: InferenceError) -> None:
        for row in list(resident.rows.values()):
            row.choices.fail(error)
            self._deliver(resident, row.choices)

    def _step_failed(self, resident: Resident, error: Exception) -> None:
        """A step that did not say whose fault it was ends all rows of its model, and must have left none behind."""
        self._pulse.beat()
        log.error("a step of model %s failed: %s", resident.ref.id, type(error).__name__)
        shown = error if isinstance(error, InferenceError) else GenerationFailed("The engine failed in this batch.")
        self.end_all(resident, shown)
        if self._residents.get(resident.ref.id) is resident and resident.runner.active_jobs:
            self.rebuild(resident, EngineFatal("The engine kept rows that had ended and is rebuilt."))

    def rebuild(self, resident: Resident, error: EngineFatal, cause: Exception | None = None) -> None:
        """Fails a model's rows and loads it again. If that fails it is not resident any more."""
        if self._residents.get(resident.ref.id) is not resident:
            return  # under way: freeing a row failed while its model is being rebuilt
        log.error("engine of model %s is rebuilt: %s", resident.ref.id, type(cause or error).__name__)
        rows = list(resident.rows.values())
        resident.rows.clear()
        for row in rows:
            row.choices.fail(error)
            self._admission.release(row.ticket)
            self._deliver(resident, row.choices)
        self._tally.add(engine_rebuilds=1)
        self.changed = True
        try:
            self._residents.reload(resident, self._admission.submitted)
        except (ModelError, MemoryPressure):
            log.error("model %s could not be loaded again", resident.ref.id)
        self._pulse.beat()


def _shown(error: Exception, message: str, ticket: Ticket) -> InferenceError:
    """What a client may read of an error; one that is not ours is logged by its class only, it may quote the prompt."""
    if isinstance(error, InferenceError):
        return error
    log.error("request %s failed: %s", ticket.request.id, type(error).__name__)
    return GenerationFailed(message)
