"""The rules of the pool of models, what an unload gave back, and what is told to those an admin's order ends.

A model leaves memory by an order, for another's sake, or because nobody used it. Only an order with `NOW` does so while
a request needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from inference.errors import EngineError, InferenceError, ModelError
from inference.ports import DeviceMemory

FAILURES = 3
FAILURE_WINDOW_S = 600.0
"""A model that failed `FAILURES` times within this is not loaded for a request any more, only by an order."""
TOLERANCE = 0.02
SLACK_BYTES = 1 << 20
"""Memory counts as given back when at most this share of the weights, and these bytes, are still held."""


class ModelInUse(InferenceError):
    """An unload would end requests, and was not told to."""

    code = "model_in_use"

    def __init__(self, model_id: str, running: int, waiting: int) -> None:
        super().__init__(f"The model {model_id} is in use: {running} answers run and {waiting} requests wait for it.")
        self.running = running
        self.waiting = waiting


class HeldBack(ModelError):
    """A model that nobody but an admin may have loaded. The same request will be refused again."""

    code = "model_held_back"


class Ended(EngineError):
    """A request was ended by an admin's order. The same request must not come back by itself."""

    code = "ended_by_admin"


class MemoryNotReturned(EngineError):
    """A model was unloaded and its memory is still held. `receipt` has the figures."""

    code = "memory_not_returned"

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(
            f"The model {receipt.model_id} was unloaded, and of its {receipt.weights_bytes} bytes of weights only"
            f" {receipt.freed_bytes} came back."
        )
        self.receipt = receipt


class Leave(Enum):
    """How an unload treats requests of the model."""

    DRAINED = auto()
    """Rows that run end first; a request that waits brings the model back."""
    UNUSED = auto()
    """Nothing happens while anybody needs it."""
    NOW = auto()
    """Rows and waiting requests are ended."""


@dataclass(frozen=True, slots=True)
class PoolRules:
    """What may stay in memory.

    At most `max_models`; those that are `pinned` leave only by an order; others go when idle for `ttl_s`, or for their
    own time in `ttl_of` (0: never).
    """

    max_models: int
    ttl_s: float = 0.0
    pinned: frozenset[str] = frozenset()
    ttl_of: Mapping[str, float] = field(default_factory=dict)

    def expires(self, model_id: str, idle_s: float) -> bool:
        """Whether a model has been idle for too long."""
        ttl_s = self.ttl_of.get(model_id, self.ttl_s)
        return 0 < ttl_s <= idle_s and model_id not in self.pinned


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an unload gave back: the device's memory right before and after, nothing else having run in between."""

    model_id: str
    weights_bytes: int
    before: DeviceMemory
    after: DeviceMemory

    @property
    def freed_bytes(self) -> int:
        return self.before.active_bytes - self.after.active_bytes

    @property
    def returned(self) -> bool:
        """Whether the weights are gone."""
        return self.weights_bytes - self.freed_bytes <= TOLERANCE * self.weights_bytes + SLACK_BYTES
