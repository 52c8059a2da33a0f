"""Looks in idle moments whether stored KV is still what it was. Nothing ever writes a stored block; this is the proof.

One block is read at a time, by chance, so there is no list to keep: a leaf, and a block on the way to it. Beginnings
that many paths share, where a fault would harm most, are looked at most often.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import islice
from secrets import randbelow

from inference.cache.blocks import BlockHandle
from inference.cache.node import Node
from inference.cache.tree import PrefixTree

type Proof = Callable[[BlockHandle], Hashable]
"""A digest of a block's KV: equal for equal tokens, however they are laid out."""


def some_block(tree: PrefixTree) -> Node | None:
    """A stored block; None when there is none."""
    if not tree.leaves:
        return None
    leaf = next(islice(tree.leaves, randbelow(len(tree.leaves)), None))
    way = list(leaf.upwards())
    return way[randbelow(len(way))]


def mutated(node: Node, proof: Proof) -> bool:
    """Whether a block's KV is not what it was at the last look; the first look only notes what it is."""
    if node.handle is None:
        return False
    before, node.proof = node.proof, proof(node.handle)
    return before is not None and before != node.proof
