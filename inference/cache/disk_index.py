"""What lies on the disk, from the files' names alone: found by hash, by what it stands behind, and by last use.

Nothing before a block is ever less recently used than the block itself, so whoever goes first in the order has nothing
behind it, and a conversation leaves from its end.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

from inference.cache.blocks import BLOCK_TOKENS
from inference.cache.disk_records import KEY_BYTES, BlockLabel, Kind

_KEY = rf"([0-9a-f]{{{2 * KEY_BYTES}}})"
_NUMBER = r"(0|[1-9][0-9]{0,9})"
_NAME = re.compile(rf"{_KEY}-{_KEY}-{_NUMBER}-{_NUMBER}\.({'|'.join(Kind)})")


@dataclass(slots=True, eq=False)
class DiskEntry:
    """A file. Keys are the first 16 bytes of hashes: of itself, of what it stands behind, of its tree.

    `ids` and `exact` are known once its label was read. `was_read`: since it was written, or since the start.
    """

    kind: Kind
    root: bytes
    parent: bytes
    key: bytes
    start: int
    end: int
    nbytes: int
    ids: bytes | None = field(default=None, repr=False)
    exact: bool | None = None
    was_read: bool = False

    @classmethod
    def of(cls, label: BlockLabel, nbytes: int) -> Self:
        parent = label.parent[:KEY_BYTES]
        root, span = label.root[:KEY_BYTES], (label.start, label.end)
        return cls(label.kind, root, parent, label.key, *span, nbytes, label.ids, label.exact)

    @classmethod
    def named(cls, root: bytes, folder: str, name: str, nbytes: int) -> Self | None:
        """From a file's name; None for a name that is not one of ours, as that of a block of no token."""
        if (parts := _NAME.fullmatch(name)) is None or parts[2][:2] != folder:
            return None
        start, end = int(parts[3]), int(parts[4])
        if not start <= end <= start + BLOCK_TOKENS or start % BLOCK_TOKENS:
            return None
        if start == end and parts[5] == Kind.BLOCK:
            return None
        return cls(Kind(parts[5]), root, bytes.fromhex(parts[1]), bytes.fromhex(parts[2]), start, end, nbytes)

    def is_named_by(self, label: BlockLabel) -> bool:
        """Whether a file that says this of itself has the name that it should have, and is named by what it holds."""
        told = (label.kind, label.root[:KEY_BYTES], label.parent[:KEY_BYTES], label.key, label.start, label.end)
        return label.is_sound and told == (self.kind, self.root, self.parent, self.key, self.start, self.end)

    @property
    def folder(self) -> str:
        return self.key[:1].hex()

    @property
    def name(self) -> str:
        return f"{self.parent.hex()}-{self.key.hex()}-{self.start}-{self.end}.{self.kind}"

    @property
    def tokens(self) -> int:
        return self.end - self.start

    def is_before(self, behind: DiskEntry) -> bool:
        """Whether what says to stand behind this can: it is a block that ends where that begins."""
        return self.kind is Kind.BLOCK and self.end == behind.start

    @property
    def stands_first(self) -> bool:
        """Whether there is nothing before it."""
        return self.parent == self.root


