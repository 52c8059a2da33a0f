"""The prefix tree of blocks: match, put, lock, remove. It knows bytes but no budget, and time only as it is told.

Theory. Below each root stands a tree whose inner nodes are whole blocks, so depth is a position on the grid. Leaves may
be shorter: a turn ends anywhere, and what it computed of its last block is worth up to 255 tokens to the next turn. No
sibling is the beginning of another: a longer block takes the place of the tail it begins with, and a tail of which a
longer block is there is not stored. A prefix common to many paths is stored once: whole blocks stand on one path, and
siblings that part within a block hold its beginning in the same parts.

Only leaves go when room is made, so a locked node keeps everything before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, takewhile

from inference.cache.blocks import (
    BLOCK_TOKENS,
    BlockHandle,
    BlockPart,
    Root,
    SnapshotHandle,
    chain_hash,
    common_tokens,
    token_count,
    token_slice,
    unpack,
)
from inference.cache.node import Admission, Node, Snapshot
from inference.cache.parts import PartTally
from inference.tokens import TokenIds


@dataclass(frozen=True, slots=True)
class Match:
    """What of a prompt is stored: whole blocks (`path`, root first), then `tail_tokens` of the block `tail`."""

    path: tuple[Node, ...]
    tail: Node | None = None
    tail_tokens: int = 0

    @property
    def depth(self) -> int:
        return (len(self.path) - 1) * BLOCK_TOKENS + self.tail_tokens if self.path else 0

    @property
    def blocks(self) -> tuple[Node, ...]:
        return self.path[1:] if self.tail is None else (*self.path[1:], self.tail)

    @property
    def at_end(self) -> bool:
        """Whether it ends where something stored ends."""
        if self.tail is not None:
            return self.tail_tokens == self.tail.tokens
        return self.depth > 0 and (self.at_tip or not self.path[-1].children)

    @property
    def at_tip(self) -> bool:
        """Whether a session's last request ended where it ends, on the grid."""
        return self.tail is None and self.depth > 0 and bool(self.path[-1].tips)

    def behind(self, count: int) -> TokenIds:
        """Up to `count` ids that follow in what is stored, by the way used last."""
        if self.tail is not None and self.tail_tokens < self.tail.tokens:
            return unpack(token_slice(self.tail.ids, self.tail_tokens, self.tail_tokens + count))
        node = self.tail or (self.path[-1] if self.path else None)
        ways = sorted(node.children, key=lambda child: child.last_used_s) if node is not None else []
        return unpack(token_slice(ways[-1].ids, 0, count)) if ways else ()

    def reaches(self, node: Node) -> bool:
        """Whether all of a block is in it."""
        return node in self.path or (node is self.tail and self.tail_tokens == node.tokens)


@dataclass(frozen=True, slots=True)
class Removed:
    """What left the tree in one act: blocks deepest first, and the snapshots that lost their blocks.

    `freed_bytes` are those that went with each block: what its siblings hold too stays.
    """

    nodes: tuple[Node, ...]
    freed_bytes: tuple[int, ...]
    snapshots: tuple[Snapshot, ...]


