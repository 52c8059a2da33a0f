"""The few things that are done with files, each a method of its own, so that a test can let any one of them fail.

A file appears under its name complete or not at all: it is written beside, flushed, renamed, and the directory flushed
behind it. What a crash leaves beside is swept at the next start.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Final, NamedTuple

from inference.cache.disk_limits import MAX_FILE_BYTES

_BESIDE: Final = ".writing-"


class Found(NamedTuple):
    """A file as a scan sees it: its directory's name and its own, size and last change."""

    folder: str
    name: str
    nbytes: int
    changed_ns: int


class Files:
    """The real ones. Every method may raise `OSError`."""

    def write(self, path: Path, pieces: Sequence[bytes | memoryview]) -> None:
        """Atomic. Nothing stays behind when it fails; only a crash leaves a file beside."""
        self.make_folder(path.parent)
        beside = path.with_name(_BESIDE + secrets.token_hex(8))
        try:
            self.fill(beside, pieces)
            self.rename(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        self.flush_folder(path.parent)

    def jot(self, path: Path, raw: bytes) -> None:
        """As `write` of a few bytes, but not flushed: a power cut may leave nothing of it, or an empty file."""
        self.make_folder(path.parent)
        beside = path.with_name(_BESIDE + secrets.token_hex(8))
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                self._put(descriptor, memoryview(raw))
            finally:
                os.close(descriptor)
            self.rename(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise

    def make_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def fill(self, path: Path, pieces: Sequence[bytes | memoryview]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for piece in pieces:
                self._put(descriptor, memoryview(piece))
            self.flush(descriptor)
        finally:
            os.close(descriptor)

    def _put(self, descriptor: int, rest: memoryview) -> None:
        while rest:
            rest = rest[self.put(descriptor, rest) :]

    def put(self, descriptor: int, rest: memoryview) -> int:
        """How many bytes of it were taken."""
        return os.write(descriptor, rest)

    def flush(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def rename(self, beside: Path, path: Path) -> None:
        beside.rename(path)

    def flush_folder(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, path: Path, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The beginning of a file, as far as it may go. Follows no link."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            return _up_to(file, min(limit_bytes, os.fstat(descriptor).st_size + 1))

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """With all that is in it."""
        shutil.rmtree(path)

    def mark_used(self, path: Path) -> None:
        """Now: what the order of use is read from at the next start."""
        os.utime(path)

    def used_share(self, path: Path) -> tuple[int, int]:
        """Bytes used and bytes in all of the disk that `path` lies on, as those who are not root see it."""
        seen = os.statvfs(path)
        used = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
        return used, used + seen.f_bavail * seen.f_frsize

    def folders(self, path: Path) -> list[str]:
        """Names of the directories in a directory, links left out; none where there is no such directory."""
        try:
            with os.scandir(path) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def by_age(self, path: Path) -> list[str]:
        """Names of the files in a directory, the one that changed first before others; none where there is none."""
        try:
            with os.scandir(path) as entries:
                found = [(one.stat(follow_symlinks=False).st_mtime_ns, one.name) for one in entries if one.is_file()]
        except FileNotFoundError:
            return []
        return [name for _, name in sorted(found)]

    def sweep_beside(self, path: Path) -> int:
        """Removes what a crash left while it was being written in a directory; how many files."""
        left = list(path.glob(f"{_BESIDE}*"))
        for one in left:
            one.unlink(missing_ok=True)
        return len(left)

    def scan(self, path: Path) -> Iterator[Found]:
        """Every file in the directories of a directory. What disappears under way is left out."""
        for folder in self.folders(path):
            with os.scandir(path / folder) as entries:
                for entry in entries:
                    try:
                        seen = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    yield Found(folder, entry.name, seen.st_size, seen.st_mtime_ns)


def _up_to(file: FileIO, limit_bytes: int) -> bytes:
    """One read takes 2 GiB at most, and may take less than it is asked for."""
    pieces = []
    while limit_bytes > 0 and (piece := file.read(limit_bytes)):
        pieces.append(piece)
        limit_bytes -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
