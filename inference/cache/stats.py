"""Reads a store into the record that `GET /api/cache/stats` shows."""

from __future__ import annotations

from inference.cache.counters import CacheStats, Counters, ModelUse
from inference.cache.node import Admission, Node
from inference.cache.session_use import session_uses
from inference.cache.store import Store


def stats_of(store: Store, counters: Counters, leases: int) -> CacheStats:
    tree, limits = store.tree, store.limits
    return CacheStats(
        block_bytes=tree.block_bytes[Admission.MAIN],
        side_bytes=tree.block_bytes[Admission.ONE_SHOT],
        snapshot_bytes=tree.snapshot_bytes,
        budget_bytes=limits.budget_bytes,
        side_budget_bytes=limits.side_budget_bytes,
        snapshot_budget_bytes=limits.snapshot_budget_bytes,
        leases=leases,
        sessions=len(store.sessions),
        models=tuple(_use(root) for root in tree.roots.values()),
        recent_evictions=tuple(store.attribution.recent),
        counters=counters.as_dict(),
        by_session=session_uses(store.sessions),
    )


def _use(root: Node) -> ModelUse:
    nodes = [root]
    for node in nodes:
        nodes.extend(node.children)
    held = [snapshot for node in nodes for snapshot in node.snapshots.values()]
    parts = {part for node in nodes if node.handle is not None for part in node.handle.parts}
    return ModelUse(
        model=root.root.model,
        settings=root.root.settings,
        blocks=len(nodes) - 1,
        tokens=sum(part.tokens for part in parts),
        nbytes=sum(part.nbytes for part in parts),
        snapshots=len(held),
        snapshot_bytes=sum(snapshot.nbytes for snapshot in held),
    )