class PrefixTree:
    """All models' trees. `version` changes with every change of structure."""

    def __init__(self) -> None:
        self.roots: dict[bytes, Node] = {}
        self.leaves: set[Node] = set()
        self.snapshots: set[Snapshot] = set()
        self.parts = PartTally()
        self.snapshot_bytes = 0
        self.version = 0
        self._serial = count()

    @property
    def block_bytes(self) -> Mapping[Admission, int]:
        """Device memory of the blocks of each class."""
        return self.parts.nbytes

    # --- finding ------------------------------------------------------------------------------------------------

    def match(self, root: Root, packed: bytes, limit_tokens: int) -> Match:
        """The longest stored beginning of `packed`, token by token, at most `limit_tokens` of it."""
        if (node := self.roots.get(root.key)) is None:
            return Match(())
        path, at = [node], 0
        while at + BLOCK_TOKENS <= limit_tokens:
            child = node.children.get(token_slice(packed, at, at + BLOCK_TOKENS))
            if child is None:
                break
            path.append(child)
            node, at = child, at + BLOCK_TOKENS
        tail, tokens = node.children.nearest(token_slice(packed, at, min(limit_tokens, at + BLOCK_TOKENS)))
        return Match(tuple(path), tail, tokens)

    def holder(self, parent: Node, ids: bytes) -> Node | None:
        """The child that `ids` begin or that begins with `ids`: at most one of them is in the tree."""
        child, common = parent.children.nearest(ids)
        return child if child is not None and common in (child.tokens, token_count(ids)) else None

    def sibling(self, parent: Node, ids: bytes, held: Node | None, *, exact: bool) -> tuple[Node | None, int]:
        """The child other than `held` with which `ids` have most tokens in common, and how many.

        For an exact block it is an exact one: those keep the bits of a cold prefill.
        """
        near, common = parent.children.nearest(ids, None if held is None else held.ids)
        if near is None or near.exact or not exact:
            return near, common
        shares = [(common_tokens(ids, child.ids), child) for child in parent.children if child.exact]
        common, near = max(shares, key=lambda share: share[0], default=(0, near))
        return (near, common) if common else (None, 0)

    # --- growing ------------------------------------------------------------------------------------------------

    def root(self, root: Root) -> Node:
        """The root node, made if needed."""
        if (node := self.roots.get(root.key)) is None:
            node = Node(root, None, b"", 0, root.key, next(self._serial))
            self.roots[root.key] = node
        return node

    def add(self, parent: Node, ids: bytes, handle: BlockHandle, admission: Admission, *, exact: bool) -> Node:
        """A new block behind `parent`; `holder(parent, ids)` must be None."""
        node = Node(parent.root, parent, ids, parent.end + token_count(ids), b"", next(self._serial))
        node.admission = admission
        self._fill(node, handle, exact)
        parent.children.set(ids, node)
        self.leaves.discard(parent)
        self.leaves.add(node)
        return node

    def refill(self, node: Node, ids: bytes, handle: BlockHandle, *, exact: bool) -> None:
        """Puts a longer or a better run in the place of a block; `ids` begin with the block's own."""
        assert node.parent is not None
        node.parent.children.pop(node.ids)
        node.ids, node.end = ids, node.parent.end + token_count(ids)
        node.parent.children.set(ids, node)
        self._fill(node, handle, exact)

    def _fill(self, node: Node, handle: BlockHandle, exact: bool) -> None:
        assert node.parent is not None
        self.parts.take(handle.parts, node.admission)
        self.parts.drop(_parts(node))
        node.handle, node.nbytes = handle, handle.nbytes
        node.exact = exact and node.is_full and node.parent.exact
        node.digest = chain_hash(node.parent.digest, node.ids)
        node.proof, node.from_disk = None, False
        self.version += 1

    def promote(self, nodes: Sequence[Node]) -> None:
        """Moves blocks of one-shots into the budget of conversations."""
        for node in nodes:
            node.admission = Admission.MAIN
            self.parts.promote(_parts(node))

    # --- parts --------------------------------------------------------------------------------------------------

    def part_at(self, node: Node, tokens: int) -> BlockHandle:
        """Makes a part end behind the first `tokens` of a block, for all siblings that hold it; the block's handle."""
        assert node.handle is not None and node.parent is not None
        before, after = node.handle, node.handle.parted(tokens)
        if after is before:
            return before
        gone = next(part for part in before.parts if part not in after.parts)
        self.parts.split(gone, [part for part in after.parts if part not in before.parts])
        end = sum(part.tokens for part in takewhile(lambda part: part is not gone, before.parts)) + gone.tokens
        node.handle = after
        for sibling in node.parent.children:
            if sibling.handle is not None and gone in sibling.handle.parts:
                sibling.handle = sibling.handle.sharing(after, end)
        self.version += 1
        return after

    def holders(self, node: Node, start: int) -> list[Node]:
        """The blocks, this one included, that hold parts of it which lie behind its first `start` tokens."""
        if not node.attached or node.parent is None:
            return []
        ends = accumulate(part.tokens for part in _parts(node))
        own = {part for part, end in zip(_parts(node), ends, strict=True) if end > start}
        return [sibling for sibling in node.parent.children if not own.isdisjoint(_parts(sibling))]

    # --- snapshots ----------------------------------------------------------------------------------------------

    def attach(self, node: Node, suffix: bytes, handle: SnapshotHandle, *, exact: bool, now_s: float) -> Snapshot:
        """Stores a recurrent state behind `node` and the tokens of `suffix`, which blocks must cover."""
        exact = exact and not suffix and node.exact
        if (old := node.snapshots.get(suffix)) is not None:
            self.drop_snapshot(old)
        snapshot = Snapshot(handle, handle.nbytes, exact, now_s, node, suffix, next(self._serial))
        node.snapshots[suffix] = snapshot
        self.snapshots.add(snapshot)
        self.snapshot_bytes += snapshot.nbytes
        self.version += 1
        _pass(snapshot)
        return snapshot

    def drop_snapshot(self, snapshot: Snapshot) -> None:
        del snapshot.node.snapshots[snapshot.suffix]
        self.snapshots.discard(snapshot)
        self.snapshot_bytes -= snapshot.nbytes
        self.version += 1

    # --- removing -----------------------------------------------------------------------------------------------

    def remove(self, node: Node) -> Removed:
        """Takes a block and everything behind it out of the tree, locked or not."""
        nodes = _deepest_first(node)
        parent = node.parent
        if parent is None:
            del self.roots[node.root.key]
        else:
            parent.children.pop(node.ids)
        dropped = [snapshot for gone in nodes for snapshot in gone.snapshots.values()]
        if parent is not None:
            dropped += [held for suffix, held in parent.snapshots.items() if not parent.covers(suffix)]
        for snapshot in dropped:
            self.drop_snapshot(snapshot)
        for gone in nodes:
            gone.attached = False
            self.leaves.discard(gone)
        nodes = [gone for gone in nodes if gone.parent is not None]
        freed = tuple(self.parts.drop(_parts(gone)) for gone in nodes)
        if parent is not None and parent.parent is not None and not parent.children:
            self.leaves.add(parent)
        self.version += 1
        return Removed(tuple(nodes), freed, tuple(dropped))

    def prune_roots(self) -> None:
        """Forgets roots below which nothing is, and where no request is."""
        for node in list(self.roots.values()):
            if not node.children and not node.locks:
                self.remove(node)


def _parts(node: Node) -> Sequence[BlockPart]:
    return () if node.handle is None else node.handle.parts


def _pass(latest: Snapshot) -> None:
    """Marks the snapshots on the way to a new one."""
    node, way = latest.node, latest.suffix
    while True:
        for suffix, held in node.snapshots.items():
            held.passed |= held is not latest and way.startswith(suffix)
        if node.parent is None:
            return
        node, way = node.parent, node.ids


def touch(node: Node, now_s: float) -> None:
    """Marks a path as used now. A block is never used later than those before it."""
    for before in node.upwards():
        if before.last_used_s >= now_s:
            break
        before.last_used_s = now_s


def _deepest_first(node: Node) -> list[Node]:
    order = [node]
    for seen in order:
        order.extend(seen.children)
    return order[::-1]
