"""One loaded model at work: prefill chunks and decode steps in turn, and what becomes of faults.

It does not know clients, queues, deadlines or text: jobs go in, token ids come out. Every call must come from one
thread, the one that loaded the model, for MLX streams belong to threads.

A fault is kept to its row where that is possible. Sampling and prefill fail by row anyway. When a step of a lane
fails, its state cannot be trusted (some layers may hold the new token, others not), so it is dropped and its rows
are computed again from their tokens, each in a lane of its own; one that fails there is at fault and ends. If the
device itself stops answering, the engine is not safe to go on: `EngineFatal`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from inference.engine import kv, memory
from inference.engine.auditor import Auditor
from inference.engine.decode import Lane, Lanes
from inference.engine.entrance import Entrance
from inference.engine.last_logits import LastLogits
from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.pace import Pace
from inference.engine.prefill import PrefillQueue, PrefillRow, compute
from inference.engine.rows import Row
from inference.engine.settings import EngineSettings
from inference.engine.store import ModelStore
from inference.errors import EngineFatal, GenerationFailed, InferenceError, InvalidParameter, MemoryPressure
from inference.events import Explained, FinishReason, Looked
from inference.params import CacheScope, KVQuantisation
from inference.ports import Job, ModelLimits, Prefilled, RowFailed, Sampled, Started, StepOutput
from inference.tokens import Prompt

log = logging.getLogger(__name__)


class MlxRunner:
    """Implements `ports.ModelRunner` with a model of mlx-lm."""

    def __init__(
        self, model: Any, limits: ModelLimits, settings: EngineSettings, store: ModelStore | None = None
    ) -> None:
        self._model = model
        self._limits = limits
        self._settings = settings
        self._last_logits = LastLogits(model)
        self._queue = PrefillQueue(self._last_logits)
        self._entrance = Entrance(self._queue, lambda: make_prompt_cache(self._model), store)
        self._auditor = None if store is None else Auditor(model, store, limits, settings.cache.audit_every)
        self._lanes = Lanes()
        self._pace = Pace(settings.prefill_step_tokens)
        self._settled: list[StepOutput] = []

    @property
    def limits(self) -> ModelLimits:
        return self._limits

    @property
    def active_jobs(self) -> int:
        """Jobs that wait, prefill and decode, and those whose end the next step reports."""
        ended = sum(not isinstance(output, Started) for output in self._settled)
        return len(self._entrance) + len(self._queue) + len(self._lanes) + ended

    @property
    def kv_bytes(self) -> int:
        return self._lanes.kv_bytes + sum(kv.nbytes(row.state) for row in self._queue)

    @property
    def auditor(self) -> Auditor | None:
        return self._auditor

    def lookup(self, prompt: Prompt, cache: CacheScope | None, kv: KVQuantisation | None = None) -> Looked:
        return self._entrance.lookup(prompt, cache, kv)

    def explain(self, prompt: Prompt, cache: CacheScope | None, kv: KVQuantisation | None = None) -> Explained:
        return self._entrance.explain(prompt, cache, kv)

    def make_room(
        self, nbytes: int, by: str, prompt: Prompt, cache: CacheScope | None, kv: KVQuantisation | None
    ) -> None:
        self._entrance.make_room(nbytes, by, prompt, cache, kv)

    def start(self, job: Job) -> None:
        if (end := self._cannot_run(job)) is not None:
            self._settled.append(end)
            return
        row = Row.of(job)
        row.alone = job.kv is not None  # mlx-lm cannot batch quantised entries, and these will be
        self._settled += self._entrance.take(row)

    def _cannot_run(self, job: Job) -> StepOutput | None:
        """The engine's own guards: an id beyond the embedding reads foreign memory, an empty prompt has no logits."""
        ids = job.prompt.ids
        if not ids or min(ids) < 0 or max(ids) >= self._limits.vocab_size:
            return RowFailed(job.id, InvalidParameter("The prompt is empty or holds a token the model does not have."))
        if job.kv is not None and job.kv.group_size not in self._limits.kv_group_sizes:
            return RowFailed(job.id, InvalidParameter("The model's KV cannot be quantised like this.", param="kv_bits"))
        return Sampled(job.id, (), FinishReason.LENGTH) if job.max_tokens < 1 else None

    def cancel(self, job_id: str, *, keep: bool = True) -> None:
        self._settled = [output for output in self._settled if output.job_id != job_id]
        if (outputs := self._entrance.cancel(job_id, keep=keep)) is not None:
            self._settled += outputs
        elif (found := self._lanes.find(job_id)) is not None:
            lane, row = found
            lane.leave_trail(row, keep=keep)
            self._settled += self._drop(lane, [row])

    def step(self) -> Sequence[StepOutput]:
        outputs, self._settled = self._settled + self._entrance.read(), []
        for row, end in self._queue.chunks(self._pace.step_tokens(others_wait=len(self._lanes) > 0)):
            outputs += self._prefill(row, end)
        for lane in self._lanes:
            outputs += self._decode(lane)
        outputs += self._settled
        self._settled = []
        return outputs

    def close(self) -> None:
        if self._auditor is not None:
            self._auditor.close()
            self._auditor = None  # it knows the store, and that how to make empty states
        self._entrance.close()
        self._leave_lanes()
        self._settled = []
        self._model = None
        self._last_logits.forget()
        memory.release_unused()

    def _leave_lanes(self) -> None:
        """A function of its own: the last lane would hold the weights while `close` gives memory back."""
        for lane in self._lanes:
            lane.leave_trails(keep=False)
        self._lanes.clear()

    # --- one chunk, one step ------------------------------------------------------------------------------------

    def _prefill(self, row: PrefillRow, end: int) -> list[StepOutput]:
        start = row.offset
        done: list[StepOutput] = []
        try:
            began_s = time.perf_counter()
            compute(self._model, row, end, self._last_logits)
            self._pace.took(end - start, time.perf_counter() - began_s)
            if row.offset == row.goal:
                done = self._entrance.completed(row)
            lanes = self._first_lanes(row) if row.offset == row.goal else []
        except Exception as error:
            return [*done, *self._prefill_failed(row, error)]
        if lanes:
            self._queue.remove(row)
        outputs = [*done, *self._entrance.advanced(row)]
        outputs += [output for lane in lanes for output in self._admit(lane)]
        if row.restarted:
            return outputs
        last = len(row.ids) - row.offset if lanes else 0  # what decode's first step feeds, which is under way
        return [Prefilled(row.row.job.id, row.offset + last, len(row.ids), row.offset - start + last), *outputs]

    def _first_lanes(self, done: PrefillRow) -> list[Lane]:
        """Forks share a lane where their state can be batched (a state of no token at all cannot, in every class)."""
        rows, state = done.rows, done.state
        if len(rows) == 1 or (done.goal and kv.can_batch(state) and not done.row.alone):
            return [Lane(self._model, rows, state, done.logits)]
        return [Lane(self._model, [row], kv.fork(state)) for row in rows]

    def _admit(self, lane: Lane) -> list[StepOutput]:
        home = self._lanes.home_for(lane)
        if home is None:
            self._lanes.add(lane)
            return []
        company = [*home.rows, *lane.rows]
        try:
            home.join(lane)
        except Exception as error:
            self._lanes.remove(home)
            return self._restart(company, error)
        return []

    def _decode(self, lane: Lane) -> list[StepOutput]:
        try:
            drawn = lane.step()
        except Exception as error:
            self._lanes.remove(lane)
            if len(lane.rows) > 1:
                return self._restart(lane.rows, error)
            lane.leave_trails(keep=False)
            return [self._failed(lane.rows[0], error)]
        outputs: list[StepOutput] = []
        gone = []
        for one in drawn:
            row = one.row
            if row.sampling.error is not None:
                outputs.append(self._failed(row, row.sampling.error))
                lane.leave_trail(row, keep=True, stop=(one.token,))
                gone.append(row)
                continue
            tokens, finish = row.take(one.token)
            logprobs = (one.logprob,) if tokens and one.logprob is not None else ()
            outputs.append(Sampled(row.job.id, tokens, finish, logprobs))
            if finish is None:
                lane.follow(row)
            else:
                lane.leave_trail(row, keep=True, stop=() if tokens else (one.token,))
                gone.append(row)
        return outputs + (self._drop(lane, gone) if gone else [])

    def _drop(self, lane: Lane, gone: list[Row]) -> list[StepOutput]:
        stay = [row for row in lane.rows if row not in gone]
        try:
            self._lanes.drop(lane, gone)
        except Exception as error:
            self._lanes.remove(lane)
            return self._restart(stay, error)
        return []

    # --- faults -------------------------------------------------------------------------------------------------

    def _restart(self, rows: list[Row], error: Exception) -> list[StepOutput]:
        """Computes the rows of a broken lane again, each in a lane of its own: there it shows which is at fault."""
        self._require_device(error)
        for row in rows:
            if row.trail is not None:
                row.trail.discard()
                row.trail = None
            row.alone = True
            row.rewind()
            self._entrance.again([row], row.ids)
        return []

    def _prefill_failed(self, row: PrefillRow, error: Exception) -> list[StepOutput]:
        """The first row is at fault until shown otherwise; its forks begin anew, for the state cannot be trusted."""
        self._queue.remove(row)
        for one in row.rows:
            if one.trail is not None:
                one.trail.discard()
                one.trail = None
        failed, *forks = row.rows
        outputs: list[StepOutput] = [self._failed(failed, error), *self._entrance.left(row, keep=False)]
        for fork in forks:
            fork.rewind()
        if forks:
            self._entrance.again(forks, row.ids)
        return outputs

    def _failed(self, row: Row, error: Exception) -> RowFailed:
        self._require_device(error)
        log.error("job %s failed: %s", row.job.id, type(error).__name__)
        return RowFailed(row.job.id, _as_inference_error(error))

    @staticmethod
    def _require_device(error: Exception) -> None:
        if not memory.device_answers():
            raise EngineFatal(f"The device no longer answers after {type(error).__name__}.") from None


def _as_inference_error(error: Exception) -> InferenceError:
    """Class names only: the text of a foreign error may quote a prompt."""
    if isinstance(error, InferenceError):
        return error
    if isinstance(error, MemoryError) or "allocat" in str(error).lower() or "out of memory" in str(error).lower():
        return MemoryPressure("The device ran out of memory during this generation.", retry_after_s=5)
    return GenerationFailed(f"The engine failed on this generation ({type(error).__name__}).")
