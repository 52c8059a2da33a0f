"""What the cache counts, and the record that `GET /api/cache/stats` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from inference.cache.eviction import Evicted
from inference.cache.reuse import Reuse
from inference.cache.session_use import SessionUse
from inference.cache.verdict import VerdictName
from inference.cache.writer import Committed


@dataclass(slots=True)
class Counters:
    """Since the start of the process; they only grow. One request counts once, when it takes its lease.

    Three are 0 where all is well: `offset_mismatch` counts rows whose assembled KV was not as long as it should be
    (they began cold), `shared_kv_mutated` stored blocks that had changed (they were dropped), `warm_cold_divergence`
    those of the `audits` that found a row made of stored KV to differ from a cold one. `hybrid_trim_miss` is small.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    lost_tokens: int = 0
    hybrid_trim_miss: int = 0
    hybrid_trim_tokens: int = 0
    offset_mismatch: int = 0
    shared_kv_mutated: int = 0
    audits: int = 0
    warm_cold_divergence: int = 0
    quarantined_blocks: int = 0
    stored_tokens: int = 0
    shared_tokens: int = 0
    refused_tokens: int = 0
    stored_snapshots: int = 0
    refused_snapshots: int = 0
    discarded_blocks: int = 0
    eviction_batches: int = 0
    evicted_tokens: int = 0
    evicted_bytes: int = 0
    evicted_snapshots: int = 0
    verdicts: Counter[VerdictName] = field(default_factory=Counter)
    evicted_for: Counter[VerdictName] = field(default_factory=Counter)

    def took(self, reuse: Reuse) -> None:
        self.requests += 1
        self.prompt_tokens += reuse.prompt_tokens
        self.cached_tokens += reuse.depth_tokens
        self.lost_tokens += reuse.verdict.lost_tokens
        self.verdicts[reuse.verdict.name] += 1
        behind = reuse.kv_depth_tokens - reuse.depth_tokens
        if reuse.query.needs_snapshot and behind:
            self.hybrid_trim_miss += 1
            self.hybrid_trim_tokens += behind

    def committed(self, done: Committed) -> None:
        self.stored_tokens += done.stored_tokens
        self.shared_tokens += done.shared_tokens
        self.refused_tokens += done.refused_tokens
        self.stored_snapshots += done.stored_snapshots
        self.refused_snapshots += done.refused_snapshots
        self.lost(done.evicted)

    def audited(self, gone: tuple[Evicted, ...], *, diverged: bool) -> None:
        """One audit has ended; `gone` were quarantined."""
        self.audits += 1
        self.warm_cold_divergence += diverged
        self.quarantined_blocks += len(gone)
        self.lost(gone)

    def lost(self, batch: tuple[Evicted, ...]) -> None:
        """One batch of evictions."""
        self.eviction_batches += bool(batch)
        for evicted in batch:
            self.evicted_tokens += evicted.tokens
            self.evicted_bytes += evicted.nbytes
            self.evicted_snapshots += not evicted.tokens
            self.evicted_for[evicted.reason] += 1

    def as_dict(self) -> dict[str, int | dict[str, int]]:
        """For JSON; every name of the closed set of verdicts is there."""
        plain = asdict(self)
        plain["verdicts"] = {str(name): self.verdicts[name] for name in VerdictName}
        plain["evicted_for"] = {str(name): count for name, count in self.evicted_for.items()}
        return plain


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What one root (a model under its settings) holds."""

    model: str
    settings: str
    blocks: int
    tokens: int
    nbytes: int
    snapshots: int
    snapshot_bytes: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The cache at one moment. `block_bytes` are of conversations, `side_bytes` of one-shots; each has its budget."""

    block_bytes: int
    side_bytes: int
    snapshot_bytes: int
    budget_bytes: int
    side_budget_bytes: int
    snapshot_budget_bytes: int
    leases: int
    sessions: int
    models: tuple[ModelUse, ...]
    recent_evictions: tuple[Evicted, ...]
    counters: Mapping[str, int | dict[str, int]]
    by_session: tuple[SessionUse, ...] = ()
