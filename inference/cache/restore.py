"""Puts what was read from the disk into the tree, as a request's commit would."""

from __future__ import annotations

from itertools import groupby
from typing import cast

from inference.cache.blocks import BlockHandle, SnapshotHandle, unpack
from inference.cache.disk_fetch import Fetched
from inference.cache.eviction import Evicted
from inference.cache.lookup import find
from inference.cache.node import Admission
from inference.cache.reuse import Lease, Query
from inference.cache.store import Store
from inference.cache.writer import Writer


def restore(store: Store, query: Query, fetched: Fetched, now_s: float) -> tuple[Evicted, ...]:
    """What went for it. Blocks that do not join what is in memory now, or find no room, are let go again."""
    match = store.tree.match(query.root, query.packed, query.limit)
    tip = match.path[-1] if match.path else store.tree.root(query.root)
    lease = Lease(fetched.job, Admission.MAIN, find(store, query), tip)
    if fetched.blocks and lease.at(fetched.blocks[0].label.start).end != fetched.blocks[0].label.start:
        return ()
    tip.locks += 1
    try:
        return _written(store, lease, query, fetched, now_s)
    finally:
        lease.tip.locks -= 1


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
    if fetched.state is not None and not lease.refused:
        writer = Writer(store, lease, now_s, exact=fetched.state.label.exact)
        writer.snapshot(ids, cast(SnapshotHandle, fetched.state.handle))
        evicted += writer.result().evicted
    return tuple(evicted)
