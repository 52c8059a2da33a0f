"""One commit on its way into the store: block by block, room made for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from inference.cache.blocks import BLOCK_BYTES, BLOCK_TOKENS, BlockHandle, SnapshotHandle, pack, token_count
from inference.cache.eviction import Evicted
from inference.cache.node import Admission, Node
from inference.cache.reuse import Lease
from inference.cache.store import Store
from inference.cache.tree import touch
from inference.tokens import TokenIds


@dataclass(frozen=True, slots=True)
class Committed:
    """`stored_tokens` are in newly stored blocks, `shared_tokens` were there already, `refused_tokens` found no room.

    With anything in `evicted` the engine should give freed buffers back, once.
    """

    stored_tokens: int
    shared_tokens: int
    refused_tokens: int
    stored_snapshots: int
    refused_snapshots: int
    evicted: tuple[Evicted, ...]


def check_shape(ids: TokenIds, start: int, handles: Sequence[BlockHandle]) -> None:
    """Raises `ValueError` for blocks that are not on the grid, or hold more than `ids` from depth `start` on."""
    if any(handle.tokens != BLOCK_TOKENS for handle in handles[:-1]):
        raise ValueError("only the last block may be shorter than the grid")
    if handles and not 1 <= handles[-1].tokens <= BLOCK_TOKENS:
        raise ValueError("a block holds 1 to 256 tokens")
    if start < 0 or start + sum(handle.tokens for handle in handles) > len(ids):
        raise ValueError("the blocks hold more tokens than there are ids")


class Writer:
    """Moves the lease's lock along as it stores, so that a commit never evicts the path it stands on."""

    def __init__(self, store: Store, lease: Lease, now_s: float, *, exact: bool) -> None:
        self._store = store
        self._lease = lease
        self._now_s = now_s
        self._exact = exact
        self._tokens = {"stored": 0, "shared": 0, "refused": 0}
        self._snapshots = {"stored": 0, "refused": 0}
        self._evicted: list[Evicted] = []

    def result(self) -> Committed:
        return Committed(
            self._tokens["stored"],
            self._tokens["shared"],
            self._tokens["refused"],
            self._snapshots["stored"],
            self._snapshots["refused"],
            tuple(self._evicted),
        )

    # --- blocks -------------------------------------------------------------------------------------------------

    def blocks(self, ids: TokenIds, start: int, handles: Sequence[BlockHandle]) -> None:
        """Stores blocks from depth `start` on, as far as they fit."""
        parent = self._parent(ids, start) if handles and not self._refuses() else None
        if parent is not None:
            self._promote(parent)
        for handle in handles:
            node = None
            if parent is not None:
                node = self._block(parent, pack(ids[start : start + handle.tokens]), handle)
            if node is None:
                self._lease.refused = True
                self._tokens["refused"] += handle.tokens
            else:
                self._lease.move(node)
            parent, start = node, start + handle.tokens

    def _refuses(self) -> bool:
        return self._lease.refused or not self._lease.tip.attached

    def _parent(self, ids: TokenIds, start: int) -> Node:
        node = self._lease.at(start)
        if node.end != start:
            raise ValueError(f"the block before depth {start} was not committed")
        if node.ids != pack(ids[start - node.tokens : start]):
            raise ValueError(f"the ids before depth {start} are not those of the leased path")
        return node

    def _block(self, parent: Node, ids: bytes, handle: BlockHandle) -> Node | None:
        held = self._store.tree.holder(parent, ids)
        if held is not None:
            self._promote(held)
            if not self._improves(held, ids, parent):
                self._tokens["shared"] += token_count(ids)
                touch(held, self._now_s)
                return held
        return self._store_block(parent, held, ids, handle)

    def _improves(self, held: Node, ids: bytes, parent: Node) -> bool:
        if len(ids) != len(held.ids):
            return len(ids) > len(held.ids)
        return self._exact and parent.exact and not held.exact and len(ids) == BLOCK_BYTES

    def _store_block(self, parent: Node, held: Node | None, ids: bytes, handle: BlockHandle) -> Node | None:
        tree, limit = self._store.tree, self._store.limits.max_conversation_tokens
        if limit and parent.end + token_count(ids) > limit:
            return None
        if (fitting := self._fitted(parent, held, ids, handle)) is None:
            return None
        handle, shared = fitting
        grown = held.tokens if held is not None and len(ids) > len(held.ids) else 0
        if held is None:
            held = tree.add(parent, ids, handle, self._class_behind(parent), exact=self._exact)
        else:
            tree.refill(held, ids, handle, exact=self._exact)
        touch(held, self._now_s)
        self._lease.wrote(held, shared)
        self._tokens["stored"] += held.tokens - max(grown, shared)
        self._tokens["shared"] += 0 if grown else shared
        return held

    def _fitted(
        self, parent: Node, held: Node | None, ids: bytes, handle: BlockHandle
    ) -> tuple[BlockHandle, int] | None:
        """The block as it is stored, and how many of its first tokens a sibling holds too; None if there is no room."""
        tree = self._store.tree
        exact = self._exact and parent.exact and len(ids) == BLOCK_BYTES
        sibling, shared = tree.sibling(parent, ids, held, exact=exact)
        if sibling is not None:
            handle = handle.sharing(tree.part_at(sibling, shared), shared)
        admission = held.admission if held is not None else self._class_behind(parent)
        was = held.handle.parts if held is not None and held.handle is not None else ()
        need_bytes = tree.parts.growth(handle.parts, admission, was)
        return (handle, shared) if self._room(admission, need_bytes, held or parent, sibling) else None

    def _class_behind(self, parent: Node) -> Admission:
        """Behind a one-shot's block that found no room among conversations, nothing else can be one of theirs."""
        return self._lease.admission if parent.admission is Admission.MAIN else parent.admission

    def _promote(self, node: Node) -> None:
        """A conversation that goes through one-shots' blocks makes them its own, if they fit."""
        if self._lease.admission is not Admission.MAIN:
            return
        side = list(takewhile(lambda before: before.admission is Admission.ONE_SHOT, node.upwards()))
        parts = [part for before in side if before.handle is not None for part in before.handle.parts]
        if side and self._room(Admission.MAIN, self._store.tree.parts.growth(parts, Admission.MAIN), node):
            self._store.tree.promote(side)

    def _room(self, admission: Admission, need_bytes: int, *stands: Node | None) -> bool:
        """Makes room by evicting nothing of what it stands on."""
        kept = [stand for stand in stands if stand is not None]
        for stand in kept:
            stand.locks += 1
        fits, evicted = self._store.room(admission, need_bytes, self._now_s, self._lease.request_id)
        for stand in kept:
            stand.locks -= 1
        self._evicted += evicted
        return fits

    # --- snapshots ----------------------------------------------------------------------------------------------

    def snapshot(self, ids: TokenIds, handle: SnapshotHandle) -> None:
        """Stores a recurrent state at its depth, which the committed path must cover."""
        depth = handle.depth
        node = None if self._refuses() else self._lease.at(depth // BLOCK_TOKENS * BLOCK_TOKENS)
        suffix = b"" if node is None else pack(ids[node.end : depth])
        if node is not None and (node.end + token_count(suffix) != depth or not node.covers(suffix)):
            raise ValueError(f"no committed blocks cover the snapshot at depth {depth}")
        stored = node is not None and self._store_snapshot(node, suffix, handle)
        self._snapshots["stored" if stored else "refused"] += 1

    def _store_snapshot(self, node: Node, suffix: bytes, handle: SnapshotHandle) -> bool:
        tree = self._store.tree
        if (held := node.snapshots.get(suffix)) is not None:
            held.last_used_s = self._now_s
            if held.exact or not self._exact or held.locks:
                return True
            tree.drop_snapshot(held)
        fits, evicted = self._store.snapshot_room(handle.nbytes, self._now_s, self._lease.request_id)
        self._evicted += evicted
        if fits:
            self._lease.kept.append(tree.attach(node, suffix, handle, exact=self._exact, now_s=self._now_s))
        return fits
