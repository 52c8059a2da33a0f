"""What the scheduler is doing, as one immutable record that any thread may read."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from inference.events import Failed, Finished
from inference.ports import DeviceMemory, ModelLimits
from inference.prefix_store import StoreTotals


class ModelState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    REBUILDING = "rebuilding"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model that is resident, on its way in, or was refused. `error` is set when `state` is FAILED."""

    id: str
    path: Path
    state: ModelState
    limits: ModelLimits | None = None
    rows: int = 0
    kv_bytes: int = 0
    last_used_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class RowView:
    """One answer of a running request. `done_tokens` of `prompt_tokens` are prefilled; times are ages in seconds."""

    id: str
    model_id: str
    prompt_tokens: int
    done_tokens: int
    completion_tokens: int
    max_tokens: int
    queue_s: float
    running_s: float
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the start. Each of `submitted` is still open or one of `finished`, `failed`, `cancelled`.

    `refused` were never submitted. `cancelled` counts at the call; the row goes within a step.
    """

    submitted: int = 0
    refused: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    malformed_tool_calls: int = 0
    model_loads: int = 0
    engine_rebuilds: int = 0


class Tally:
    """Counts from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters = Counters()

    def add(self, **more: int) -> None:
        with self._lock:
            now = self._counters
            self._counters = replace(now, **{name: getattr(now, name) + count for name, count in more.items()})

    def ended(self, final: Finished | Failed, cancelled: bool) -> None:
        """Counts the end of a generation."""
        if isinstance(final, Finished):
            usage = final.usage
            self.add(
                finished=1,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                malformed_tool_calls=final.malformed_calls,
            )
        elif cancelled:
            self.add(cancelled=1)
        else:
            self.add(failed=1)

    @property
    def counters(self) -> Counters:
        return self._counters


@dataclass(frozen=True, slots=True)
class SchedulerView:
    """`heartbeat_s` and `published_s` are readings of the scheduler's clock. `reserved_bytes` is the memory estimate.

    `store` is what prefixes hold of the memory, None where none are kept. `pressure`: the device holds more than its
    limit, and new requests are refused.
    """

    models: tuple[ModelView, ...] = ()
    rows: tuple[RowView, ...] = ()
    queue_depth: int = 0
    memory: DeviceMemory | None = None
    store: StoreTotals | None = None
    reserved_bytes: int = 0
    pressure: bool = False
    decode_tps: float = 0.0
    prefill_tps: float = 0.0
    counters: Counters = field(default_factory=Counters)
    heartbeat_s: float = 0.0
    published_s: float = 0.0
    alive: bool = True
    draining: bool = False

    @property
    def running(self) -> int:
        return len(self.rows)

    def model(self, model_id: str) -> ModelView | None:
        return next((model for model in self.models if model.id == model_id), None)

    @property
    def loading(self) -> bool:
        return any(model.state is ModelState.LOADING for model in self.models)

    @property
    def rebuilding(self) -> bool:
        return any(model.state is ModelState.REBUILDING for model in self.models)
