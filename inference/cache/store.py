"""The tree with its books: budgets, what left and why, and where sessions end."""

from __future__ import annotations

from collections.abc import Iterable

from inference.cache.attribution import Attribution
from inference.cache.disk_tier import DiskTier
from inference.cache.eviction import Evicted, make_room, make_snapshot_room
from inference.cache.limits import CacheLimits
from inference.cache.node import Admission, Node, Snapshot
from inference.cache.sessions import Sessions
from inference.cache.tree import PrefixTree, Removed
from inference.cache.verdict import VerdictName


class Store:
    """Everything that leaves the tree leaves through here, so that the books agree with it.

    `ceiling_bytes` is what all classes together may hold while others need the memory (None: their budgets alone).
    What makes room is kept on the `disk`, where there is one; what is removed on order leaves it too.
    """

    def __init__(self, limits: CacheLimits, disk: DiskTier | None = None) -> None:
        self.limits = limits
        self.disk = disk
        self.ceiling_bytes: int | None = None
        self.tree = PrefixTree()
        self.attribution = Attribution()
        self.sessions = Sessions()

    def room(self, admission: Admission, need_bytes: int, now_s: float, by: str) -> tuple[bool, list[Evicted]]:
        """Whether `need_bytes` more of a class fit now, and what went for it."""
        evicted = self._make_room(admission, need_bytes, self._budget(admission), now_s, by)
        most = self.limits.block_budget(admission)
        most = most if self.ceiling_bytes is None else min(most, self.ceiling_bytes)
        if admission is Admission.MAIN and not self._fits(admission, need_bytes) and need_bytes <= most:
            # One-shots have what conversations could have, or keep their blocks from being leaves.
            side_bytes = self.tree.block_bytes[Admission.ONE_SHOT]
            evicted += self._make_room(Admission.ONE_SHOT, side_bytes, side_bytes, now_s, by)
            evicted += self._make_room(admission, need_bytes, self._budget(admission), now_s, by)
        return self._fits(admission, need_bytes), evicted

    @property
    def room_bytes(self) -> int:
        """What conversations' blocks may take in all, were there no others."""
        return self._within(self.limits.budget_bytes, self.held_bytes)

    def _budget(self, admission: Admission) -> int:
        return self._within(self.limits.block_budget(admission), self.tree.block_bytes[admission])

    def _fits(self, admission: Admission, need_bytes: int) -> bool:
        return self.tree.block_bytes[admission] + need_bytes <= self._budget(admission)

    def shrink(self, now_s: float) -> list[Evicted]:
        """Keeps to the budgets with what is there, but for locked paths. Costs nothing while nothing is above them."""
        evicted: list[Evicted] = []
        for admission in (Admission.ONE_SHOT, Admission.MAIN):
            if self.tree.block_bytes[admission] > self.limits.block_budget(admission):
                evicted += self.room(admission, 0, now_s, "")[1]
        if self.tree.snapshot_bytes > self.limits.snapshot_budget_bytes:
            evicted += self.snapshot_room(0, now_s, "")[1]
        for name in self.sessions.beyond(self.limits.max_sessions):
            evicted += self.forget_session(name, VerdictName.EVICTED)
        return evicted

    def _make_room(
        self, admission: Admission, need_bytes: int, budget_bytes: int, now_s: float, by: str
    ) -> list[Evicted]:
        gone = make_room(self.tree, admission, need_bytes, budget_bytes, now_s)
        return [entry for removed in gone for entry in self.take_out(removed, VerdictName.EVICTED, by)]

    def snapshot_room(self, need_bytes: int, now_s: float, by: str) -> tuple[bool, list[Evicted]]:
        """As `room`, for recurrent states."""
        budget = self._within(self.limits.snapshot_budget_bytes, self.tree.snapshot_bytes)
        gone = make_snapshot_room(self.tree, need_bytes, budget, now_s)
        if self.disk is not None:
            self.disk.left(Removed((), (), tuple(gone)), keep=True)
        evicted = self._note(gone, VerdictName.EVICTED, by)
        return self.tree.snapshot_bytes + need_bytes <= budget, evicted

    @property
    def held_bytes(self) -> int:
        """Device memory of all that is stored."""
        return sum(self.tree.block_bytes.values()) + self.tree.snapshot_bytes

    def _within(self, budget_bytes: int, held_bytes: int) -> int:
        """The budget of a class that holds `held_bytes`, as far as the ceiling leaves room for it."""
        if self.ceiling_bytes is None:
            return budget_bytes
        return max(0, min(budget_bytes, self.ceiling_bytes - self.held_bytes + held_bytes))

    def free(self, nbytes: int, now_s: float, by: str, *, locked: bool = False) -> list[Evicted]:
        """Removes about `nbytes`, the least needed first; locked paths only if told, and after all others."""
        goal = self.held_bytes - nbytes
        evicted: list[Evicted] = []
        for take_locked in (False, True) if locked else (False,):
            for admission in (Admission.ONE_SHOT, Admission.MAIN):
                held = self.tree.block_bytes[admission]
                need = min(held, self.held_bytes - goal)
                for removed in make_room(self.tree, admission, need, held, now_s, locked=take_locked):
                    evicted += self.take_out(removed, VerdictName.EVICTED, by)
                    if self.held_bytes <= goal:  # snapshots go with the blocks they stand behind
                        break
        return evicted

    def take_out(self, removed: Removed, reason: VerdictName, by: str) -> list[Evicted]:
        """Writes down what was just removed."""
        if self.disk is not None:
            self.disk.left(removed, keep=reason is VerdictName.EVICTED)
        evicted = []
        for node, freed_bytes in zip(removed.nodes, removed.freed_bytes, strict=True):
            entry = Evicted(node.root.model, node.start, node.tokens, freed_bytes, reason, by)
            self.attribution.record(node, entry)
            self.sessions.left(node)
            evicted.append(entry)
        return evicted + self._note(removed.snapshots, reason, by)

    def _note(self, snapshots: Iterable[Snapshot], reason: VerdictName, by: str) -> list[Evicted]:
        entries = [Evicted(held.node.root.model, held.depth, 0, held.nbytes, reason, by) for held in snapshots]
        self.attribution.recent.extend(entries)
        return entries

    def trim(self, node: Node, reason: VerdictName, by: str) -> list[Evicted]:
        """Removes a path from its end, as far as nobody else goes through it, stands on it or ends on it."""
        evicted: list[Evicted] = []
        while node.parent is not None and node in self.tree.leaves and not node.locks and not node.tips:
            parent = node.parent
            evicted += self.take_out(self.tree.remove(node), reason, by)
            node = parent
        return evicted

    def forget_session(self, name: str, reason: VerdictName, by: str = "") -> list[Evicted]:
        """Removes what only this session holds."""
        session = self.sessions.get(name)
        entries = self.sessions.forget(name)
        evicted = [gone for entry in entries for gone in self.trim(entry, reason, by)]
        if self.disk is not None and reason is not VerdictName.EVICTED:
            still = {node for entry in entries for node in entry.upwards() if node.attached}
            self.disk.left_session(name, b"" if session is None else session.end, still)
        return evicted

    def expire(self, moment_s: float) -> list[Evicted]:
        """Removes blocks that were not used after `moment_s`, except locked ones."""
        evicted: list[Evicted] = []
        old = [leaf for leaf in self.tree.leaves if leaf.last_used_s <= moment_s]
        while old:
            node = old.pop()
            if node.locks:
                continue
            evicted += self.take_out(self.tree.remove(node), VerdictName.EXPIRED, "")
            if node.parent in self.tree.leaves and node.parent.last_used_s <= moment_s:
                old.append(node.parent)
        return evicted

    def next_due_s(self, now_s: float) -> float:
        """When something may next be due: never later than it is."""
        soonest = now_s + self.limits.shortest_life_s
        if self.limits.ttl_s:
            oldest = min((leaf.last_used_s for leaf in self.tree.leaves), default=now_s)
            soonest = min(soonest, oldest + self.limits.ttl_s)
        if self.limits.idle_s and (last := self.sessions.oldest_s) is not None:
            soonest = min(soonest, last + self.limits.idle_s)
        return soonest

    def discard(self, node: Node) -> int:
        """Removes a block that must not be used and all behind it, without a trace; how many blocks."""
        removed = self.tree.remove(node)
        if self.disk is not None:
            self.disk.distrusted(removed.nodes, removed.snapshots)
        for gone in removed.nodes:
            self.sessions.left(gone)
        return len(removed.nodes)
