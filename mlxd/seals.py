"""Whether a model's files are still those that were first read: weights, tokenizer and template must be of one piece.

A model that left memory is loaded again for a request. If somebody has changed its directory meanwhile, it is another
model under the same name, and its new weights would stand beside its old tokenizer; that takes an admin's order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from inference.errors import ModelError

READ: Final = frozenset((".json", ".jinja", ".model", ".safetensors", ".txt"))

type Seal = tuple[tuple[str, int, int], ...]
"""(name, bytes, time of the last change in ns) of every file that is read."""


class ModelChanged(ModelError):
    """The directory does not hold what it held. The same request will be refused again."""

    code = "model_changed"


class Seals:
    """What was first seen of each directory. From any thread."""

    def __init__(self) -> None:
        self._seen: dict[Path, Seal] = {}

    def check(self, path: Path) -> None:
        """Remembers a directory, or compares it. Raises `ModelChanged`."""
        now = seal_of(path)
        if self._seen.setdefault(path, now) != now:
            raise ModelChanged(
                "The model's files have changed since they were first read; an admin has to load it anew."
            )

    def forget(self, path: Path) -> None:
        """Whatever the directory holds next time is right."""
        self._seen.pop(path, None)


def seal_of(path: Path) -> Seal:
    """Of a directory that cannot be read: an empty one; whoever loads it will say what is wrong."""
    try:
        files = sorted(file for file in path.iterdir() if file.suffix in READ)
        states = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)
