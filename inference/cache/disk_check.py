"""Reads every file of a disk's tier and says what is wrong with it. Changes nothing, also beside a running process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from inference.cache.disk_files import Files
from inference.cache.disk_place import Lying, lying
from inference.cache.disk_records import LABEL_BYTES, BlockCodec, Flaw, Stored

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
    for file in lying(directory, files):
        if (checked := _checked(file, codec, files, whole)) is not None:
            yield checked


def _checked(file: Lying, codec: BlockCodec, files: Files, whole: bool) -> Checked | None:
    changed_s = file.changed_ns / 1e9
    flawed = partial(Checked, file.path, file.nbytes, changed_s)
    if file.entry is None:
        return flawed(flaw=NOT_OURS)
    if file.is_too_large:
        return flawed(flaw=str(Flaw.CORRUPT))
    try:
        raw = files.read(file.path, file.nbytes + 1 if whole else LABEL_BYTES)
    except FileNotFoundError:
        return None
    except OSError:
        return flawed(flaw=UNREADABLE)
    read = codec.decode(raw) if whole else codec.read_label(raw)
    label = read.label if isinstance(read, Stored) else read
    if isinstance(label, Flaw):
        return flawed(flaw=str(label))
    flaw = "" if file.entry.is_named_by(label) else str(Flaw.FOREIGN)
    return Checked(file.path, file.nbytes, changed_s, label.model, file.entry.tokens, flaw)
