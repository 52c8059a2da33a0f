"""Blocks and recurrent states on a disk: written once, found by what they hold, gone when they are used least.

A name says where a file belongs, so a scan of names is all that a start needs. A file says again what it is, with the
tokens and a digest over every byte, and is used only if it is what its name and the request say. Anything else is a
miss: it is counted and the file removed. One thread does all of this; nothing here waits for anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from inference.cache.disk_budget import WriteBudget
from inference.cache.disk_counters import DiskCounters
from inference.cache.disk_files import Files
from inference.cache.disk_index import DiskEntry, DiskIndex
from inference.cache.disk_limits import DiskLimits
from inference.cache.disk_outage import DISK_FULL, DISK_GUARD, Outage, is_passing
from inference.cache.disk_place import LAYOUT, lying, path_of, sweep_other_layouts
from inference.cache.disk_records import KEY_BYTES, LABEL_BYTES, BlockCodec, BlockLabel, Flaw, Handle, Stored
from inference.cache.disk_room import DiskRoom
from inference.cache.saved_shelf import SavedShelf
from inference.cache.session_record import SessionRecord
from inference.cache.session_shelf import SessionShelf

DAY_S: Final = 86_400


class DiskStore:
    """`now_s` is the time of day in seconds, as files have it. `refusal` is why nothing was written last, if so."""

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
        self.index = DiskIndex()
        self.counters = DiskCounters()
        self.refusal = ""
        self.codec = codec
        self._files = files or Files()
        self._now_s = now_s
        self._outage = Outage(now_s)
        self.saved = SavedShelf(directory, self._files, self.index)
        self.sessions = SessionShelf(directory, self._files, self.index)
        self.budget = WriteBudget(directory / "budget.json", limits.day_bytes, self._files, self._today)
        self._room = DiskRoom(directory, limits, self.index, self._files, self.budget, self._drop)

    def _today(self) -> int:
        return int(self._now_s() // DAY_S)

    @property
    def outage(self) -> str:
        """Why nothing is written just now, "" when all is well."""
        return self._outage.reason

    @property
    def limit_bytes(self) -> int:
        return self._room.limit_bytes

    def limit(self, limits: DiskLimits) -> None:
        """Other limits from now on; what is too old goes at the next start. Raises `OSError`."""
        self.limits = limits
        self.budget.limit(limits.day_bytes)
        self._room.limit(limits)

    # --- the beginning ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Learns what is there by names alone, and removes what no prompt can begin with. Never raises `OSError`."""
        first = (self._make_folder, self._sweep, self.budget.open, self._open_saved, self.sessions.open)
        for step in (*first, self._fill, self._room.measure):
            try:
                step()
            except OSError as error:  # costs that step alone: files that are not in the index count towards no limit
                self._outage.begin(error)
        self._room.shrink()

    def _make_folder(self) -> None:
        self._files.make_folder(self.directory / LAYOUT)

    def _sweep(self) -> None:
        self.counters.dropped["left_over"] += self._files.sweep_beside(self.directory)
        if swept := sweep_other_layouts(self.directory, self._files):
            self.counters.dropped["layout"] += swept

    def _open_saved(self) -> None:
        if flawed := self.saved.open():
            self.counters.dropped["manifest"] += flawed

    def _fill(self) -> None:
        """As far as the directory can be read; what is behind something that was not seen is left alone then."""
        found: list[tuple[DiskEntry, int]] = []
        try:
            found.extend(one for one in self._scanned())
        finally:
            self.index.fill(found)
        self._drop(self.index.unreachable(), "unreachable")

    def _scanned(self) -> Iterator[tuple[DiskEntry, int]]:
        """Files that may be of use, with the time of their last change; the others go."""
        expired_ns = int((self._now_s() - self.limits.ttl_s) * 1e9) if self.limits.ttl_s else -1
        known: set[bytes] = set()
        for file in lying(self.directory, self._files):
            entry = file.entry
            if entry is None or entry.key in known:
                why = "left_over"
            elif file.is_too_large:
                why = str(Flaw.CORRUPT)
            elif file.changed_ns <= expired_ns and not self.index.is_pinned(entry.key):
                why = "expired"
            else:
                known.add(entry.key)
                yield entry, file.changed_ns
                continue
            self.counters.dropped[why] += 1
            self._unlink(file.path)

    # --- writing ------------------------------------------------------------------------------------------------

    def write(self, label: BlockLabel, handle: Handle, *, first_to_go: bool = False) -> bool:
        """Whether it is on the disk now, perhaps as the `first_to_go`. What is in the way is counted, and costs it.

        An exact block or state takes the place of one that is not.
        """
        if not first_to_go:
            self.index.touch(label.key if label.key in self.index else label.parent[:KEY_BYTES])
        if self._is_there(label):
            return True
        if self._outage.pauses:
            return self._refuse(self.outage)
        pieces = self.codec.encode(label, handle)
        entry = DiskEntry.of(label, sum(len(piece) for piece in pieces))
        try:
            self._files.make_folder(self.directory)  # somebody may have removed it
            if reason := self._room.refusal(entry):
                return self._refuse(reason)
            self._files.write(path_of(self.directory, entry), pieces)
        except OSError as error:
            self._outage.begin(error)
            if self.outage == DISK_FULL:
                self._room.relieve(entry.nbytes)
            return self._refuse(self.outage)
        self._outage.end()
        self.refusal = ""
        self.index.add(entry, first_to_go=first_to_go)
        self.counters.wrote(entry.nbytes)
        return True

    def note(self, record: SessionRecord, passed: Collection[bytes]) -> None:
        """Writes down where a session ended, having `passed` these blocks, unless the disk takes nothing just now."""
        if self._outage.pauses or self.refusal == DISK_GUARD:
            return
        try:
            self.sessions.keep(record, passed)
        except OSError as error:
            self._outage.begin(error)

    def _is_there(self, label: BlockLabel) -> bool:
        entry = self.index.get(label.key)
        if entry is None or not label.exact or entry.exact:
            return entry is not None
        if entry.exact is None:
            self._learn(entry)
        return bool(entry.exact)

    def _refuse(self, reason: str) -> bool:
        self.refusal = reason
        self.counters.refused[reason] += 1
        return False

    # --- reading ------------------------------------------------------------------------------------------------

    def read(self, key: bytes, root: bytes) -> Stored | None:
        """A file of the tree `root` (its whole key), if all of it is what it should be; else it is gone.

        A file that has grown is not read beyond what it should hold.
        """
        if (entry := self.index.get(key)) is None:
            return None
        try:
            raw = self._files.read(path_of(self.directory, entry), entry.nbytes + 1)
        except OSError as error:
            self._unreadable(entry, error)
            return None
        found = self.codec.decode(raw) if len(raw) <= entry.nbytes else Flaw.CORRUPT
        if isinstance(found, Stored) and not (entry.is_named_by(found.label) and found.label.root == root):
            found = Flaw.FOREIGN
        if isinstance(found, Flaw):
            self._drop((entry,), str(found))
            return None
        entry.exact = found.label.exact
        self.counters.read(entry.nbytes, entry.tokens, again=entry.was_read)
        entry.was_read = True
        return found

    def ids(self, entry: DiskEntry) -> bytes:
        """The packed tokens that a file says it holds, from its label alone; none where that cannot be read."""
        if entry.ids is None:
            self._learn(entry)
        return entry.ids or b""

    def _learn(self, entry: DiskEntry) -> None:
        """What the label of a file tells; one that cannot be read tells nothing, and the file goes."""
        try:
            label = self.codec.read_label(self._files.read(path_of(self.directory, entry), LABEL_BYTES))
        except OSError as error:
            return self._unreadable(entry, error)
        if isinstance(label, Flaw) or not entry.is_named_by(label):
            return self._drop((entry,), str(label if isinstance(label, Flaw) else Flaw.FOREIGN))
        entry.ids, entry.exact = label.ids, label.exact
        return None

    def mark_used(self, key: bytes) -> None:
        """A path was used, also if only in memory: the time of its end is kept, which stands for all before it."""
        if (entry := self.index.get(key)) is None:
            return
        self.index.touch(key)
        try:
            self._files.mark_used(path_of(self.directory, entry))
        except FileNotFoundError:
            self._drop((entry,), "unreadable")
        except OSError as error:  # what takes no times can still be read
            self._outage.begin(error)

    def _unreadable(self, entry: DiskEntry, error: OSError) -> None:
        """The file goes, unless it is the process that can open nothing just now."""
        if not is_passing(error):
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
            named: dict[bytes, str] = {}
            for entry in gone:  # one file of a tree tells, unless it is broken
                named[entry.root] = named.get(entry.root) or self._model(entry)
            gone = [entry for entry in gone if named[entry.root] == model]
        self._drop(gone, "ordered")
        keys = [entry.key for entry in gone]
        whole = root is None and not model
        self.saved.drop_those_of([key for manifest in self.saved for key in manifest.keys] if whole else keys)
        if whole:
            self.sessions.clear()

    def left_of(self, end: bytes, session: str) -> set[bytes]:
        """Forgets a session; the keys of what it stands on: up to the block `end`, and up to where it is known to have
        ended, but there nothing that others stand on."""
        record = self.sessions.drop(session)
        keys = set() if record is None else self.index.paths(record.all_keys)
        if keys:
            keys -= self.index.paths(key for other in self.sessions.others(session) for key in other.all_keys)
        return keys | self.index.path(end)

    def _model(self, entry: DiskEntry) -> str:
        """Of any file of a tree; "" where that cannot be read."""
        try:
            label = self.codec.read_label(self._files.read(path_of(self.directory, entry), LABEL_BYTES))
        except OSError:
            return ""
        return label.model if isinstance(label, BlockLabel) else ""

    def _drop(self, entries: Iterable[DiskEntry], why: str) -> None:
        for entry in entries:
            self.index.remove(entry.key)
            self.counters.dropped[why] += 1
            self._unlink(path_of(self.directory, entry))

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
            self._outage.begin(error)
