"""The prefix cache: lookup, hold, commit, release, under budgets in bytes. One thread uses it.

Theory. `lookup` reads and changes nothing, so it also serves a dry run. `hold` locks the path that a request resumes
from and counts it; what the request then commits joins its path and is locked with it. Whatever makes room takes
leaves without locks, so it can never take what a running request stands on. `discard` and `clear` are orders, not
evictions: they take locked blocks too; handles already given out stay valid, and later commits behind a block that is
gone are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from inference.cache.blocks import BLOCK_TOKENS, BlockHandle, Root, SnapshotHandle, pack
from inference.cache.counters import CacheStats, Counters
from inference.cache.disk_tier import DiskTier
from inference.cache.eviction import Evicted
from inference.cache.integrity import violations
from inference.cache.limits import CacheLimits
from inference.cache.lookup import find, foresee
from inference.cache.node import Admission
from inference.cache.parting import follows
from inference.cache.proofs import Proof, mutated, some_block
from inference.cache.restore import take_in
from inference.cache.reuse import Foreseen, Lease, Query, Reuse, ReuseMode
from inference.cache.stats import stats_of
from inference.cache.store import Store
from inference.cache.tree import touch
from inference.cache.verdict import VerdictName
from inference.cache.writer import Committed, Writer, check_shape
from inference.ports import Clock
from inference.tokens import TokenIds

_AGAIN_S = 1.0
"""How soon to look again at something that is due but locked."""


class PrefixCache:
    """All models' reusable KV. On a `disk` it outlives the process."""

    def __init__(self, limits: CacheLimits, clock: Clock, disk: DiskTier | None = None) -> None:
        self.counters = Counters()
        self.disk = disk
        self._store = Store(limits, disk)
        self._clock = clock
        self._leases = 0
        self._due_s = clock() + limits.shortest_life_s

    # --- a request's way ----------------------------------------------------------------------------------------

    def lookup(
        self,
        root: Root,
        ids: TokenIds,
        *,
        needs_snapshot: bool = False,
        mode: ReuseMode = ReuseMode.TOKEN,
        session: str = "",
    ) -> Reuse:
        """How much of a prompt need not be computed, and why not more. At most all ids but the last match."""
        return find(self._store, Query(root, pack(ids), max(0, len(ids) - 1), needs_snapshot, mode, session))

    def behind(self, reuse: Reuse, count: int) -> TokenIds:
        """Up to `count` ids that are stored behind what a lookup matched: the way used last."""
        query = reuse.query
        return self._store.tree.match(query.root, query.packed, query.limit).behind(count)

    def hold(
        self, reuse: Reuse, request_id: str, admission: Admission = Admission.MAIN, *, counted: bool = True
    ) -> Lease:
        """Locks what a lookup found, or what is there now if the store has changed since: see `Lease.reuse`.

        `counted` False is for further answers to a request that has counted already.
        """
        tree, now_s = self._store.tree, self._clock()
        if reuse.version != tree.version:
            reuse = find(self._store, reuse.query)
        tip = reuse.nodes[-1] if reuse.nodes else tree.root(reuse.query.root)
        tip.locks += 1
        for node in tip.upwards():
            node.hits += 1
        touch(tip, now_s)
        if reuse.stored is not None:
            reuse.stored.locks += 1
            reuse.stored.hits += 1
            reuse.stored.last_used_s = now_s
        self._store.sessions.seen(reuse.query.session, reuse.query.root, now_s)
        if self.disk is not None:
            self.disk.recollections.drop(reuse.query)
        if counted:
            self.counters.took(reuse)
        self._leases += 1
        return Lease(request_id, admission, reuse, tip)

    def commit(
        self,
        lease: Lease,
        ids: TokenIds,
        start_block: int,
        handles: Sequence[BlockHandle],
        snapshots: Sequence[SnapshotHandle] = (),
        *,
        exact: bool = False,
    ) -> Committed:
        """Stores what a row has computed: `handles[i]` is grid block `start_block` + i of `ids`, its sequence so far.

        Only the last may hold fewer than 256 tokens. `snapshots` lie within what is committed. `exact`: every token of
        the row up to here was computed by prefill on the grid, or resumed from exact blocks at a grid line. Raises
        `ValueError` for blocks that do not join the leased path or do not fit its ids.
        """
        if not lease.is_open:
            raise ValueError("the lease has ended")
        start = start_block * BLOCK_TOKENS
        check_shape(ids, start, handles)
        writer = Writer(self._store, lease, self._clock(), exact=exact)
        writer.blocks(ids, start, handles)
        for snapshot in snapshots:
            writer.snapshot(ids, snapshot)
        committed = writer.result()
        self.counters.committed(committed)
        if self.disk is not None:
            self.disk.committed(lease)
        return committed

    def release(self, lease: Lease) -> tuple[Evicted, ...]:
        """Ends a lease; what it committed stays. What the limits per session remove is returned. Idempotent."""
        if not self._end(lease):
            return ()
        if self.disk is not None:
            self.disk.released(lease)
        evicted: list[Evicted] = []
        store, query, now_s = self._store, lease.reuse.query, self._clock()
        session, one_shot = query.session, lease.admission is Admission.ONE_SHOT
        store.sessions.seen(session, query.root, now_s)
        if lease.tip.attached:
            touch(lease.tip, now_s)
            store.sessions.ended(session, lease.tip, one_shot=one_shot)
        if self.disk is not None:
            self.disk.ended(store.sessions.get(session))
        for entry in store.sessions.over(session, store.limits.max_entries_per_session):
            evicted += store.trim(entry, VerdictName.EVICTED, lease.request_id)
        for name in store.sessions.beyond(store.limits.max_sessions):
            evicted += store.forget_session(name, VerdictName.EVICTED, lease.request_id)
        return self._counted(evicted + store.shrink(now_s))

    def discard(self, lease: Lease) -> None:
        """Ends a lease whose KV cannot be trusted: every block and snapshot it stored goes, and all behind them.

        So do blocks of others that hold parts of those.
        """
        if not self._end(lease):
            return
        if self.disk is not None:
            self.disk.distrusted(lease.written, lease.kept)
        for snapshot in lease.kept:
            if snapshot in self._store.tree.snapshots:
                self._store.tree.drop_snapshot(snapshot)
        for node, start in lease.written.items():
            for holder in self._store.tree.holders(node, start):
                self.counters.discarded_blocks += self._store.discard(holder)

    def _end(self, lease: Lease) -> bool:
        if not lease.is_open:
            return False
        lease.is_open = False
        lease.tip.locks -= 1
        if lease.reuse.stored is not None:
            lease.reuse.stored.locks -= 1
        self._leases -= 1
        return True

    # --- the disk -----------------------------------------------------------------------------------------------

    def read_ahead(self, reuse: Reuse, job: str) -> bool:
        """Whether a job should wait, for what a lookup missed may be on the disk: until `is_reading` says no."""
        if self.disk is None:
            return False
        self._counted(take_in(self._store, self.disk, self._clock()))  # perhaps just that, read for somebody else
        query, store = reuse.query, self._store
        if reuse.version != store.tree.version:
            reuse = find(store, query)
        match = store.tree.match(query.root, query.packed, query.limit)
        goes_on = match.at_end and follows(store.sessions.get(query.session), match)
        return self.disk.ask(job, query, match, reuse.depth_tokens, store.room_bytes, recalls=not goes_on)

    def foreseen(self, reuse: Reuse) -> Foreseen:
        """What a request will begin with once the disk has read for it, as far as names of files tell."""
        return foresee(self._store, reuse)

    def is_reading(self, job: str) -> bool:
        """Whether the disk still reads for a job. What has come for any is in the store then."""
        if self.disk is None:
            return False
        self._counted(take_in(self._store, self.disk, self._clock()))
        return self.disk.is_reading(job)

    def close(self, timeout_s: float) -> bool:
        """Writes what only memory holds; whether it was all. The cache stays as it is, without a disk."""
        disk, self.disk, self._store.disk = self.disk, None, None
        return disk is None or disk.close(self._store.tree, timeout_s)

    # --- upkeep -------------------------------------------------------------------------------------------------

    def sweep(self) -> tuple[Evicted, ...]:
        """Removes what is older than the limits allow. Costs nothing while nothing is due."""
        now_s, store = self._clock(), self._store
        if self.disk is not None:
            self.disk.catch_up()
        if now_s < self._due_s:
            return ()
        evicted: list[Evicted] = []
        if store.limits.idle_s:
            for name in store.sessions.idle_since(now_s - store.limits.idle_s):
                evicted += store.forget_session(name, VerdictName.EXPIRED)
        if store.limits.ttl_s:
            evicted += store.expire(now_s - store.limits.ttl_s)
        store.tree.prune_roots()
        self._due_s = max(store.next_due_s(now_s), now_s + _AGAIN_S)
        return self._counted(evicted)

    def prove(self, proof: Proof) -> int:
        """Looks at one stored block; if its KV has changed, it goes with all behind it. How many blocks went.

        So do its siblings that hold some of it too.
        """
        node = some_block(self._store.tree)
        if node is None or not mutated(node, proof):
            return 0
        gone = sum(self._store.discard(holder) for holder in self._store.tree.holders(node, 0))
        self.counters.shared_kv_mutated += 1
        self.counters.discarded_blocks += gone
        return gone

    def free(self, nbytes: int, by: str, *, keep: Reuse | None = None, locked: bool = False) -> tuple[Evicted, ...]:
        """Gives up to `nbytes` back to whoever needs the memory more: one-shots first, what `keep` found never.

        The paths of running rows go only when `locked` says so, last; such a row stores nothing any more.
        """
        kept = keep.nodes[-1] if keep is not None and keep.nodes and keep.nodes[-1].attached else None
        if kept is not None:
            kept.locks += 1
        evicted = self._store.free(nbytes, self._clock(), by, locked=locked and kept is None)
        if kept is not None:
            kept.locks -= 1
        return self._counted(evicted)

    @property
    def held_bytes(self) -> int:
        """Device memory of all that is stored."""
        return self._store.held_bytes

    @property
    def books(self) -> Store:
        return self._store

    @property
    def ceiling_bytes(self) -> int | None:
        return self._store.ceiling_bytes

    def keep_within(self, ceiling_bytes: int | None) -> None:
        """From now on nothing is stored above this, whatever the budgets say; what is there already stays."""
        self._store.ceiling_bytes = ceiling_bytes

    def limit(self, limits: CacheLimits) -> tuple[Evicted, ...]:
        """Other limits from now on. What is above them goes, but for what rows stand on: that goes when they end."""
        now_s, self._store.limits = self._clock(), limits
        self._due_s = now_s
        return self._counted(self._store.shrink(now_s))

    def clear(
        self,
        root: Root | None = None,
        *,
        model: str = "",
        session: str = "",
        reason: VerdictName = VerdictName.CLEARED,
    ) -> tuple[Evicted, ...]:
        """Removes what only a session holds, or all of one root or model, or everything. Later misses say `reason`."""
        if session:
            return self._counted(self._store.forget_session(session, reason))
        if self.disk is not None:
            self.disk.clear(None if root is None else root.key, model=model)
        tree = self._store.tree
        keys = list(tree.roots) if root is None else [root.key]
        nodes = [tree.roots[key] for key in keys if key in tree.roots]
        nodes = [node for node in nodes if not model or node.root.model == model]
        return self._counted([gone for node in nodes for gone in self._store.take_out(tree.remove(node), reason, "")])

    def stats(self) -> CacheStats:
        return stats_of(self._store, self.counters, self._leases)

    def check_integrity(self) -> list[str]:
        """Broken laws of the tree in words; empty when all is well. Reads every block: for tests and idle moments."""
        return violations(self._store.tree)

    def _counted(self, evicted: list[Evicted]) -> tuple[Evicted, ...]:
        batch = tuple(evicted)
        self.counters.lost(batch)
        return batch
