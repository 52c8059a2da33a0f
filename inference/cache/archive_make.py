"""What of a disk's tier goes into a file that carries it elsewhere. Only reads, also beside a running process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from inference.cache.archive import ArchiveWriter, Tree, in_order
from inference.cache.disk_files import Files
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_place import lying, path_of
from inference.cache.disk_records import KEY_BYTES, LABEL_BYTES, BlockCodec, BlockLabel, Flaw
from inference.cache.saved_manifest import Manifest, read_manifest
from inference.cache.saved_shelf import FOLDER

_MAX_MANIFEST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Choice:
    """Files, each behind what it stands behind, and the saved conversations that go with them."""

    entries: tuple[DiskEntry, ...]
    conversations: tuple[Manifest, ...]

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries)


@dataclass(slots=True)
class Made:
    """What came of it: `left_out` counts files by what is wrong with them, `missing` what has gone under way."""

    files: int = 0
    tokens: int = 0
    nbytes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


class Shelf:
    """A directory of the tier, looked at as it is now."""

    def __init__(self, directory: Path, codec: BlockCodec, files: Files | None = None) -> None:
        self._directory = directory
        self._codec = codec
        self._files = files or Files()

    def saved(self) -> list[Manifest]:
        """The saved conversations. Raises `OSError`."""
        paths = sorted((self._directory / FOLDER).glob("*.json"))
        found = [read_manifest(self._files.read(path, _MAX_MANIFEST_BYTES)) for path in paths]
        return [manifest for manifest in found if manifest is not None]

    def everything(self, model: str = "") -> Choice:
        """All there is, or all of one model, by the name under which it was computed. Raises `OSError`."""
        found = self._lying()
        if model:
            named: dict[bytes, str] = {}
            for entry in found:  # one file of a tree tells, unless it is broken
                named[entry.root] = named.get(entry.root) or self._model(entry)
            found = [entry for entry in found if named[entry.root] == model]
        held = {entry.root for entry in found}
        saved = [manifest for manifest in self.saved() if manifest.tree[:KEY_BYTES] in held]
        return Choice(tuple(in_order(found)), tuple(saved))

    def conversations(self, named: Callable[[Manifest], bool]) -> Choice:
        """Saved conversations with what they hold. Raises `OSError`."""
        saved = [manifest for manifest in self.saved() if named(manifest)]
        held = {(manifest.tree[:KEY_BYTES], key) for manifest in saved for key in manifest.keys}
        return Choice(
            tuple(in_order(entry for entry in self._lying() if (entry.root, entry.key) in held)), tuple(saved)
        )

    def write(self, choice: Choice, file: IO[bytes], made_s: float, made: Made) -> Iterator[None]:
        """Puts every file that is whole into an archive, a step each; counts go into `made`. Raises `OSError`."""
        writer, trees = ArchiveWriter(file, made_s), dict[bytes, Tree]()
        for entry in choice.entries:
            found = self._read(entry)
            if isinstance(found, str):
                made.left_out[found] += 1
            else:
                raw, label = found
                trees.setdefault(label.root, Tree(label.root, label.model, label.weights, label.settings))
                writer.add(entry, raw)
                made.files, made.tokens, made.nbytes = (
                    made.files + 1,
                    made.tokens + entry.tokens,
                    made.nbytes + len(raw),
                )
            yield
        writer.finish(trees.values(), choice.conversations)

    def _read(self, entry: DiskEntry) -> tuple[bytes, BlockLabel] | str:
        """A file and its label, or what is wrong with it."""
        try:
            raw = self._files.read(path_of(self._directory, entry), entry.nbytes + 1)
        except FileNotFoundError:
            return "missing"
        except OSError:
            return "unreadable"
        found = self._codec.decode(raw)
        if isinstance(found, Flaw):
            return str(found)
        return (raw, found.label) if entry.is_named_by(found.label) else str(Flaw.FOREIGN)

    def _model(self, entry: DiskEntry) -> str:
        """Of any file of a tree; "" where that cannot be read."""
        try:
            label = self._codec.read_label(self._files.read(path_of(self._directory, entry), LABEL_BYTES))
        except OSError:
            return ""
        return label.model if isinstance(label, BlockLabel) else ""

    def _lying(self) -> list[DiskEntry]:
        return [file.entry for file in lying(self._directory, self._files) if file.entry is not None]
