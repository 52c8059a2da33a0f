"""What a repository holds at one commit, and what of it a model needs: plain files of known kinds, with their digests.

Only the top of a repository is listed; nothing below it is read by anybody. Code and pickles stay where they are.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from inference.errors import InvalidModel, UnsafeModel
from mlxd.catalog.fetch.failures import DownloadFailed
from mlxd.catalog.fetch.hub import Hub
from mlxd.catalog.names import COMMIT, DIGESTS, FILE

KINDS: Final = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Weights, configs, templates and vocabularies."""
MAX_FILES: Final = 10_000
MAX_PAGES: Final = 1_000
MAX_FILE_BYTES: Final = 1 << 44


@dataclass(frozen=True, slots=True)
class Digest:
    """How a file is known: git's own SHA-1 of a small one, SHA-256 of a large one. In hexadecimal."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of the commit."""

    name: str
    size_bytes: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Listing:
    """The files to fetch of a repository at a commit that can never mean anything else."""

    repo_id: str
    commit: str
    files: tuple[RemoteFile, ...]


def read_listing(hub: Hub, repo_id: str, revision: str = "main") -> Listing:
    """Pins the revision first. Raises `ModelNotFound`, `InvalidModel`, `UnsafeModel` or `DownloadFailed`."""
    about, _ = hub.read_json(hub.url(f"/api/models/{repo_id}/revision/{revision}"))
    commit = about.get("sha") if isinstance(about, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise DownloadFailed(f"The hub does not say which commit {repo_id} is at.")
    entries = [entry for entry in _entries(hub, repo_id, commit) if entry.get("type") == "file"]
    names = [str(entry.get("path")) for entry in entries]
    wanted = [entry for name, entry in zip(names, entries, strict=True) if _is_wanted(name)]
    _refuse_no_model(repo_id, names)
    _refuse_collisions(repo_id, names)
    return Listing(repo_id, commit, tuple(_file(entry) for entry in wanted))


def _entries(hub: Hub, repo_id: str, commit: str) -> Iterator[dict[str, Any]]:
    """Page by page, up to more than anybody has."""
    page = hub.url(f"/api/models/{repo_id}/tree/{commit}")
    count = 0
    for _ in range(MAX_PAGES):
        entries, following = hub.read_json(page)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DownloadFailed("The hub's listing of files is none.")
        count += len(entries)
        if count > MAX_FILES:
            break
        yield from entries
        if following is None:
            return
        page = following
    raise InvalidModel(f"{repo_id} holds more than {MAX_FILES} files.")


def _is_wanted(name: str) -> bool:
    return bool(FILE.fullmatch(name)) and name.endswith(KINDS)


def _refuse_no_model(repo_id: str, names: list[str]) -> None:
    """Before anything is fetched: it may be many gigabytes."""
    if "config.json" in names and any(_is_wanted(name) and name.endswith(".safetensors") for name in names):
        return
    if any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names):
        raise UnsafeModel(f"{repo_id} has its weights only pickled; they are never loaded, so they are not fetched.")
    raise InvalidModel(f"{repo_id} has no config.json with safetensors weights, so it is not an MLX model.")


def _refuse_collisions(repo_id: str, names: list[str]) -> None:
    """Two names that one file system takes for one: whoever comes last would decide what the other holds."""
    counted = Counter(_folded(name) for name in names)
    for name in names:
        if _is_wanted(name) and counted[_folded(name)] > 1:
            raise UnsafeModel(f"{repo_id} has two files that some disks would take for one: {name}.")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _file(entry: dict[str, Any]) -> RemoteFile:
    """Sizes and digests of the large file itself where the commit holds only a pointer to it."""
    name, large = entry["path"], entry.get("lfs")
    kind, said = ("sha256", large) if isinstance(large, dict) else ("sha1", entry)
    digest, size = said.get("oid"), said.get("size")
    if not isinstance(digest, str) or not DIGESTS[kind].fullmatch(digest):
        raise DownloadFailed(f"The hub does not say what the digest of {name} is.")
    if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
        raise DownloadFailed(f"The hub does not say how large {name} is.")
    return RemoteFile(name, size, Digest(kind, digest))
