"""What an audit found untrue leaves the store: in memory, on the disk, and with all that was computed from it.

Where it was stays known for a while, so that the next request which would have begun there says why it is not warm.
What that request computes takes the place.
"""

from __future__ import annotations

from inference.cache.eviction import Evicted
from inference.cache.node import Node
from inference.cache.reuse import Reuse
from inference.cache.store import Store
from inference.cache.verdict import VerdictName


def quarantine(store: Store, reuse: Reuse, from_tokens: int) -> list[Evicted]:
    """Removes the blocks of a lookup that hold tokens from a depth on, and its recurrent state; which blocks went.

    Siblings that hold parts of those blocks go too, and whatever stands behind, in memory or on the disk alone. An
    audit locks nothing: what it looked at may have left memory since, for the disk, and may be back from there.
    """
    stored = reuse.stored
    if store.disk is not None:
        untrue = [node for node in reuse.nodes if node.end > from_tokens]
        store.disk.quarantined(untrue, () if stored is None else (stored,))
    if stored is not None and stored in store.tree.snapshots:
        store.tree.drop_snapshot(stored)
    now = store.tree.match(reuse.query.root, reuse.query.packed, reuse.depth_tokens).blocks
    first = next((node for node in now if node.end > from_tokens), None)
    if first is None:
        return []
    return [gone for holder in store.tree.holders(first, 0) for gone in _without(store, holder)]


def _without(store: Store, node: Node) -> list[Evicted]:
    removed = store.tree.remove(node)
    if store.disk is not None:
        store.disk.distrusted(removed.nodes, removed.snapshots)
    gone = []
    for block, freed_bytes in zip(removed.nodes, removed.freed_bytes, strict=True):
        entry = Evicted(block.root.model, block.start, block.tokens, freed_bytes, VerdictName.QUARANTINED, "")
        store.attribution.record(block, entry)
        store.sessions.left(block)
        gone.append(entry)
    return gone
