"""Who goes when room is needed: leaves first, the cheapest to do without, within their own budget.

score = age / (sqrt(length) x log2(1 + uses) x seconds of recompute per byte). The highest goes. Age is since the last
use; length is the depth in tokens, because behind a long prefix a miss waits longest; the last factor keeps what frees
little memory for much work. A conversation's blocks go from its end: when a leaf goes, the block before it is next in
line with nearly the same score, so one conversation leaves rather than a piece of each.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

from inference.cache.node import Admission, Node, Snapshot
from inference.cache.tree import PrefixTree, Removed
from inference.cache.verdict import VerdictName

BATCH_PART = 32
"""Making room frees at least this part of a budget, so that the engine gives buffers back once per batch, not once
per block."""
_PASSED = 8.0
_YOUNGEST_S = 1e-3
"""Blocks of one instant differ by length and use alone."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """A block (`tokens` of it, beginning at depth `start`) or a snapshot (`tokens` 0) that left, for request `by`.

    `nbytes` came free with it: what its siblings hold of it stays.
    """

    model: str
    start: int
    tokens: int
    nbytes: int
    reason: VerdictName
    by: str


def block_score(node: Node, now_s: float) -> float:
    recompute_per_byte = node.root.token_cost * node.tokens / max(1, node.nbytes)
    return _worth_less(node.last_used_s, node.end, node.hits, now_s) / recompute_per_byte


def snapshot_score(snapshot: Snapshot, now_s: float) -> float:
    """The same age, length and use. What a conversation has gone past goes long before where it stands.

    Replayed: 12 interleaved sessions, one message in ten edited, room for 2.5, 5 and 8 states each. Prefilled /
    necessary is 6.2, 2.5 and 1.4 without the factor, 2.2, 1.2 and 1.1 with 8; more than 8 loses where more is edited.
    """
    score = _worth_less(snapshot.last_used_s, snapshot.depth, snapshot.hits, now_s)
    return score * _PASSED if snapshot.passed else score


def _worth_less(last_used_s: float, length_tokens: int, uses: int, now_s: float) -> float:
    age_s = max(now_s - last_used_s, _YOUNGEST_S)
    return age_s / (math.sqrt(length_tokens) * math.log2(1 + uses))


def make_room(
    tree: PrefixTree, admission: Admission, need_bytes: int, budget_bytes: int, now_s: float, *, locked: bool = False
) -> Iterator[Removed]:
    """Removes leaves of one class until `need_bytes` more fit, or none is left that may go; `locked` ones only if told.

    Nothing goes for a need that no eviction can meet.
    """
    if need_bytes > budget_bytes or tree.block_bytes[admission] + need_bytes <= budget_bytes:
        return
    goal = max(0, budget_bytes - max(need_bytes, budget_bytes // BATCH_PART))
    queue = [_entry(leaf, now_s) for leaf in tree.leaves if _may_go(leaf, admission, locked)]
    heapq.heapify(queue)
    while queue and tree.block_bytes[admission] > goal:
        node = heapq.heappop(queue)[2]
        parent = node.parent
        yield tree.remove(node)
        if parent in tree.leaves and _may_go(parent, admission, locked):
            heapq.heappush(queue, _entry(parent, now_s))


def _entry(node: Node, now_s: float) -> tuple[float, int, Node]:
    return -block_score(node, now_s), node.serial, node


def _may_go(node: Node, admission: Admission, locked: bool) -> bool:
    return node.admission is admission and (locked or not node.locks)


def make_snapshot_room(tree: PrefixTree, need_bytes: int, budget_bytes: int, now_s: float) -> list[Snapshot]:
    """As `make_room`, for recurrent states."""
    gone: list[Snapshot] = []
    if need_bytes > budget_bytes or tree.snapshot_bytes + need_bytes <= budget_bytes:
        return gone
    free = (snapshot for snapshot in tree.snapshots if not snapshot.locks)
    for snapshot in sorted(free, key=lambda held: (-snapshot_score(held, now_s), held.serial)):
        if tree.snapshot_bytes + need_bytes <= budget_bytes:
            break
        tree.drop_snapshot(snapshot)
        gone.append(snapshot)
    return gone
