"""The engine's knobs, as plain values. No MLX in here, so that a command line can build them without loading it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from inference.prefix_store import StoreLimits

GRID_TOKENS = 256
"""Prefill is cut where the absolute position is a multiple of this: the same grid is what makes warm equal cold."""


@dataclass(frozen=True, slots=True)
class CacheSettings(StoreLimits):
    """How much of what was computed is kept, and how long, and how it is looked after.

    With `memory_bytes` 0 nothing is ever kept. `bitwise` reuses whole blocks made by prefill only, so that on a CPU
    every bit is that of a cold run. One in `audit_every` warm requests is computed once more from nothing when there is
    nothing else to do (0: none).
    """

    bitwise: bool = False
    audit_every: int = 64

    @property
    def enabled(self) -> bool:
        return self.memory_bytes != 0


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """Where what was computed outlives the process, and how much of it.

    `max_bytes` of files (None: a tenth of what the disk has free, at most 20 GiB); at most `day_bytes` are written in a
    day (0: no limit).
    """

    directory: Path
    max_bytes: int | None = None
    day_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What one engine may use.

    `prefill_step_tokens` bounds the prompt tokens of one step, a multiple of 256: larger prefills faster, smaller
    keeps the other streams' tokens closer together. `max_batch` rows decode at once. `memory_limit_bytes` is what the
    process may use of the device (None: nine tenths of what the device recommends). `buffer_pool_bytes` bounds freed
    buffers that MLX keeps for reuse (None: a sixteenth of the limit, at most 2 GiB). A model is refused as too large
    unless one row of `min_context_tokens` fits beside its weights. `cache` is how computed prefixes are kept, and
    `disk` where they are kept beyond the process (None: nowhere). `bitwise_of` says of a model that is being loaded
    whether its prefixes are reused as `cache.bitwise` means it (None: as that says).
    """

    prefill_step_tokens: int = 512
    max_batch: int = 8
    memory_limit_bytes: int | None = None
    buffer_pool_bytes: int | None = None
    min_context_tokens: int = 4096
    cache: CacheSettings = field(default_factory=CacheSettings)
    disk: DiskSettings | None = None
    bitwise_of: Callable[[str], bool | None] = lambda _model_id: None

    def __post_init__(self) -> None:
        if self.prefill_step_tokens < GRID_TOKENS or self.prefill_step_tokens % GRID_TOKENS:
            raise ValueError(f"prefill_step_tokens must be a positive multiple of {GRID_TOKENS}")
        if self.max_batch < 1:
            raise ValueError("max_batch must be at least 1")
        if self.min_context_tokens < 1:
            raise ValueError("min_context_tokens must be at least 1")
        for name in ("memory_limit_bytes", "buffer_pool_bytes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative")