class DiskIndex:
    """One thread changes it. `in`, `len`, `is_exact`, `has_behind` and `nbytes` may be asked from any."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, DiskEntry] = OrderedDict()
        self._behind: dict[bytes, dict[bytes, DiskEntry]] = {}
        self._pins: Counter[bytes] = Counter()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[DiskEntry]:
        """The least recently used first."""
        return iter(self._entries.values())

    def is_exact(self, key: bytes) -> bool:
        """Whether a file is known to be there and to hold what a cold prefill would have made, in every bit."""
        entry = self._entries.get(key)
        return entry is not None and entry.exact is True

    def has_behind(self, parent: bytes) -> bool:
        """Whether anything stands directly behind a block or a root."""
        return parent in self._behind

    def get(self, key: bytes) -> DiskEntry | None:
        return self._entries.get(key)

    def behind(self, parent: bytes) -> list[DiskEntry]:
        """What stands directly behind a block or a root, in the order in which it came."""
        return list(self._behind.get(parent, {}).values())

    def oldest(self) -> DiskEntry | None:
        """The least recently used file that nobody has pinned. Pinned ones that stand in the way count as used."""
        passed: set[bytes] = set()
        while (entry := next(iter(self._entries.values()), None)) is not None and entry.key in self._pins:
            if entry.key in passed:
                return None
            passed.add(entry.key)
            self.touch(entry.key)
        return entry

    def pin(self, keys: Iterable[bytes]) -> None:
        """Keeps files from being the oldest, here already or not, until they are unpinned as often.

        With a file, all before it must be pinned.
        """
        for key in keys:
            self._pins[key] += 1

    def unpin(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._pins[key] -= 1
            if not self._pins[key]:
                del self._pins[key]

    def is_pinned(self, key: bytes) -> bool:
        return key in self._pins

    def fill(self, found: Iterable[tuple[DiskEntry, int]]) -> None:
        """Takes in files with the time of their last use, as a scan of the disk gives them."""
        used = {entry.key: when for entry, when in found}
        entries = {entry.key: entry for entry, _ in found}
        deepest_first = sorted(entries.values(), key=_depth, reverse=True)
        for entry in deepest_first:
            if entry.parent in used:
                used[entry.parent] = max(used[entry.parent], used[entry.key])
        for entry in sorted(deepest_first, key=lambda one: used[one.key]):
            self._add(entry)

    def add(self, entry: DiskEntry, *, first_to_go: bool = False) -> None:
        """A file that was just written, in the place of one of the same key. Nothing may stand behind it that is used
        less, so what goes first is behind nothing that goes earlier.
        """
        self.remove(entry.key)
        self._add(entry)
        if first_to_go and not self.has_behind(entry.key):
            self._entries.move_to_end(entry.key, last=False)
        else:
            self.touch(entry.key)

    def _add(self, entry: DiskEntry) -> None:
        self._entries[entry.key] = entry
        self._behind.setdefault(entry.parent, {})[entry.key] = entry
        self.nbytes += entry.nbytes

    def remove(self, key: bytes) -> DiskEntry | None:
        """What stands behind it stays: it can be reached again when the block is written again."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            siblings = self._behind[entry.parent]
            del siblings[key]
            if not siblings:
                del self._behind[entry.parent]
            self.nbytes -= entry.nbytes
        return entry

    def touch(self, key: bytes) -> None:
        """Marks a file and all before it as used now."""
        for entry in self.upwards(key):
            self._entries.move_to_end(entry.key)

    def path(self, key: bytes) -> set[bytes]:
        """The keys of a file and of all before it that are here."""
        return self.paths((key,))

    def paths(self, ends: Iterable[bytes]) -> set[bytes]:
        """The same of many. What several stand on is gone through once."""
        found: set[bytes] = set()
        for end in ends:
            for entry in self.upwards(end):
                if entry.key in found:
                    break
                found.add(entry.key)
        return found

    def upwards(self, key: bytes) -> Iterator[DiskEntry]:
        """A file and those before it. Each step is nearer to the root: names can be anybody's, and none of them makes
        this go on for ever.
        """
        entry = self._entries.get(key)
        while entry is not None:
            yield entry
            before = self._entries.get(entry.parent)
            entry = before if before is not None and before.is_before(entry) else None

    def from_here(self, key: bytes) -> list[DiskEntry]:
        """A file, if it is here, and all that stands behind it, deepest first."""
        found = self.behind(key) if (entry := self._entries.get(key)) is None else [entry]
        for entry in found:
            found += [behind for behind in self.behind(entry.key) if entry.is_before(behind)]
        return found[::-1]

    def unreachable(self) -> list[DiskEntry]:
        """Files behind a block that is not here: no prompt can begin with them."""
        reached: set[bytes] = set()
        for entry in sorted(self._entries.values(), key=_depth):
            if entry.stands_first or entry.parent in reached:
                reached.add(entry.key)
        return [entry for entry in self._entries.values() if entry.key not in reached]


def _depth(entry: DiskEntry) -> tuple[int, bool]:
    """Before all that stands behind it: a state comes after the block that ends where it begins."""
    return entry.start, entry.kind is Kind.STATE
