"""The limits of a cache, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass, fields

from inference.cache.node import Admission
from inference.prefix_store import StoreLimits


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Bytes are device memory; each budget is obeyed exactly and apart from the others.

    `budget_bytes` holds the blocks of conversations, `side_budget_bytes` those of one-shots, `snapshot_budget_bytes`
    recurrent states. `ttl_s`: blocks unused for so long go. `idle_s`: what only a session holds goes when it had no
    request for so long. `max_sessions`, `max_entries_per_session`, `max_conversation_tokens`: above it the least
    recent go, and what is deeper is not stored. 0 is no limit for these five. A match of fewer than
    `min_reuse_tokens` is not reused. Raises `ValueError` for a negative limit.
    """

    budget_bytes: int
    snapshot_budget_bytes: int = 0
    side_budget_bytes: int = 0
    ttl_s: float = 0.0
    idle_s: float = 0.0
    max_sessions: int = 0
    max_entries_per_session: int = 0
    max_conversation_tokens: int = 0
    min_reuse_tokens: int = 1

    def __post_init__(self) -> None:
        for limit in fields(self):
            if getattr(self, limit.name) < 0:
                raise ValueError(f"{limit.name} must not be negative")

    def block_budget(self, admission: Admission) -> int:
        return self.budget_bytes if admission is Admission.MAIN else self.side_budget_bytes

    @property
    def shortest_life_s(self) -> float:
        """How soon anything stored now can be due; infinite without a limit of time."""
        return min((limit for limit in (self.ttl_s, self.idle_s) if limit), default=float("inf"))


def limits_of(wanted: StoreLimits, device_bytes: int) -> CacheLimits:
    """With what is not set decided: a third of the device for blocks, of which a quarter more for states and a
    sixteenth for one-shots."""
    blocks_bytes = device_bytes // 3 if wanted.memory_bytes is None else wanted.memory_bytes
    snapshots_bytes, side_bytes = wanted.snapshot_memory_bytes, wanted.side_memory_bytes
    return CacheLimits(
        budget_bytes=blocks_bytes,
        snapshot_budget_bytes=blocks_bytes // 4 if snapshots_bytes is None else snapshots_bytes,
        side_budget_bytes=blocks_bytes // 16 if side_bytes is None else side_bytes,
        ttl_s=wanted.ttl_s,
        idle_s=wanted.idle_s,
        max_sessions=wanted.max_sessions,
        max_entries_per_session=wanted.max_entries_per_session,
        max_conversation_tokens=wanted.max_conversation_tokens,
        min_reuse_tokens=wanted.min_reuse_tokens,
    )
