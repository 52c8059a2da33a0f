"""Which models are loaded, and which must go to make room for one that is asked for. On the worker thread only.

A model leaves only when it has no rows. To let one in, the least recently used ones are chosen to leave: requests that
came after the one that waits are then held back, so that no stream of requests can keep a model in for ever. Those
that waited when a model came in are served before it leaves, so that two models do not push each other out unused.
Pinned models are never chosen. One that fails again and again is left alone until somebody orders it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from inference.errors import InferenceError, MemoryPressure, ModelError, ModelTooLarge
from inference.ports import Clock, ModelLimits, ModelLoader, ModelRef, ModelRunner
from inference.scheduler.pool import FAILURE_WINDOW_S, FAILURES, PoolRules, Receipt
from inference.scheduler.pulse import Pulse
from inference.scheduler.row import Row
from inference.scheduler.settings import SchedulerSettings
from inference.scheduler.view import ModelState, ModelView

log = logging.getLogger(__name__)

SLOW_DISK_BYTES_PER_S = 50e6
"""A model load may take as long as reading its files at this rate (a slow network disk)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model to bring in. Requests numbered above `number` came later and do not keep others in for it."""

    ref: ModelRef
    number: int
    future: Future[ModelLimits] | None = None


@dataclass(slots=True, eq=False)
class Resident:
    """A loaded model and its rows by job id. `loaded_number` is the last request that had come when it was loaded."""

    ref: ModelRef
    runner: ModelRunner
    limits: ModelLimits
    loaded_number: int
    last_used_s: float
    slowest_s: float
    rows: dict[str, Row] = field(default_factory=dict)
    stepped: bool = False

    def took(self, step_s: float) -> None:
        """Learns how long a step may take. The first is measured against the load: it reads what that left lazy."""
        self.slowest_s = max(self.slowest_s, step_s) if self.stepped else step_s
        self.stepped = True

    def view(self, state: ModelState = ModelState.READY) -> ModelView:
        return ModelView(
            id=self.ref.id,
            path=self.ref.path,
            state=state,
            limits=self.limits,
            rows=len(self.rows),
            kv_bytes=self.runner.kv_bytes,
            last_used_s=self.last_used_s,
        )


@dataclass(slots=True)
class Failure:
    """Why a model is not loaded, until when it is not tried again, and when it failed lately."""

    view: ModelView
    error: InferenceError
    until_s: float


class Residents:
    """The loaded models by id. `on_state` is called before a load begins, so that it can be shown.

    `rules` say who may stay; `draining` are those that leave once their rows have ended.
    """

    def __init__(
        self, loader: ModelLoader, settings: SchedulerSettings, clock: Clock, pulse: Pulse, on_state: Callable[[], None]
    ) -> None:
        self._loader = loader
        self._settings = settings
        self._clock = clock
        self._pulse = pulse
        self._on_state = on_state
        self.rules = PoolRules(settings.max_models)
        self.draining: Collection[str] = ()
        self._by_id: dict[str, Resident] = {}
        self._failures: dict[str, Failure] = {}
        self._failed_at_s: dict[str, deque[float]] = {}
        self._beside: dict[str, int] = {}  # how many may stay beside a model that did not fit
        self._coming: ModelView | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[Resident]:
        return list(self._by_id.values())

    def get(self, model_id: str) -> Resident | None:
        return self._by_id.get(model_id)

    def show(self) -> None:
        """To be called before an order is answered: whoever looks then must see what was done."""
        self._on_state()

    def failure(self, model_id: str) -> InferenceError | None:
        """Why this model was refused, while that was a short time ago; it is not tried again for each request."""
        failure = self._failures.get(model_id)
        if failure is None:
            return None
        if self._clock() >= failure.until_s:
            del self._failures[model_id]
            return None
        return failure.error

    def forgive(self, model_id: str) -> None:
        """Lets a model that failed be tried at once, however often it has failed."""
        self._failures.pop(model_id, None)
        self._failed_at_s.pop(model_id, None)

    def bar(self, ref: ModelRef, error: InferenceError) -> None:
        """Has a model wait for an order: no request loads it."""
        view = ModelView(ref.id, ref.path, ModelState.FAILED, error=error.message)
        self._failures[ref.id] = Failure(view, error, inf)

    def leaving(self, wanted: ModelRef) -> list[Resident]:
        """Who must go before this model can be loaded, least recently used first, idle ones before busy ones."""
        free = [resident for resident in self._by_id.values() if resident.ref.id not in self.rules.pinned]
        order = sorted(free, key=lambda resident: (bool(resident.rows), resident.last_used_s))
        return order[: self._too_many_for(wanted)]

    def blocked(self, wanted: ModelRef) -> bool:
        """Whether more would have to go for this model than may, because the others are pinned."""
        return self._too_many_for(wanted) > sum(model_id not in self.rules.pinned for model_id in self._by_id)

    def _too_many_for(self, wanted: ModelRef) -> int:
        beside = min(self.rules.max_models - 1, self._beside.get(wanted.id, len(self._by_id)))
        return max(0, len(self._by_id) - beside)

    def spare(self, keep: Collection[str]) -> Resident | None:
        """The least recently used model without rows that may go, not one of `keep`."""
        keep = {*keep, *self.rules.pinned}
        idle = [resident for resident in self._by_id.values() if not resident.rows and resident.ref.id not in keep]
        return min(idle, key=lambda resident: resident.last_used_s, default=None)

    def overstayed(self, keep: Collection[str]) -> list[Resident]:
        """Idle models that nobody has used for too long, or that are more than may stay; not those of `keep`."""
        now_s = self._clock()
        idle = [one for one in self._by_id.values() if not one.rows and one.ref.id not in keep]
        late = [one for one in idle if self.rules.expires(one.ref.id, now_s - one.last_used_s)]
        over = len(self._by_id) - len(late) - self.rules.max_models
        others = (one for one in idle if one not in late and one.ref.id not in self.rules.pinned)
        return late + sorted(others, key=lambda one: one.last_used_s)[: max(0, over)]

    def unload(self, resident: Resident) -> Receipt:
        """Frees a model that has no rows. A receipt that says the memory did not come back is an error in the log."""
        before = self._loader.memory()
        del self._by_id[resident.ref.id]
        self.close(resident)
        self._loader.release_unused()
        receipt = Receipt(resident.ref.id, resident.limits.weights_bytes, before, self._loader.memory())
        if receipt.returned:
            log.info("model unloaded: %s", resident.ref.id)
        else:
            freed, held = receipt.freed_bytes, receipt.weights_bytes
            log.error("model %s was unloaded and %d of %d bytes came back", resident.ref.id, freed, held)
        return receipt

    def close(self, resident: Resident) -> None:
        """Closes a runner whatever state it is in."""
        try:
            resident.runner.close()
        except Exception as error:
            log.error("closing model %s failed: %s", resident.ref.id, type(error).__name__)

    def load(self, ref: ModelRef, number: int, state: ModelState = ModelState.LOADING) -> Resident | None:
        """Loads a model. None: it did not fit beside the others, and `leaving` now names more of them.

        Raises `ModelError` or `MemoryPressure`, and remembers it for a while.
        """
        self._coming = ModelView(ref.id, ref.path, state)
        self._on_state()
        began_s = self._pulse.awake_s
        self._pulse.begin(f"load {ref.id}", self._load_allowance_s(ref.path))
        try:
            runner = self._loader.load(ref)
        except Exception as error:
            self._not_loaded(ref, error)
            return None
        finally:
            self._coming = None
            self._pulse.beat()
        self.forgive(ref.id)
        self._beside.pop(ref.id, None)
        took_s = self._pulse.awake_s - began_s
        resident = Resident(ref, runner, runner.limits, number, self._clock(), took_s)
        self._by_id[ref.id] = resident
        log.info("model loaded: %s", ref.id)
        return resident

    def reload(self, resident: Resident, number: int) -> None:
        """Closes an engine whose state is unsafe and builds it anew. Raises as `load`."""
        del self._by_id[resident.ref.id]
        self.close(resident)
        self._loader.release_unused()
        self.load(resident.ref, number, ModelState.REBUILDING)

    def _not_loaded(self, ref: ModelRef, error: Exception) -> None:
        if isinstance(error, ModelTooLarge | MemoryPressure) and self._by_id:
            self.crowded(ref)
            return
        self._beside.pop(ref.id, None)
        log.error("loading model %s failed: %s", ref.id, type(error).__name__)
        known = self._again_and_again(ref, _told(error))
        view = ModelView(ref.id, ref.path, ModelState.FAILED, error=known.message)
        often = len(self._failed_at_s[ref.id]) >= FAILURES
        until_s = inf if often else self._clock() + self._settings.load_retry_s
        self._failures[ref.id] = Failure(view, known, until_s)
        raise known from error

    def _again_and_again(self, ref: ModelRef, error: InferenceError) -> InferenceError:
        """Counts a failure; the error says so where it was one too many."""
        now_s = self._clock()
        failed = self._failed_at_s.setdefault(ref.id, deque(maxlen=FAILURES))
        failed.append(now_s)
        while failed[0] < now_s - FAILURE_WINDOW_S:
            failed.popleft()
        if len(failed) < FAILURES:
            return error
        log.error("model %s is not tried again before it is ordered: %d failures", ref.id, FAILURES)
        last = f"{error.message} It failed {FAILURES} times within {FAILURE_WINDOW_S / 60:g} minutes and is not loaded"
        kind = type(error) if isinstance(error, ModelError) else ModelError
        return kind(f"{last} again before an admin orders it.")

    def crowded(self, ref: ModelRef) -> None:
        """Learns that a model needs one more of the others to leave."""
        self._beside[ref.id] = max(0, len(self._by_id) - 1)

    def _load_allowance_s(self, path: Path) -> float:
        return max(self._settings.load_floor_s, self._settings.watchdog_s, weights_bytes(path) / SLOW_DISK_BYTES_PER_S)

    def views(self) -> tuple[ModelView, ...]:
        coming = (self._coming,) if self._coming else ()
        failed = (one.view for one in self._failures.values() if self._clock() < one.until_s)
        return (*(resident.view(self._state(resident)) for resident in self._by_id.values()), *coming, *failed)

    def _state(self, resident: Resident) -> ModelState:
        return ModelState.DRAINING if resident.ref.id in self.draining else ModelState.READY


def _told(error: Exception) -> InferenceError:
    """What clients may hear of a load that failed."""
    if isinstance(error, ModelError | MemoryPressure):
        return error
    return ModelError("The model could not be loaded.")


def weights_bytes(path: Path) -> int:
    """Size of a model's weight files, 0 where there are none."""
    try:
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    except OSError:
        return 0
