"""Puts what was read from the disk into the tree, as a request's commit would."""

from __future__ import annotations

from itertools import groupby
from typing import cast

from inference.cache.blocks import BLOCK_TOKENS, BlockHandle, SnapshotHandle, unpack
from inference.cache.disk_fetch import Fetched
from inference.cache.disk_records import BlockLabel
from inference.cache.disk_tier import DiskTier
from inference.cache.eviction import Evicted
from inference.cache.lookup import find
from inference.cache.node import Admission
from inference.cache.reuse import Lease, Query
from inference.cache.store import Store
from inference.cache.verdict import VerdictName
from inference.cache.writer import Writer


def take_in(store: Store, disk: DiskTier, now_s: float) -> list[Evicted]:
    """Puts what has come for any job into the store, and writes down what was broken; what went for it."""
    evicted: list[Evicted] = []
    for query, fetched in disk.arrived():
        evicted += restore(store, query, fetched, now_s)
        if (flawed := fetched.flawed) is not None:
            gone = Evicted(query.root.model, flawed.start, BLOCK_TOKENS, 0, VerdictName.DISK_CORRUPT, "")
            store.attribution.missing(flawed.parent, flawed.ids, flawed.own, gone)
    return evicted


def restore(store: Store, query: Query, fetched: Fetched, now_s: float) -> tuple[Evicted, ...]:
    """What went for it. What does not join what is in memory now, or finds no room, is let go again.

    Memory may have lost since what it held when the disk was asked.
    """
    match = store.tree.match(query.root, query.packed, query.limit)
    tip = match.path[-1] if match.path else store.tree.root(query.root)
    lease = Lease(fetched.job, Admission.MAIN, find(store, query), tip)
    if fetched.blocks and not _joins(lease, fetched.blocks[0].label):
        return ()
    tip.locks += 1
    try:
        return _written(store, lease, query, fetched, now_s)
    finally:
        lease.tip.locks -= 1
        for node in lease.written:
            node.from_disk = True
        for state in lease.kept:
            state.from_disk = True


def _written(store: Store, lease: Lease, query: Query, fetched: Fetched, now_s: float) -> tuple[Evicted, ...]:
    evicted: list[Evicted] = []
    ids = unpack(query.packed)
    if fetched.blocks:
        last = fetched.blocks[-1].label
        ids = (*ids[: last.start], *unpack(last.ids))
    for exact, run in groupby(fetched.blocks, key=lambda stored: stored.label.exact):
        stored = list(run)
        writer = Writer(store, lease, now_s, exact=exact)
        writer.blocks(ids, stored[0].label.start, [cast(BlockHandle, one.handle) for one in stored])
        evicted += writer.result().evicted
    if fetched.state is not None and not lease.refused and _stands(lease, fetched.state.label):
        writer = Writer(store, lease, now_s, exact=fetched.state.label.exact)
        writer.snapshot(ids, cast(SnapshotHandle, fetched.state.handle))
        evicted += writer.result().evicted
    return tuple(evicted)


def _joins(lease: Lease, label: BlockLabel) -> bool:
    """Whether the path has the block behind which this stands."""
    before = lease.at(label.start)
    return before.end == label.start and before.digest == label.parent


def _stands(lease: Lease, state: BlockLabel) -> bool:
    """Whether there are blocks for all tokens before a recurrent state."""
    return _joins(lease, state) and lease.at(state.start).covers(state.ids)
