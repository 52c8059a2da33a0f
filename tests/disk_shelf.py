"""Chains of blocks for a disk, with a codec that needs no MLX, and files of which the Nth act fails."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from inference.cache.blocks import BLOCK_TOKENS, Root, pack
from inference.cache.disk import DiskStore
from inference.cache.disk_files import Files, Found
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_limits import MAX_FILE_BYTES, DiskLimits
from inference.cache.disk_place import path_of
from inference.cache.disk_plan import Want
from inference.cache.disk_records import BlockLabel, Flaw, Handle, Kind, Stored, block_name, state_name
from inference.tokens import TokenIds

ROOT = Root("model", "weights")
IDS = tuple(range(1000, 1700))
SOON_S = 20.0
"""What a test waits for at most."""
ROOM = DiskLimits(max_bytes=1 << 40, max_disk_share=1.0)


@dataclass(frozen=True, slots=True)
class Paper:
    """A handle that holds text."""

    text: str
    tokens: int
    depth: int
    padding: int = 0

    @property
    def nbytes(self) -> int:
        return len(self.text) + self.padding


class PaperCodec:
    """A digest, a line of JSON, the text."""

    def encode(self, label: BlockLabel, handle: Handle) -> Sequence[bytes | memoryview]:
        assert isinstance(handle, Paper)
        fields = {name: getattr(label, name) for name in BlockLabel.__slots__}
        plain = {name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()}
        text = json.dumps({**plain, "padding": handle.padding}).encode() + b"\n"
        body = handle.text.encode() + b" " * handle.padding
        return [sha256(text + body).hexdigest().encode(), text, body]

    def decode(self, raw: bytes) -> Stored | Flaw:
        if sha256(raw[64:]).hexdigest().encode() != raw[:64]:
            return Flaw.CORRUPT
        label = self.read_label(raw)
        assert isinstance(label, BlockLabel)
        text = raw.partition(b"\n")[2].decode().rstrip()
        return Stored(label, Paper(text, label.end - label.start, label.end))

    def read_label(self, beginning: bytes) -> BlockLabel | Flaw:
        try:
            fields = json.loads(beginning[64:].partition(b"\n")[0])
            del fields["padding"]
            for name in ("root", "parent", "own", "ids"):
                fields[name] = bytes.fromhex(fields[name])
            return BlockLabel(**{**fields, "kind": Kind(fields["kind"])})
        except (ValueError, KeyError, TypeError):
            return Flaw.CORRUPT


def chain(ids: TokenIds, root: Root = ROOT) -> list[BlockLabel]:
    """The blocks of a text, the last one as long as it is."""
    labels, parent = [], root.key
    for start in range(0, len(ids), BLOCK_TOKENS):
        packed = pack(ids[start : start + BLOCK_TOKENS])
        own = block_name(parent, packed)
        end = min(len(ids), start + BLOCK_TOKENS)
        labels.append(BlockLabel(Kind.BLOCK, root.key, parent, own, packed, start, end, True, *_told(root)))
        parent = own
    return labels


def _told(root: Root) -> tuple[str, str, str]:
    return root.model, root.weights, root.settings


def state(ids: TokenIds, root: Root = ROOT) -> BlockLabel:
    """A recurrent state after all of `ids`."""
    at = len(ids) // BLOCK_TOKENS * BLOCK_TOKENS
    whole = chain(ids[:at], root)
    parent, rest = (whole[-1].own if whole else root.key), pack(ids[at:])
    own = state_name(parent, rest)
    return BlockLabel(Kind.STATE, root.key, parent, own, rest, at, len(ids), False, *_told(root))


def paper(label: BlockLabel, padding: int = 0) -> Paper:
    return Paper(f"{label.kind} {label.own.hex()}", label.end - label.start, label.end, padding)


def text(found: Stored | None) -> str | None:
    """What is written on the paper that was read."""
    return None if found is None else found.handle.text  # type: ignore[union-attr]


def want(ids: TokenIds, *, in_memory: int = 0, state: bool = False, bitwise: bool = False, room: int = 1 << 40) -> Want:
    """What a prompt wants of whose first `in_memory` tokens the blocks (of recurrent states: nothing) are in memory."""
    whole = in_memory // BLOCK_TOKENS * BLOCK_TOKENS
    digests = (ROOT.key, *(label.own for label in chain(ids[:whole])))
    held = 0 if state else in_memory
    return Want(ROOT.key, digests, pack(ids), len(ids) - 1, in_memory, held, state, bitwise, room)


class Crash(BaseException):
    """The process ends here: nothing behind it runs, not even what would clean up."""


@dataclass
class FailingFiles(Files):
    """Counts what is done with the disk, and lets the `nth` fail, or all from it on; or ends the process there."""

    nth: int = 0
    persistent: bool = False
    crash: bool = False
    error: int = errno.EIO
    acts: list[str] = field(default_factory=list)

    def _act(self, name: str) -> None:
        self.acts.append(name)
        count = len(self.acts)
        if self.nth and (count == self.nth or (self.persistent and count > self.nth)):
            raise Crash if self.crash else OSError(self.error, "planted")

    def make_folder(self, path: Path) -> None:
        self._act("make_folder")
        super().make_folder(path)

    def put(self, descriptor: int, rest: memoryview) -> int:
        self._act("put")
        return super().put(descriptor, rest[: max(1, len(rest) // 2)])

    def flush(self, descriptor: int) -> None:
        self._act("flush")

    def rename(self, beside: Path, path: Path) -> None:
        self._act("rename")
        super().rename(beside, path)

    def flush_folder(self, path: Path) -> None:
        self._act("flush_folder")

    def read(self, path: Path, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
        self._act("read")
        return super().read(path, limit_bytes)

    def remove(self, path: Path) -> None:
        self._act("remove")
        super().remove(path)

    def used_share(self, path: Path) -> tuple[int, int]:
        self._act("used_share")
        return super().used_share(path)

    def folders(self, path: Path) -> list[str]:
        self._act("folders")
        return super().folders(path)

    def scan(self, path: Path) -> Iterator[Found]:
        for found in super().scan(path):
            yield found
            self._act("scan")

    def sweep_beside(self, path: Path) -> int:
        self._act("sweep_beside")
        return super().sweep_beside(path)

    def mark_used(self, path: Path) -> None:
        self._act("mark_used")
        super().mark_used(path)


class SwiftFiles(Files):
    """Without waiting for the disk: what a power cut would leave is not what is tested here."""

    def flush(self, descriptor: int) -> None:
        pass

    def flush_folder(self, path: Path) -> None:
        pass


class GatedFiles(SwiftFiles):
    """A disk that does nothing while the gate is shut. `came`: somebody has stood before the shut gate.

    `log` is what was done; what is `broken` takes nothing.
    """

    def __init__(self) -> None:
        self.gate, self.came = threading.Event(), threading.Event()
        self.log: list[str] = []
        self.broken = False
        self.gate.set()

    def _pass(self) -> None:
        if not self.gate.is_set():
            self.came.set()
        assert self.gate.wait(SOON_S)

    def fill(self, path: Path, pieces: Sequence[bytes | memoryview]) -> None:
        self._pass()
        if self.broken:
            raise OSError(errno.EIO, "planted")
        self.log.append("fill")
        super().fill(path, pieces)

    def read(self, path: Path, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
        self._pass()
        self.log.append("read")
        return super().read(path, limit_bytes)


@dataclass
class Shelf:
    """A store on a directory, opened anew as often as one likes."""

    directory: Path
    limits: DiskLimits = ROOM
    files: Files = field(default_factory=SwiftFiles)
    now_s: float = 1e9
    store: DiskStore = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self, files: Files | None = None) -> DiskStore:
        self.files = files or self.files
        self.store = DiskStore(self.directory, self.limits, PaperCodec(), lambda: self.now_s, self.files)
        self.store.open()
        return self.store

    def write(self, labels: Sequence[BlockLabel], padding: int = 0) -> list[bool]:
        return [self.store.write(label, paper(label, padding)) for label in labels]

    def entry(self, key: bytes) -> DiskEntry:
        found = self.store.index.get(key)
        assert found is not None
        return found

    def path(self, entry: DiskEntry) -> Path:
        return path_of(self.directory, entry)

    def on_disk(self) -> dict[str, int]:
        """Every file below the layout's directory, with its size."""
        return {path.name: path.stat().st_size for path in self.directory.glob("v1/*/*/*")}

    def check(self) -> None:
        """The index and the disk agree, and the limits hold."""
        assert self.on_disk() == {entry.name: entry.nbytes for entry in self.store.index}
        assert self.store.index.nbytes == sum(self.on_disk().values()) <= self.limits.max_bytes
