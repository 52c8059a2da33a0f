"""The disk's tier at one moment, for people who look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from inference.cache.disk import DiskStore
from inference.cache.disk_outage import DISK_GUARD, state_of
from inference.cache.disk_records import Flaw
from inference.prefix_store import DiskHealth

_NOT_AS_WRITTEN: Final = (Flaw.CORRUPT, Flaw.FOREIGN, "unreadable")
"""Files that are stale were what an earlier version wrote."""


@dataclass(frozen=True, slots=True)
class DiskStats:
    """The tier at one moment. `outage` is why nothing is written just now, "" when all is well.

    `written_today_bytes` of `day_bytes` (0: no limit). `queued_bytes` wait to be written; what did not fit into the
    queue is among `refused`. `scanning`: what an earlier process left is not known yet.
    """

    directory: str
    files: int
    nbytes: int
    limit_bytes: int
    written_today_bytes: int
    day_bytes: int
    outage: str
    scanning: bool
    queued_bytes: int
    waiting_jobs: int
    written_files: int
    written_bytes: int
    read_files: int
    read_bytes: int
    read_tokens: int
    shared_files: int
    read_back_ratio: float
    refused: Mapping[str, int]
    dropped: Mapping[str, int]


def stats_of(store: DiskStore, *, outage: str, scanning: bool, queued_bytes: int, waiting_jobs: int) -> DiskStats:
    counted = store.counters
    return DiskStats(
        directory=str(store.directory),
        files=len(store.index),
        nbytes=store.index.nbytes,
        limit_bytes=store.limit_bytes,
        written_today_bytes=store.budget.used_bytes,
        day_bytes=store.limits.day_bytes,
        outage=outage,
        scanning=scanning,
        queued_bytes=queued_bytes,
        waiting_jobs=waiting_jobs,
        written_files=counted.written_files,
        written_bytes=counted.written_bytes,
        read_files=counted.read_files,
        read_bytes=counted.read_bytes,
        read_tokens=counted.read_tokens,
        shared_files=counted.shared_files,
        read_back_ratio=round(counted.read_back_ratio, 4),
        refused=dict(counted.refused),
        dropped=dict(counted.dropped),
    )


def health_of(store: DiskStore, outage: str) -> DiskHealth:
    """A disk that the guard keeps from being filled is as good as full."""
    reason = outage or (DISK_GUARD if store.refusal == DISK_GUARD else "")
    counted = store.counters
    return DiskHealth(
        state=state_of(reason),
        reason=reason,
        files=len(store.index),
        nbytes=store.index.nbytes,
        limit_bytes=store.limit_bytes,
        written=counted.written_files,
        read=counted.read_files,
        refused=sum(counted.refused.values()),
        dropped=sum(counted.dropped.values()),
        corrupt=sum(counted.dropped[why] for why in _NOT_AS_WRITTEN),
    )
