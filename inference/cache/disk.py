"""Blocks and recurrent states on a disk: written once, found by what they hold, gone when they are used least.

    <directory>/v1/<tree>/<first byte>/<what it stands behind>-<itself>-<start>-<end>.kv

A name says where a file belongs, so a scan of names is all that a start needs. A file says again what it is, with the
tokens and a digest over every byte, and is used only if it is what its name and the request say. Anything else is a
miss: it is counted and the file removed. One thread does all of this; nothing here waits for anybody.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.cache.disk_budget import WriteBudget
from inference.cache.disk_counters import DiskCounters
from inference.cache.disk_files import Files
from inference.cache.disk_index import DiskEntry, DiskIndex
from inference.cache.disk_records import KEY_BYTES, LABEL_BYTES, BlockCodec, BlockLabel, Flaw, Handle, Stored
from inference.cache.saved_shelf import SavedShelf

LAYOUT: Final = "v1"
PAUSE_S: Final = 60.0
"""How long nothing is written after the disk refused something."""
DAY_S: Final = 86_400
_OUTAGES: Final = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "read_only",
    errno.EACCES: "no_permission",
    errno.EPERM: "no_permission",
    errno.EMFILE: "too_many_open_files",
    errno.ENFILE: "too_many_open_files",
}

_PASSING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What says nothing of the file that was to be opened."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """`max_bytes` of files in all, obeyed at every moment, what is being written included. Nothing is written that
    fills the disk beyond `max_disk_share`, whoever filled it, or beyond `day_bytes` of a day (0: no limit). What was
    not used for `ttl_s` goes (0: never). At the start `max_bytes` is lowered to `max_free_share` of what the disk has
    free beside these files.
    """

    max_bytes: int
    max_free_share: float = 1.0
    day_bytes: int = 0
    max_disk_share: float = 0.9
    ttl_s: float = 0.0


class DiskStore:
    """`now_s` is the time of day in seconds, as files have it."""

    def __init__(
        self,
        directory: Path,
        limits: DiskLimits,
        codec: BlockCodec,
        now_s: Callable[[], float],
        files: Files | None = None,
    ) -> None:
        self.directory = directory
        self.limits = limits
        self.limit_bytes = limits.max_bytes
        self.index = DiskIndex()
        self.counters = DiskCounters()
        self.outage = ""
        self.codec = codec
        self._files = files or Files()
        self._now_s = now_s
        self._paused_until_s = 0.0
        self.refusal = ""
        self.saved = SavedShelf(directory, self._files, self.index)
        self.budget = WriteBudget(directory / "budget.json", limits.day_bytes, self._files, self._today)

    def _today(self) -> int:
        return int(self._now_s() // DAY_S)

    # --- the beginning ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Learns what is there by names alone, and removes what no prompt can begin with. Never raises `OSError`."""
        first = (self._make_folder, self._sweep_other_layouts, self.budget.open, self._open_saved)
        for step in (*first, self._fill, self._share_of_free):
            try:
                step()
            except OSError as error:  # costs that step alone: files that are not in the index count towards no limit
                self._fail(error)
        self._drop(self.index.unreachable(), "unreachable")
        while (oldest := self.index.oldest()) is not None and self.index.nbytes > self.limit_bytes:
            self._drop((oldest,), "evicted")

    def _make_folder(self) -> None:
        self._files.make_folder(self.directory / LAYOUT)

    def _open_saved(self) -> None:
        if flawed := self.saved.open():
            self.counters.dropped["manifest"] += flawed

    def _fill(self) -> None:
        self.index.fill(list(self._scanned()))

    def _share_of_free(self) -> None:
        """These files count as free, so that the limit does not shrink with every start."""
        used, total = self._files.used_share(self.directory)
        free_bytes = total - used + self.index.nbytes
        self.limit_bytes = min(self.limits.max_bytes, int(free_bytes * self.limits.max_free_share))

    def _sweep_other_layouts(self) -> None:
        """Of an earlier or later version: nobody reads them here, and they would not count towards the limit."""
        self.counters.dropped["left_over"] += self._files.sweep_beside(self.directory)
        for name in self._files.folders(self.directory):
            if name != LAYOUT and name[:1] == "v" and name[1:].isdigit():
                self._files.remove_folder(self.directory / name)
                self.counters.dropped["layout"] += 1

    def _scanned(self) -> Iterable[tuple[DiskEntry, int]]:
        expired_ns = int((self._now_s() - self.limits.ttl_s) * 1e9) if self.limits.ttl_s else -1
        for tree in self._files.folders(self.directory / LAYOUT):
            root = _key(tree)
            for found in self._files.scan(self.directory / LAYOUT / tree):
                entry = None if root is None else DiskEntry.named(root, found.folder, found.name, found.nbytes)
                if entry is not None and (found.changed_ns > expired_ns or self.index.is_pinned(entry.key)):
                    yield entry, found.changed_ns
                else:
                    self.counters.dropped["left_over" if entry is None else "expired"] += 1
                    self._unlink(self.directory / LAYOUT / tree / found.folder / found.name)

    # --- writing ------------------------------------------------------------------------------------------------

    def write(self, label: BlockLabel, handle: Handle, *, first_to_go: bool = False) -> bool:
        """Whether it is on the disk now, perhaps as the `first_to_go`. What is in the way is counted, and costs it."""
        if not first_to_go:
            self.index.touch(label.key if label.key in self.index else label.parent[:KEY_BYTES])
        if label.key in self.index:
            return True
        if 0 < self._paused_until_s - self._now_s() <= PAUSE_S:  # else the clock was put back
            return self._refuse(self.outage)
        pieces = self.codec.encode(label, handle)
        entry = DiskEntry.of(label, sum(len(piece) for piece in pieces))
        try:
            self._files.make_folder(self.directory)  # somebody may have removed it
            if (reason := self._no_room(entry)) or (reason := self._no_budget(entry)):
                return self._refuse(reason)
            self._files.write(self._path(entry), pieces)
        except OSError as error:
            self._fail(error, entry.nbytes)
            return self._refuse(self.outage)
        self.outage = ""
        self.index.add(entry, first_to_go=first_to_go)
        self.counters.written_files += 1
        self.counters.written_bytes += entry.nbytes
        return True

    def _no_room(self, entry: DiskEntry) -> str:
        """Makes room under both limits; what the file itself stands behind stays. "" when there is room."""
        if not self._give_back(entry, self.index.nbytes + entry.nbytes - self.limit_bytes):
            return "too_large"
        used, total = self._files.used_share(self.directory)
        over = used + entry.nbytes - int(total * self.limits.max_disk_share)
        fits = over <= 0 or (over <= entry.nbytes and self._give_back(entry, over))
        return "" if fits else "disk_guard"

    def _no_budget(self, entry: DiskEntry) -> str:
        return "" if self.budget.allows(entry.nbytes) else "day_budget"

    def _give_back(self, entry: DiskEntry, nbytes: int) -> bool:
        """Removes the least recently used until so many bytes are free; whether that could be."""
        keep = self.index.path(entry.parent) if nbytes > 0 else set()
        goal = self.index.nbytes - nbytes
        while nbytes > 0 and self.index.nbytes > goal:
            oldest = self.index.oldest()
            if oldest is None or oldest.key in keep:
                return False
            self._drop((oldest,), "evicted")
        return True

    def _refuse(self, reason: str) -> bool:
        self.refusal = reason
        self.counters.refused[reason] += 1
        return False

    def _fail(self, error: OSError, nbytes: int = 0) -> None:
        """Stops writing for a while. A full disk gets back what was about to be written on it."""
        self.outage = _OUTAGES.get(error.errno or 0, errno.errorcode.get(error.errno or 0, "error").lower())
        self._paused_until_s = self._now_s() + PAUSE_S
        goal = self.index.nbytes - nbytes
        while self.outage == "disk_full" and self.index.nbytes > goal and (oldest := self.index.oldest()) is not None:
            self._drop((oldest,), "evicted")

    # --- reading ------------------------------------------------------------------------------------------------

    def read(self, key: bytes, root: bytes) -> Stored | None:
        """A file of the tree `root` (its whole key), if all of it is what it should be; else it is gone."""
        if (entry := self.index.get(key)) is None:
            return None
        try:
            raw = self._files.read(self._path(entry))
        except OSError as error:
            self._unreadable(entry, error)
            return None
        found = self.codec.decode(raw)
        if isinstance(found, Stored) and not _is(found.label, entry, root):
            found = Flaw.FOREIGN
        if isinstance(found, Flaw):
            self._drop((entry,), str(found))
            return None
        self._was_read(entry)
        return found

    def _was_read(self, entry: DiskEntry) -> None:
        self.counters.read_files += 1
        self.counters.read_bytes += entry.nbytes
        self.counters.read_tokens += entry.tokens
        self.counters.read_back_bytes += 0 if entry.was_read else entry.nbytes
        entry.was_read = True

    def ids(self, entry: DiskEntry) -> bytes:
        """The packed tokens that a file says it holds, from its label alone; none where that cannot be read."""
        if entry.ids is None:
            try:
                label = self.codec.read_label(self._files.read(self._path(entry), LABEL_BYTES))
            except OSError as error:
                self._unreadable(entry, error)
                return b""
            if isinstance(label, Flaw):
                self._drop((entry,), str(label))
                return b""
            entry.ids = label.ids
        return entry.ids

    def mark_used(self, key: bytes) -> None:
        """A path was used, also if only in memory: the time of its end is kept, which stands for all before it."""
        if (entry := self.index.get(key)) is None:
            return
        self.index.touch(key)
        try:
            self._files.mark_used(self._path(entry))
        except FileNotFoundError:
            self._drop((entry,), "unreadable")
        except OSError as error:  # what takes no times can still be read
            self._fail(error)

    def _unreadable(self, entry: DiskEntry, error: OSError) -> None:
        """The file goes, unless it is the process that can open nothing just now."""
        if error.errno not in _PASSING:
            self._drop((entry,), "unreadable")

    # --- removing -----------------------------------------------------------------------------------------------

    def drop(self, keys: Iterable[bytes], *, spare_pinned: bool = False) -> None:
        """Removes files on somebody's order."""
        gone = [key for key in keys if not (spare_pinned and self.index.is_pinned(key))]
        self._drop([entry for key in gone if (entry := self.index.get(key)) is not None], "ordered")

    def clear(self, root: bytes | None = None, *, model: str = "") -> None:
        """Removes all of a tree (its whole key), all that a model of this name computed, or everything.

        What was saved of it goes too.
        """
        gone = [entry for entry in self.index if root is None or entry.root == root[:KEY_BYTES]]
        if model:
            trees = {entry.root: entry for entry in gone}
            named = {tree for tree, entry in trees.items() if self._model(entry) == model}
            gone = [entry for entry in gone if entry.root in named]
        self._drop(gone, "ordered")
        keys = [entry.key for entry in gone]
        whole = root is None and not model
        self.saved.drop_those_of([key for manifest in self.saved for key in manifest.keys] if whole else keys)

    def _model(self, entry: DiskEntry) -> str:
        """Of any file of a tree."""
        try:
            label = self.codec.read_label(self._files.read(self._path(entry), LABEL_BYTES))
        except OSError:
            return ""
        return label.model if isinstance(label, BlockLabel) else ""

    def _drop(self, entries: Iterable[DiskEntry], why: str) -> None:
        for entry in entries:
            self.index.remove(entry.key)
            self.counters.dropped[why] += 1
            self._unlink(self._path(entry))

    def _unlink(self, path: Path) -> None:
        """A file that cannot be removed is not used all the same, and is found again at the next start."""
        try:
            self._files.remove(path)
        except OSError:
            self.counters.dropped["not_removed"] += 1

    def close(self) -> None:
        try:
            self.budget.close()
        except OSError as error:
            self._fail(error)

    def _path(self, entry: DiskEntry) -> Path:
        return self.directory / LAYOUT / entry.root.hex() / entry.folder / entry.name


def _is(label: BlockLabel, entry: DiskEntry, root: bytes) -> bool:
    """Whether a file holds what its name says and belongs to the tree it is wanted for."""
    told = (label.kind, label.root, label.parent[:KEY_BYTES], label.key, label.start, label.end)
    return label.is_sound and told == (entry.kind, root, entry.parent, entry.key, entry.start, entry.end)


def _key(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else None
    except ValueError:
        return None
