"""A file that carries stored prefixes elsewhere: a plain tar of the disk's own files, and a manifest behind them.

    <tree>/<first byte>/<name>          a block or a state, to the byte as it lies on the disk
    manifest-<its SHA-256>.json         what was put in: each file's size and digest, trees, saved conversations

Nothing is ever unpacked. A reader looks at the headers, finds the manifest, and reads the parts that it names and whose
names are ones that are given here; so a path, a link or a size in the file can lead nowhere and costs nothing.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, Self

from inference.cache.disk_index import DiskEntry
from inference.cache.disk_records import KEY_BYTES
from inference.cache.saved_manifest import Manifest, read_manifest

FORMAT: Final = "mlxd-prefixes-1"
RECORD_BYTES: Final = tarfile.BLOCKSIZE
MAX_MANIFEST_BYTES: Final = 1 << 26
MAX_PART_BYTES: Final = 1 << 30
MAX_MEMBERS: Final = 2_000_000
_MANIFEST: Final = re.compile(r"manifest-([0-9a-f]{64})\.json")
_ROOT_BYTES: Final = 32
_EMPTY: Final = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


class NotAnArchive(ValueError):
    """The file is none of these, or not all of it. The message is ready to show."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What the files of a tree were computed by. `root` is its whole key, in which all of this is, and a salt."""

    root: bytes
    model: str
    weights: str
    settings: str


@dataclass(frozen=True, slots=True)
class Part:
    """A file as the manifest names it: `entry` is read from its name, `digest` is over every byte of it."""

    entry: DiskEntry
    digest: bytes = field(repr=False)

    @property
    def name(self) -> str:
        return part_name(self.entry)


@dataclass(frozen=True, slots=True)
class Contents:
    """The manifest. `parts` stand in the order of the file: each behind what it stands behind."""

    trees: tuple[Tree, ...]
    conversations: tuple[Manifest, ...]
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        return sum(part.entry.nbytes for part in self.parts)

    def packed(self) -> bytes:
        trees = [[tree.root.hex(), tree.model, tree.weights, tree.settings] for tree in self.trees]
        told = [json.loads(manifest.packed()) for manifest in self.conversations]
        parts = [[part.name, part.entry.nbytes, part.digest.hex()] for part in self.parts]
        return json.dumps({"format": FORMAT, "trees": trees, "conversations": told, "parts": parts}).encode()


def part_name(entry: DiskEntry) -> str:
    return f"{entry.root.hex()}/{entry.folder}/{entry.name}"


def entry_named(name: str, nbytes: int) -> DiskEntry | None:
    """None for a name that is not given here: any with a way out of its folder is such a one."""
    parts = name.split("/")
    try:
        root = bytes.fromhex(parts[0])
    except ValueError:
        return None
    if len(parts) != 3 or parts[0] != root.hex() or len(root) != KEY_BYTES:
        return None
    return DiskEntry.named(root, parts[1], parts[2], nbytes)


# --- writing --------------------------------------------------------------------------------------------------------


class ArchiveWriter:
    """Parts in order, then `finish`. Raises `OSError` from the file."""

    def __init__(self, file: IO[bytes], made_s: float) -> None:
        self._file = file
        self._made_s = int(made_s)
        self._parts: list[Part] = []

    def add(self, entry: DiskEntry, raw: bytes) -> None:
        self._put(part_name(entry), raw)
        self._parts.append(Part(entry, sha256(raw).digest()))

    def finish(self, trees: Iterable[Tree], conversations: Iterable[Manifest]) -> Contents:
        contents = Contents(tuple(trees), tuple(conversations), tuple(self._parts))
        packed = contents.packed()
        self._put(f"manifest-{sha256(packed).hexdigest()}.json", packed)
        self._file.write(bytes(2 * RECORD_BYTES))
        return contents

    def _put(self, name: str, raw: bytes) -> None:
        record = tarfile.TarInfo(name)
        record.size, record.mode, record.mtime = len(raw), 0o600, self._made_s
        self._file.write(record.tobuf(tarfile.USTAR_FORMAT))
        self._file.write(raw)
        self._file.write(bytes(-len(raw) % RECORD_BYTES))


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Member:
    at: int
    nbytes: int


