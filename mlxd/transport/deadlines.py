"""How far a connection has come, and whether it is late. Pure: the caller brings the time.

daphne and Twisted keep their own deadlines by `time.time()`, so a stepped clock cuts healthy connections or never cuts
dead ones. Here one sweep over all connections asks `overdue` with the monotonic time of the event loop; daphne's and
Twisted's timers are not started.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mlxd.transport.limits import TransportLimits


class Phase(enum.Enum):
    """What a connection is waiting for."""

    IDLE = enum.auto()  # the first byte of a request
    HEAD = enum.auto()  # the rest of the request head
    BODY = enum.auto()  # the rest of the request body
    RUNNING = enum.auto()  # the application's answer
    FLUSHING = enum.auto()  # the last bytes to leave, then close
    LINGERING = enum.auto()  # a refused client to stop sending, then close


class Overdue(enum.Enum):
    """Which deadline was missed."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    READER = enum.auto()
    LINGER = enum.auto()


@dataclass(slots=True)
class Progress:
    """The clockwork of one connection. Times in seconds of one monotonic clock, counts in bytes."""

    since_s: float
    phase: Phase = Phase.IDLE
    heard_s: float = 0.0
    flushed_s: float = 0.0
    body_bytes: int = 0
    flushed_bytes: int = 0
    buffered_bytes: int = 0
    requests: int = 0

    def __post_init__(self) -> None:
        self.heard_s = self.flushed_s = self.since_s

    def enter(self, phase: Phase, now_s: float) -> None:
        """Move to `phase`; its deadlines start now."""
        self.phase = phase
        self.since_s = self.heard_s = now_s
        if phase is Phase.BODY:
            self.body_bytes = 0
        elif phase is Phase.RUNNING:
            self.requests += 1

    def wrote(self, queued_bytes: int, buffered_bytes: int, now_s: float) -> None:
        """Note what was queued in all and what still waits in our buffer; the difference has reached the kernel."""
        flushed_bytes = queued_bytes - buffered_bytes
        if buffered_bytes == 0 or flushed_bytes > self.flushed_bytes:
            self.flushed_s = now_s
        self.flushed_bytes = flushed_bytes
        self.buffered_bytes = buffered_bytes


def overdue(progress: Progress, limits: TransportLimits, now_s: float) -> Overdue | None:
    """The deadline that `progress` has missed at `now_s`, if any."""
    age_s = now_s - progress.since_s
    if progress.phase is Phase.LINGERING:
        return Overdue.LINGER if age_s > limits.linger_s else None
    if progress.buffered_bytes and now_s - progress.flushed_s > limits.write_stall_s:
        return Overdue.READER
    match progress.phase:
        case Phase.IDLE:
            return Overdue.IDLE if age_s > _idle_limit_s(progress, limits) else None
        case Phase.HEAD:
            return Overdue.HEAD if age_s > limits.header_timeout_s else None
        case Phase.BODY:
            return Overdue.BODY if _body_is_late(progress, limits, now_s) else None
    return None


def _idle_limit_s(progress: Progress, limits: TransportLimits) -> float:
    return limits.keep_alive_idle_s if progress.requests else limits.header_timeout_s


def _body_is_late(progress: Progress, limits: TransportLimits, now_s: float) -> bool:
    age_s = now_s - progress.since_s
    if now_s - progress.heard_s > limits.body_idle_s or age_s > limits.body_total_s:
        return True
    return age_s > limits.body_rate_grace_s and progress.body_bytes < limits.body_min_bytes_per_s * age_s
