"""The prefix cache as those see it who run no rows: memory given back, age, orders and figures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from inference.cache.eviction import Evicted
from inference.cache.limits import limits_of
from inference.cache.node import Admission
from inference.cache.pins import Pins
from inference.cache.prefix_cache import PrefixCache
from inference.cache.proofs import Proof
from inference.cache.saved import SavedOnDisk
from inference.prefix_store import (
    DiskHealth,
    DiskState,
    Pinned,
    SavedConversations,
    StoreLimits,
    StoreRemoval,
    StoreTotals,
)

log = logging.getLogger(__name__)

CLOSE_S = 4.0
"""For the last writes: launchd kills 20 s after it asked, of which answers may take 15."""


class StoreKeeper:
    """Implements `PrefixStore`. `give_back` returns freed buffers to the device, once for a batch of evictions; `proof`
    is a digest of a block's KV. Limits that are not set are parts of `device_bytes`."""

    def __init__(
        self, cache: PrefixCache, give_back: Callable[[], None], proof: Proof | None = None, device_bytes: int = 0
    ) -> None:
        self._cache = cache
        self._give_back = give_back
        self._proof = proof
        self._device_bytes = device_bytes
        self._pins = Pins(cache.books)

    @property
    def held_bytes(self) -> int:
        return self._cache.held_bytes

    def keep_within(self, ceiling_bytes: int | None) -> None:
        self._cache.keep_within(ceiling_bytes)

    def free(self, nbytes: int, by: str, *, locked: bool = False) -> int:
        return self._gone(self._cache.free(nbytes, by, locked=locked)).nbytes

    def sweep(self) -> None:
        self._gone(self._cache.sweep())

    def prove(self) -> None:
        if self._proof is not None and (gone := self._cache.prove(self._proof)):
            log.error("stored KV had changed: %d blocks are dropped", gone)
            self._give_back()

    def limit(self, limits: StoreLimits) -> StoreRemoval:
        return self._gone(self._cache.limit(limits_of(limits, self._device_bytes)))

    def limit_disk(self, max_bytes: int | None, day_bytes: int) -> Future[None] | None:
        disk = self._cache.disk
        return None if disk is None else disk.limit(max_bytes, day_bytes, self._cache.books.limits.ttl_s)

    @property
    def saved(self) -> SavedConversations | None:
        disk = self._cache.disk
        return None if disk is None else SavedOnDisk(self._cache, disk.thread)

    def pin(self, session: str) -> Pinned | None:
        return self._pins.pin(session)

    def clear(self, *, model: str = "", session: str = "") -> StoreRemoval:
        self._pins.unpin(session)
        return self._gone(self._cache.clear(model=model, session=session))

    def close(self) -> None:
        if not self._cache.close(CLOSE_S):
            log.warning("the disk was not given all that memory held")

    def kept(self, jobs: Collection[str]) -> Future[None] | None:
        disk = self._cache.disk
        return None if disk is None else disk.kept(jobs)

    def stats(self) -> Mapping[str, Any]:
        disk = self._cache.disk
        told = {"disk": None if disk is None else disk.stats(), "pinned": [asdict(pin) for pin in self._pins.told()]}
        return asdict(self._cache.stats()) | told

    def totals(self) -> StoreTotals:
        cache, counted, disk = self._cache, self._cache.counters, self._cache.disk
        tree = cache.books.tree
        return StoreTotals(
            held_bytes=cache.held_bytes,
            block_bytes=tree.block_bytes[Admission.MAIN],
            side_bytes=tree.block_bytes[Admission.ONE_SHOT],
            snapshot_bytes=tree.snapshot_bytes,
            budget_bytes=cache.books.limits.budget_bytes,
            ceiling_bytes=cache.ceiling_bytes,
            requests=counted.requests,
            prompt_tokens=counted.prompt_tokens,
            cached_tokens=counted.cached_tokens,
            lost_tokens=counted.lost_tokens,
            hit_ratio=counted.cached_tokens / counted.prompt_tokens if counted.prompt_tokens else 0.0,
            evictions=counted.eviction_batches,
            evicted_tokens=counted.evicted_tokens,
            evicted_bytes=counted.evicted_bytes,
            hybrid_trim_tokens=counted.hybrid_trim_tokens,
            offset_mismatch=counted.offset_mismatch,
            shared_kv_mutated=counted.shared_kv_mutated,
            disk=DiskHealth(DiskState.OFF) if disk is None else disk.health(),
            audits=counted.audits,
            warm_cold_divergence=counted.warm_cold_divergence,
            quarantined_blocks=counted.quarantined_blocks,
        )

    def _gone(self, evicted: tuple[Evicted, ...]) -> StoreRemoval:
        self._pins.prune()
        if evicted:
            self._give_back()
        blocks = [gone for gone in evicted if gone.tokens]
        return StoreRemoval(
            blocks=len(blocks),
            tokens=sum(gone.tokens for gone in blocks),
            snapshots=len(evicted) - len(blocks),
            nbytes=sum(gone.nbytes for gone in evicted),
        )
