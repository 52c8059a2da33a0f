"""A prefix store with sequences in it, for tests of who gets its memory."""

from __future__ import annotations

import time

from inference.cache.blocks import Root
from inference.cache.keeper import StoreKeeper
from inference.cache.limits import CacheLimits
from inference.cache.prefix_cache import PrefixCache
from inference.cache.reuse import Lease
from inference.ports import ModelLimits
from tests.cache_driver import KV

ROOT = Root("scripted", "weights")
WEIGHTS, PER_TOKEN, BLOCK = 1_000, 10, 256
BLOCK_BYTES = BLOCK * 10
LIMITS = ModelLimits(65_536, 257, WEIGHTS, PER_TOKEN)


class Shelf:
    """A store with sequences in it, on whose behalf buffers are given back."""

    def __init__(self, sequences: int = 0, blocks: int = 1, **limits: float) -> None:
        self.cache = PrefixCache(CacheLimits(**{"budget_bytes": 1 << 30} | limits), time.monotonic)  # type: ignore[arg-type]
        self.given_back = 0
        self.keeper = StoreKeeper(self.cache, self.note)
        self.leases = [self.put(number, blocks) for number in range(sequences)]

    def note(self) -> None:
        self.given_back += 1

    def put(self, number: int, blocks: int = 1) -> Lease:
        """Stores a sequence of its own; its lease is still open."""
        ids = (number + 1000, *range(blocks * BLOCK - 1))
        lease = self.cache.hold(self.cache.lookup(ROOT, ids), f"put{number}")
        handles = [KV(ROOT, ids[: end * BLOCK], (end - 1) * BLOCK, True) for end in range(1, blocks + 1)]
        self.cache.commit(lease, ids, 0, handles)
        return lease

    def end(self) -> None:
        for lease in self.leases:
            self.cache.release(lease)

    @property
    def held(self) -> int:
        return self.cache.held_bytes
