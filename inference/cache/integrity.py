"""Checks a prefix tree against its own laws, from nothing but the nodes. For tests, `doctor` and idle moments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from inference.cache.blocks import ID_BYTES, chain_hash, token_count
from inference.cache.node import Admission, Node
from inference.cache.tree import PrefixTree


def violations(tree: PrefixTree) -> list[str]:
    """Every broken law in words; empty when the tree is whole."""
    nodes = [node for root in tree.roots.values() for node in _below(root)]
    found = [f"{fault} at {node.end}" for node in nodes for fault in _faults(node)]
    found += [
        f"root {node.root.model} stands under a foreign key" for key, node in tree.roots.items() if key != node.root.key
    ]
    return found + list(_tallies(tree, nodes))


def _below(node: Node) -> Iterator[Node]:
    waiting = [node]
    while waiting:
        yield (node := waiting.pop())
        waiting.extend(node.children)


def _faults(node: Node) -> Iterator[str]:
    if not node.attached or node.locks < 0:
        yield "a node in the tree is marked as gone or has negative locks"
    siblings = sorted(child.ids for child in node.children)
    if any(later.startswith(earlier) for earlier, later in pairwise(siblings)):
        yield "a block is the beginning of its sibling"
    if any(node.children.get(child.ids) is not child or child.parent is not node for child in node.children):
        yield "a child is filed wrongly"
    for suffix, snapshot in node.snapshots.items():
        if not node.covers(suffix) or node.end + token_count(suffix) != snapshot.depth:
            yield "a snapshot is not covered by blocks or not of this depth"
        if snapshot.node is not node or snapshot.suffix != suffix or not node.is_full:
            yield "a snapshot is filed wrongly"
    if node.parent is not None:
        yield from _block_faults(node, node.parent)


def _block_faults(node: Node, parent: Node) -> Iterator[str]:
    if not node.ids or len(node.ids) % ID_BYTES or not parent.is_full:
        yield "a block is empty or does not begin on the grid"
    if node.handle is not None and sum(part.tokens for part in node.handle.parts) != node.tokens:
        yield "the parts do not make up the block"
    if node.end != parent.end + node.tokens or node.handle is None or node.handle.tokens != node.tokens:
        yield "depth, ids and handle disagree"
    if node.digest != chain_hash(parent.digest, node.ids) or node.root is not parent.root:
        yield "the chain is broken"
    if node.exact and not (parent.exact and node.is_full):
        yield "an exact block stands behind one that is not"
    if node.admission is Admission.MAIN and parent.admission is not Admission.MAIN:
        yield "a conversation stands behind a one-shot"
    if parent.parent is not None and parent.last_used_s < node.last_used_s:
        yield "a block was used later than the one before it"


def _tallies(tree: PrefixTree, nodes: list[Node]) -> Iterator[str]:
    held = Counter(part for node in nodes if node.handle is not None for part in node.handle.parts)
    shares = tree.parts.shares
    if held != {part: share.holders for part, share in shares.items()}:
        yield "parts are not held by as many blocks as counted"
    for admission in Admission:
        theirs = (part.nbytes for part, share in shares.items() if share.admission is admission)
        if tree.block_bytes[admission] != sum(theirs):
            yield f"bytes of {admission} are counted wrongly"
    main = (node.handle for node in nodes if node.handle is not None and node.admission is Admission.MAIN)
    if any(shares[part].admission is not Admission.MAIN for handle in main for part in handle.parts):
        yield "a conversation holds a part in the budget of one-shots"
    if tree.leaves != {node for node in nodes if node.parent is not None and not node.children}:
        yield "the set of leaves is wrong"
    states = {snapshot for node in nodes for snapshot in node.snapshots.values()}
    if tree.snapshots != states or tree.snapshot_bytes != sum(snapshot.nbytes for snapshot in states):
        yield "snapshots are counted wrongly"
