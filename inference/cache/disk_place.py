"""Where files lie, and which there are.

<directory>/v1/<tree>/<first byte>/<what it stands behind>-<itself>-<start>-<end>.kv
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from inference.cache.disk_files import Files, Found
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_limits import MAX_FILE_BYTES
from inference.cache.disk_records import KEY_BYTES

LAYOUT: Final = "v1"


class Lying(NamedTuple):
    """A file below the layout's directory, in the `tree` of that name. `entry` is what its own name says, None where it
    says nothing of ours.

    A start makes 100,000 of them, and no path for any: that alone took as long as all else.
    """

    tree: Path
    found: Found
    entry: DiskEntry | None

    @property
    def path(self) -> Path:
        return self.tree / self.found.folder / self.found.name

    @property
    def nbytes(self) -> int:
        return self.found.nbytes

    @property
    def changed_ns(self) -> int:
        return self.found.changed_ns

    @property
    def is_too_large(self) -> bool:
        """Nobody wrote that here: it is not even looked into."""
        return self.nbytes > MAX_FILE_BYTES


def path_of(directory: Path, entry: DiskEntry) -> Path:
    return directory / LAYOUT / entry.root.hex() / entry.folder / entry.name


def lying(directory: Path, files: Files) -> Iterator[Lying]:
    """Every file of every tree, by names alone. Raises `OSError`; a directory that is not there has none."""
    for tree in sorted(files.folders(directory / LAYOUT)):
        root, place = _key(tree), directory / LAYOUT / tree
        for found in files.scan(place):
            entry = None if root is None else DiskEntry.named(root, found.folder, found.name, found.nbytes)
            yield Lying(place, found, entry)


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
