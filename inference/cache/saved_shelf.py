"""Saved conversations on the disk: a manifest each, whose files are pinned, so that no eviction takes them.

    <directory>/saved/<name>.json

On the disk's thread. A manifest is written after all it names, so there is none whose blocks were never there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from inference.cache.disk_files import Files
from inference.cache.disk_index import DiskIndex
from inference.cache.saved_manifest import NAME, Manifest, is_outdated, read_manifest

FOLDER: Final = "saved"
MAX_SAVED: Final = 1000
_MAX_MANIFEST_BYTES: Final = 1 << 28


class SavedShelf:
    """The manifests by name, and the pins they put on `index`."""

    def __init__(self, directory: Path, files: Files, index: DiskIndex) -> None:
        self._directory = directory / FOLDER
        self._files = files
        self._index = index
        self._manifests: dict[str, Manifest] = {}

    def __len__(self) -> int:
        return len(self._manifests)

    def __iter__(self) -> Iterator[Manifest]:
        return iter(tuple(self._manifests.values()))

    def get(self, name: str) -> Manifest | None:
        return self._manifests.get(name)

    def open(self) -> int:
        """Reads what earlier processes saved; how many files were no manifests. These go. Raises `OSError`.

        One that cannot be read now is left alone, and pins nothing.
        """
        self._files.sweep_beside(self._directory)
        flawed = 0
        for path in sorted(self._directory.glob("*.json")):
            try:
                raw = self._files.read(path, _MAX_MANIFEST_BYTES)
            except OSError:
                continue
            manifest = read_manifest(raw)
            if manifest is not None and manifest.name == path.stem:
                if is_outdated(raw):
                    self._renew(path, manifest)
                self._take(manifest)
            else:
                flawed += 1
                self._files.remove(path)
        return flawed

    def _renew(self, path: Path, manifest: Manifest) -> None:
        """What an earlier version wrote holds a salt, which is not to lie on a disk. Tried at each start."""
        with suppress(OSError):
            self._files.write(path, [manifest.packed()])

    def keep(self, manifest: Manifest) -> None:
        """On the disk before it counts; the one of its name before it is replaced. Raises `OSError`.

        A write may fail behind the renaming: a new one then goes, and one that replaced another counts.
        """
        path = self._path(manifest.name)
        try:
            self._files.write(path, [manifest.packed()])
        except OSError:
            with suppress(OSError):
                if manifest.name not in self._manifests:
                    self._files.remove(path)
                elif self._files.read(path) == manifest.packed():
                    self._replace(manifest)
            raise
        self._replace(manifest)

    def _replace(self, manifest: Manifest) -> None:
        self._release(manifest.name)
        self._take(manifest)

    def drop(self, name: str) -> Manifest | None:
        """Its files are like any others again. Raises `OSError`, and then it is still there."""
        if name not in self._manifests:
            return None
        self._files.remove(self._path(name))
        return self._release(name)

    def drop_those_of(self, keys: Iterable[bytes]) -> None:
        """Those of whom some files were removed on order. Raises `OSError`."""
        gone = set(keys)
        for manifest in self:
            if not gone.isdisjoint(manifest.keys):
                self.drop(manifest.name)

    def nbytes(self, *, without: str = "") -> int:
        """What the files of all hold together, each counted once, but for those that only `without` pins."""
        keys = {key for manifest in self if manifest.name != without for key in manifest.keys}
        return self.held_bytes(keys)

    def held_bytes(self, keys: Iterable[bytes]) -> int:
        """What there is of these files."""
        return sum(entry.nbytes for key in keys if (entry := self._index.get(key)) is not None)

    def _take(self, manifest: Manifest) -> None:
        self._manifests[manifest.name] = manifest
        self._index.pin(manifest.keys)

    def _release(self, name: str) -> Manifest | None:
        manifest = self._manifests.pop(name, None)
        if manifest is not None:
            self._index.unpin(manifest.keys)
        return manifest

    def _path(self, name: str) -> Path:
        if NAME.fullmatch(name) is None:
            raise ValueError("not the name of a conversation")
        return self._directory / f"{name}.json"
