"""Reads every file of a disk's tier and says what is wrong with it. Changes nothing, also beside a running process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.cache.disk import LAYOUT
from inference.cache.disk_files import Files, Found
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_records import KEY_BYTES, LABEL_BYTES, BlockCodec, BlockLabel, Flaw, Stored

UNREADABLE: Final = "unreadable"
NOT_OURS: Final = "not_ours"
"""Its name is none that is given here: what a crash left while it wrote, or somebody else's."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A file. `flaw` is "" for a good one; model and tokens are what its label says, "" and 0 where it has none."""

    path: Path
    nbytes: int
    changed_s: float
    model: str = ""
    tokens: int = 0
    flaw: str = ""


def check(directory: Path, codec: BlockCodec, *, whole: bool, files: Files | None = None) -> Iterator[Checked]:
    """All files, each read to its last byte if `whole`, else its label alone. What goes under way is left out.

    Raises `OSError` when the directory cannot be listed; one that is not there has no files.
    """
    files = files or Files()
    for tree in sorted(files.folders(directory / LAYOUT)):
        for found in files.scan(directory / LAYOUT / tree):
            path = directory / LAYOUT / tree / found.folder / found.name
            if (checked := _checked(path, tree, found, codec, files, whole)) is not None:
                yield checked


def _checked(path: Path, tree: str, found: Found, codec: BlockCodec, files: Files, whole: bool) -> Checked | None:
    changed_s = found.changed_ns / 1e9
    entry = _entry(tree, found)
    if entry is None:
        return Checked(path, found.nbytes, changed_s, flaw=NOT_OURS)
    try:
        raw = files.read(path, -1 if whole else LABEL_BYTES)
    except FileNotFoundError:
        return None
    except OSError:
        return Checked(path, found.nbytes, changed_s, flaw=UNREADABLE)
    read = codec.decode(raw) if whole else codec.read_label(raw)
    label = read.label if isinstance(read, Stored) else read
    if isinstance(label, Flaw):
        return Checked(path, found.nbytes, changed_s, flaw=str(label))
    flaw = "" if _is_named_by(label, entry) else str(Flaw.FOREIGN)
    return Checked(path, found.nbytes, changed_s, label.model, entry.tokens, flaw)


def _entry(tree: str, found: Found) -> DiskEntry | None:
    try:
        root = bytes.fromhex(tree)
    except ValueError:
        return None
    return DiskEntry.named(root, found.folder, found.name, found.nbytes) if len(root) == KEY_BYTES else None


def _is_named_by(label: BlockLabel, entry: DiskEntry) -> bool:
    said = DiskEntry.of(label, entry.nbytes)
    return label.is_sound and (said.root, said.name) == (entry.root, entry.name)
