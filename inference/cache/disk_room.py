"""Whether one more file may be written, and which must go for it: the least recently used, from the ends of paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from inference.cache.disk_budget import WriteBudget
from inference.cache.disk_files import Files
from inference.cache.disk_index import DiskEntry, DiskIndex
from inference.cache.disk_limits import MAX_FILE_BYTES, DiskLimits
from inference.cache.disk_outage import DISK_GUARD


class DiskRoom:
    """`drop` removes files that are `evicted`. `limit_bytes` holds for all of them at every moment."""

    def __init__(
        self,
        directory: Path,
        limits: DiskLimits,
        index: DiskIndex,
        files: Files,
        budget: WriteBudget,
        drop: Callable[[Iterable[DiskEntry], str], None],
    ) -> None:
        self.limit_bytes = limits.max_bytes
        self._directory = directory
        self._limits = limits
        self._index = index
        self._files = files
        self._budget = budget
        self._drop = drop

    def limit(self, limits: DiskLimits) -> None:
        """Keeps to another limit from now on, saved conversations apart. Raises `OSError`."""
        self._limits, self.limit_bytes = limits, limits.max_bytes
        self.measure()
        self.shrink()

    def measure(self) -> None:
        """Sets the limit by what is free; these files count as free, so that it does not shrink with every start.

        Raises `OSError`.
        """
        used, total = self._files.used_share(self._directory)
        free_bytes = total - used + self._index.nbytes
        self.limit_bytes = min(self._limits.max_bytes, int(free_bytes * self._limits.max_free_share))

    def shrink(self) -> None:
        """Keeps to the limit with what is there."""
        while (oldest := self._index.oldest()) is not None and self._index.nbytes > self.limit_bytes:
            self._drop((oldest,), "evicted")

    def refusal(self, entry: DiskEntry) -> str:
        """Makes room for a file under both limits; what it stands behind stays. "" when it may be written.

        It then counts as written today. Nothing goes for a file that the day has no budget for. Raises `OSError`.
        """
        if entry.nbytes > MAX_FILE_BYTES:
            return "too_large"
        if not self._budget.allows(entry.nbytes):
            return "day_budget"
        over = self._index.nbytes + entry.nbytes - self.limit_bytes
        if not self._give_back(entry, over):
            return "too_large"
        used, total = self._files.used_share(self._directory)
        over = used + entry.nbytes - int(total * self._limits.max_disk_share)
        if over > 0 and not (over <= entry.nbytes and self._give_back(entry, over)):
            return DISK_GUARD
        self._budget.take(entry.nbytes)
        return ""

    def _give_back(self, entry: DiskEntry, nbytes: int) -> bool:
        """Removes the least recently used until so many bytes are free; whether that could be."""
        keep = self._index.path(entry.parent) if nbytes > 0 else set()
        goal = self._index.nbytes - nbytes
        while nbytes > 0 and self._index.nbytes > goal:
            oldest = self._index.oldest()
            if oldest is None or oldest.key in keep:
                return False
            self._drop((oldest,), "evicted")
        return True

    def relieve(self, nbytes: int) -> None:
        """A full disk gets back what was about to be written on it."""
        goal = self._index.nbytes - nbytes
        while self._index.nbytes > goal and (oldest := self._index.oldest()) is not None:
            self._drop((oldest,), "evicted")