class Archive:
    """An open file and what it holds. `foreign` counts members that its manifest does not name. Use it as a context."""

    def __init__(self, file: IO[bytes]) -> None:
        """Raises `NotAnArchive` or `OSError`."""
        self._file = file
        members = dict(_members(file))
        manifests = [name for name in members if _MANIFEST.fullmatch(name)]
        if len(manifests) != 1:
            raise NotAnArchive("It has no manifest: it is not an export of mlxd, or its end is missing.")
        self.contents = self._contents(manifests[0], members.pop(manifests[0]))
        self._members: Mapping[str, _Member] = members
        self.foreign = len(members.keys() - {part.name for part in self.contents.parts})

    @classmethod
    def open(cls, path: Path, *, follow: bool = True) -> Self:
        """Raises `NotAnArchive` or `OSError`."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        file = os.fdopen(os.open(path, flags), "rb")
        try:
            return cls(file)
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, part: Part) -> bytes | None:
        """Every byte of a part, as it was put in; None where it is not that. Raises `OSError`."""
        member = self._members.get(part.name)
        if member is None or member.nbytes != part.entry.nbytes or member.nbytes > MAX_PART_BYTES:
            return None
        raw = self._read(member)
        return raw if sha256(raw).digest() == part.digest else None

    def holds(self, part: Part) -> bool:
        """Whether there is anything of this name at all."""
        return part.name in self._members

    def _read(self, member: _Member) -> bytes:
        self._file.seek(member.at)
        return self._file.read(member.nbytes)

    def _contents(self, name: str, member: _Member) -> Contents:
        raw = self._read(member) if member.nbytes <= MAX_MANIFEST_BYTES else b""
        if name != f"manifest-{sha256(raw).hexdigest()}.json":
            raise NotAnArchive("Its manifest is not what was written.")
        try:
            return _read_contents(json.loads(raw))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise NotAnArchive("Its manifest is of another version, or not one of mlxd.") from None


def _members(file: IO[bytes]) -> Iterator[tuple[str, _Member]]:
    """Files by name. What follows a header that cannot be read is not found, for nothing says where it begins.

    Links, folders and devices are names without bytes.
    """
    end, at = file.seek(0, os.SEEK_END), 0
    for _ in range(MAX_MEMBERS):
        file.seek(at)
        record = file.read(RECORD_BYTES)
        try:
            found = tarfile.TarInfo.frombuf(record, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError):
            return
        at += RECORD_BYTES
        size = 0 if found.type in _EMPTY else found.size
        if not 0 <= size <= end - at:
            return
        yield found.name, _Member(at, size)
        at += -(-size // RECORD_BYTES) * RECORD_BYTES


def _read_contents(told: dict[str, Any]) -> Contents:
    if told["format"] != FORMAT:
        raise ValueError("another format")
    return Contents(
        tuple(_tree(*fields) for fields in told["trees"]),
        tuple(_conversation(fields) for fields in told["conversations"]),
        tuple(_part(*fields) for fields in told["parts"]),
    )


def _tree(root: str, model: str, weights: str, settings: str) -> Tree:
    found = Tree(bytes.fromhex(root), model, weights, settings)
    if len(found.root) != _ROOT_BYTES or not all(isinstance(text, str) for text in (model, weights, settings)):
        raise ValueError("not a tree")
    return found


def _conversation(fields: Any) -> Manifest:
    found = read_manifest(json.dumps(fields).encode())
    if found is None:
        raise ValueError("not a conversation")
    return found


def _part(name: str, nbytes: int, digest: str) -> Part:
    entry = entry_named(name, nbytes)
    if entry is None or type(nbytes) is not int or nbytes < 0:
        raise ValueError("not a part")
    return Part(entry, bytes.fromhex(digest))


def in_order(entries: Iterable[DiskEntry]) -> Sequence[DiskEntry]:
    """Each behind what it stands behind, tree by tree."""
    return sorted(entries, key=lambda entry: (entry.root, entry.start, entry.end, entry.kind, entry.key))
