"""Which directories an order over the network may name as models: those of the cache, and those under chosen roots.

A name is a repository id, a path below a root, or the whole path of either. Whatever leads outside of them (`..`, a
link, another disk) is answered like a name that is not there at all, so that nobody learns what else there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from inference.errors import ModelNotFound
from mlxd.catalog.local import LocalModel, cache_root, cached_id, find_cached, local_models, read_model
from mlxd.catalog.names import PLAIN_ID

MAX_PATH_CHARS = 1024
MAX_FOLDERS = 10_000
"""Folders looked at below a root, in all: what is no collection of models must not keep a thread busy."""


def find_allowed(name: str, roots: Sequence[Path]) -> LocalModel:
    """The model of a name. Reads the disk. Raises `ModelNotFound`."""
    for place in _places(name, roots):
        model = read_model(_own_id(name, place), place)
        if model is not None:
            return model
    raise ModelNotFound(
        "There is no such model in the cache or under a model root (--model-root). `GET /api/models/available` lists"
        " what there is.",
        param="model_id",
    )


def available(roots: Sequence[Path]) -> Iterator[LocalModel]:
    """Every model that may be loaded: those of the cache, then two levels of folders below each root."""
    yield from local_models()
    for root in roots:
        for folder in _folders(root):
            name = folder.relative_to(root).as_posix()
            if PLAIN_ID.fullmatch(name) and _inside(folder, [root]) and (found := read_model(name, folder)):
                yield found


def _places(name: str, roots: Sequence[Path]) -> Iterator[Path]:
    if len(name) > MAX_PATH_CHARS or not name.isprintable() or ".." in Path(name).parts:
        return
    if PLAIN_ID.fullmatch(name):
        if (cached := find_cached(name)) is not None:
            yield cached
        candidates = [(root / name, root) for root in roots]
    else:
        candidates = [(Path(name), root) for root in (*roots, cache_root()) if Path(name).is_absolute()]
    for place, root in candidates:
        if _inside(place, [root]):
            yield place


def _inside(place: Path, roots: Sequence[Path]) -> bool:
    """Whether a directory really lies below one of the roots, links followed."""
    try:
        real = place.resolve(strict=True)
        return real.is_dir() and any(real.is_relative_to(root) and real != root for root in map(Path.resolve, roots))
    except (OSError, RuntimeError, ValueError):
        return False


def _own_id(name: str, place: Path) -> str:
    """An id stays; a path is called by its last part, a repository of the cache by its own name."""
    if PLAIN_ID.fullmatch(name):
        return name
    if place.parent.name == "snapshots" and (repo_id := cached_id(place.parent.parent)):
        return repo_id
    return re.sub(r"[^A-Za-z0-9._-]", "-", place.name).lstrip("-._")[:96] or "model"


def _folders(root: Path) -> Iterator[Path]:
    looked = 0
    for folder in sorted(_children(root)):
        for found in (folder, *sorted(_children(folder))):
            looked += 1
            if looked > MAX_FOLDERS:
                return
            yield found


def _children(folder: Path) -> list[Path]:
    try:
        return [child for child in folder.iterdir() if child.is_dir()]
    except OSError:
        return []
