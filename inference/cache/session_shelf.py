"""Where the sessions of earlier processes ended, on the disk: a small file each.

    <directory>/sessions/<name>.json

On the disk's thread. A file is not flushed: a power cut may take the last ones, a killed process loses none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from inference.cache.disk_files import Files
from inference.cache.disk_index import DiskIndex
from inference.cache.saved_manifest import NAME
from inference.cache.session_record import SessionRecord, read_record

FOLDER: Final = "sessions"
MAX_RECORDS: Final = 5000
"""Of a kilobyte each. Beyond them the least recently used is forgotten; what it read stays."""
_MAX_RECORD_BYTES: Final = 1 << 20


class SessionShelf:
    """The records by name. They are read when somebody asks for them: most are never asked for."""

    def __init__(self, directory: Path, files: Files, index: DiskIndex, most: int = MAX_RECORDS) -> None:
        self._directory = directory / FOLDER
        self._files = files
        self._index = index
        self._most = most
        self._names: OrderedDict[str, None] = OrderedDict()
        self._known: dict[str, SessionRecord] = {}
        self._left: set[str] = set()
        self._process = ""

    def __len__(self) -> int:
        return len(self._names)

    def open(self) -> None:
        """Learns the names of what earlier processes left. Raises `OSError`."""
        self._files.sweep_beside(self._directory)
        for file in self._files.by_age(self._directory):
            if file.endswith(".json") and NAME.fullmatch(name := file.removesuffix(".json")):
                self._names[name] = None
        self._limit()
        self._left = set(self._names)

    def was_left(self, name: str) -> bool:
        """Whether it is of an earlier process. From any thread."""
        return name in self._left

    def last(self, name: str) -> SessionRecord | None:
        """What is known of a session, also where nothing of it is there any more."""
        if name in self._names and name not in self._known:
            with suppress(OSError, ValueError):
                found = read_record(self._files.read(self._path(name), _MAX_RECORD_BYTES))
                if found is not None and found.name == name:
                    self._known[name] = found
        return self._known.get(name)

    def left_by_earlier(self, record: SessionRecord) -> tuple[bytes, ...]:
        """Its keys, but for those of this process, which still has in memory what ends behind its whole blocks."""
        return record.earlier if record.by == self._process else record.keys

    def get(self, name: str) -> SessionRecord | None:
        """What is known of a session, if anything of it is still there."""
        found = self.last(name)
        return found if found is not None and any(key in self._index for key in found.keys) else None

    def keep(self, record: SessionRecord, passed: Collection[bytes] = ()) -> None:
        """In the place of what was known of its session before, having `passed` these blocks. Raises `OSError`."""
        record = record.behind(self.last(record.name), passed)
        self._process = record.by
        self._files.jot(self._path(record.name), record.packed())
        self._known[record.name] = record
        self._names[record.name] = None
        self._names.move_to_end(record.name)
        self._limit()

    def drop(self, name: str) -> SessionRecord | None:
        """Forgets a session. Raises `OSError`."""
        record = self.last(name)
        if name in self._names:
            self._files.remove(self._path(name))
            del self._names[name]
        self._left.discard(name)
        self._known.pop(name, None)
        return record

    def clear(self) -> None:
        """Forgets all. Raises `OSError`."""
        for name in tuple(self._names):
            self.drop(name)

    def others(self, name: str) -> Iterator[SessionRecord]:
        """All but one. The first time it reads them."""
        return (record for other in tuple(self._names) if other != name and (record := self.last(other)) is not None)

    def _limit(self) -> None:
        while len(self._names) > self._most:
            oldest = next(iter(self._names))
            del self._names[oldest]
            self._left.discard(oldest)
            self._known.pop(oldest, None)
            with suppress(OSError):
                self._files.remove(self._path(oldest))

    def _path(self, name: str) -> Path:
        if NAME.fullmatch(name) is None:
            raise ValueError("not the name of a conversation")
        return self._directory / f"{name}.json"
