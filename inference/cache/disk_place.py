"""Where files lie, and which there are.

<directory>/v1/<tree>/<first byte>/<what it stands behind>-<itself>-<start>-<end>.kv
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.cache.disk_files import Files
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_limits import MAX_FILE_BYTES
from inference.cache.disk_records import KEY_BYTES

LAYOUT: Final = "v1"


@dataclass(frozen=True, slots=True)
class Lying:
    """A file below the layout's directory. `entry` is what its name says, None where it says nothing of ours."""

    path: Path
    nbytes: int
    changed_ns: int
    entry: DiskEntry | None

    @property
    def is_too_large(self) -> bool:
        """Nobody wrote that here: it is not even looked into."""
        return self.nbytes > MAX_FILE_BYTES


def path_of(directory: Path, entry: DiskEntry) -> Path:
    return directory / LAYOUT / entry.root.hex() / entry.folder / entry.name


def lying(directory: Path, files: Files) -> Iterator[Lying]:
    """Every file of every tree, by names alone. Raises `OSError`; a directory that is not there has none."""
    for tree in sorted(files.folders(directory / LAYOUT)):
        root = _key(tree)
        for found in files.scan(directory / LAYOUT / tree):
            entry = None if root is None else DiskEntry.named(root, found.folder, found.name, found.nbytes)
            path = directory / LAYOUT / tree / found.folder / found.name
            yield Lying(path, found.nbytes, found.changed_ns, entry)


def sweep_other_layouts(directory: Path, files: Files) -> int:
    """Removes those of earlier and later versions: nobody reads them here, and they count towards no limit."""
    others = [name for name in files.folders(directory) if name != LAYOUT and name[:1] == "v" and name[1:].isdigit()]
    for name in others:
        files.remove_folder(directory / name)
    return len(others)


def _key(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else None
    except ValueError:
        return None
