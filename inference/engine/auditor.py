"""The audits of one model: which comes next, how much they may work, and what becomes of one that is in the way.

They are paid for with idle moments and behind work only, for cases come from requests, and at most for a few minutes in
an hour: a laptop is to cool down.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from time import monotonic, perf_counter
from typing import Any, Final

from inference.cache.audit import AuditQueue
from inference.engine import memory
from inference.engine.audit_run import STEPS, AuditRun
from inference.engine.store import ModelStore
from inference.errors import EngineFatal
from inference.ports import Clock, ModelLimits
from inference.prefix_store import AuditResult

log = logging.getLogger(__name__)

HOUR_S: Final = 3600.0
WORK_S: Final = 180.0
"""Of an hour."""
TRIES: Final = 2
"""One that was given up once is tried again; another time it is left."""


class Allowance:
    """Seconds of work in an hour that begins with the first of them."""

    def __init__(self, clock: Clock, work_s: float = WORK_S) -> None:
        self._clock = clock
        self._work_s = work_s
        self._spent_s = 0.0
        self._until_s = 0.0

    def spend(self, work_s: float) -> None:
        now_s = self._clock()
        if now_s >= self._until_s:
            self._until_s, self._spent_s = now_s + HOUR_S, 0.0
        self._spent_s += work_s

    @property
    def is_spent(self) -> bool:
        return self._clock() < self._until_s and self._spent_s >= self._work_s


class Auditor:
    """Chooses one in `every` warm requests (0: none). `step` does a short piece of work; nothing else computes."""

    def __init__(
        self, model: Any, store: ModelStore, limits: ModelLimits, every: int, clock: Clock = monotonic
    ) -> None:
        self._model = model
        self._store = store
        self._limits = limits
        self._allowance = Allowance(clock)
        self._queue = store.audits = AuditQueue(every)
        self._run: AuditRun | None = None
        self._work: Generator[None, None, AuditResult | None] | None = None
        self._routed = _routes(model)

    @property
    def waits(self) -> bool:
        """Whether there is something to do, and time left for it."""
        return (self._work is not None or len(self._queue) > 0) and not self._allowance.is_spent

    def step(self, room_bytes: int | None) -> AuditResult | None:
        """At most 256 tokens of work; what has come of an audit when it ends with this step.

        One that needs more than `room_bytes` is not begun (None: there is no limit). Raises `EngineFatal`.
        """
        began_s = perf_counter()
        try:
            if self._work is None and not self._begin(room_bytes):
                return None
            assert self._work is not None
            next(self._work)
            return None
        except StopIteration as done:
            return self._ended(done.value)
        except Exception as error:
            self._failed(error)
            return None
        finally:
            self._allowance.spend(perf_counter() - began_s)
            if self._allowance.is_spent:  # nothing is held until the next hour
                self._close()

    def abandon(self) -> None:
        """Frees what an audit holds, for something else needs the device; it is kept for later once."""
        run = self._close()
        if run is not None and run.case.tries + 1 < TRIES:
            self._queue.put(run.case.again())

    def close(self) -> None:
        self._close()
        self._queue.clear()
        self._model = None

    def _begin(self, room_bytes: int | None) -> bool:
        case = self._queue.take()
        if case is None:
            return False
        run = AuditRun(self._model, self._store, case, self._limits.context_tokens, routed=self._routed)
        needed = self._limits.row_bytes(run.end + STEPS) + self._limits.workspace_bytes
        if room_bytes is not None and needed > room_bytes:
            log.info("an audit of %d tokens is left out, for there is no room for it", run.end)
            return False
        self._run, self._work = run, run.run()
        return True

    def _ended(self, result: AuditResult | None) -> AuditResult | None:
        run = self._close()
        if result is None:
            return None
        if result.diverged:
            log.warning(
                "model %s: a row of %d stored tokens differs from a cold one (log-probabilities by %.3g, stored values"
                " by %.3g of the largest); %d blocks from token %s on are dropped",
                result.model, result.depth_tokens, result.distance, result.kv_distance,
                result.quarantined_blocks, result.quarantined_from,
            )  # fmt: skip
        elif run is not None and run.rest is not None:
            self._queue.put(run.rest)
        return result

    def _failed(self, error: Exception) -> None:
        """The audit ends; nobody asked for it."""
        log.error("an audit failed: %s", type(error).__name__)
        self._close()
        if not memory.device_answers():
            raise EngineFatal(f"The device no longer answers after {type(error).__name__}.") from None

    def _close(self) -> AuditRun | None:
        run, work, self._run, self._work = self._run, self._work, None, None
        if work is not None:
            work.close()
        return run


def _routes(model: Any) -> bool:
    """Whether a model chooses experts for each token: mlx-lm's layers for that are known by their names."""
    return any("Switch" in type(module).__name__ for module in getattr(model, "modules", tuple)())
