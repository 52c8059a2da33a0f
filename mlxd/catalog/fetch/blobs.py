"""The blobs of one repository in the cache: each file under its digest, and under that name only once it is whole.

What has come of a file is kept beside it and gone on with, by this process or a later one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import httpx

from inference.errors import InvalidModel
from mlxd.catalog.fetch.failures import DownloadFailed, Transient
from mlxd.catalog.fetch.hub import Hub
from mlxd.catalog.fetch.listing import RemoteFile

READ_BYTES: Final = 1 << 20
PROGRESS_BYTES: Final = 1 << 20
"""A hub that sends less than this before it breaks off has given nothing."""


class Blobs:
    """A directory of blobs. `arrived` is told of every byte that came, less what had to be thrown away."""

    def __init__(self, folder: Path, arrived: Callable[[int], None] = lambda _: None) -> None:
        self._folder = folder
        self._arrived = arrived

    def path(self, file: RemoteFile) -> Path:
        return self._folder / file.digest.value

    def missing_bytes(self, file: RemoteFile) -> int:
        """What is still to come of it, by sizes alone."""
        if _size(self.path(file)) == file.size_bytes:
            return 0
        return max(0, file.size_bytes - max(0, _size(self._part(file))))

    def fetch(self, hub: Hub, url: httpx.URL, file: RemoteFile) -> None:
        """Sees to it that the blob is there and is what it should be."""
        if self._is_held(file):
            return
        with _locked(self._part(file), file.name) as part:
            begun = os.fstat(part.fileno()).st_size > 0
            self._fill(hub, url, file, part)
            if begun and not _is_sound(part, file):  # what was kept may have been spoiled, and what came not
                self._start_over(part)
                self._fill(hub, url, file, part)
            if not _is_sound(part, file):
                self._start_over(part)
                raise InvalidModel(f"{file.name} does not come as the repository has it: its digest differs.")
            os.fsync(part.fileno())
            self._part(file).rename(self.path(file))

    def _part(self, file: RemoteFile) -> Path:
        return self._folder / f"{file.digest.value}.mlxd-part"

    def _is_held(self, file: RemoteFile) -> bool:
        """Read to its last byte: another program may have left it, or half of it."""
        path = self.path(file)
        if _size(path) != file.size_bytes:
            return False
        with path.open("rb") as held:
            return _is_sound(held, file)

    def _fill(self, hub: Hub, url: httpx.URL, file: RemoteFile, part: BinaryIO) -> None:
        """Goes on where a connection ends, as often as it takes while something comes."""
        patience = hub.patience()
        if os.fstat(part.fileno()).st_size > file.size_bytes:
            self._start_over(part)
        while (at := part.seek(0, os.SEEK_END)) < file.size_bytes:
            try:
                self._take(hub, url, file, part, at)
                if part.tell() < file.size_bytes:
                    raise Transient(f"{hub.endpoint.host} ends {file.name} too early")
            except Transient as failure:
                if part.tell() - at >= PROGRESS_BYTES:
                    patience.progressed()
                patience.wait(failure)

    def _take(self, hub: Hub, url: httpx.URL, file: RemoteFile, part: BinaryIO, at: int) -> None:
        with hub.body(url, at) as body:
            if body.total_bytes not in (None, file.size_bytes):
                raise DownloadFailed(f"The hub lists {file.name} with another size than it sends.")
            if body.begins_at != at:
                self._start_over(part)
            if body.begins_at not in (0, at):
                raise DownloadFailed(f"The hub sends another part of {file.name} than was asked for.")
            for chunk in body.chunks:
                if part.tell() + len(chunk) > file.size_bytes:
                    self._start_over(part)
                    raise DownloadFailed(f"The hub sends more of {file.name} than it lists.")
                _write(part, chunk)
                self._arrived(len(chunk))

    def _start_over(self, part: BinaryIO) -> None:
        self._arrived(-os.fstat(part.fileno()).st_size)
        part.seek(0)
        part.truncate()


def _size(path: Path) -> int:
    """Of a plain file; -1 of anything else, which is no blob."""
    try:
        return path.lstat().st_size if path.is_file() and not path.is_symlink() else -1
    except OSError:
        return -1


@contextmanager
def _locked(path: Path, name: str) -> Iterator[BinaryIO]:
    """The part that is there or a new one, ours alone until it is closed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as part:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DownloadFailed(f"Another process is downloading {name}; wait for it.") from None
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise DownloadFailed(f"Another process has just downloaded {name}; start again.")
        yield part


def _write(part: BinaryIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[part.write(rest) :]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadFailed("The disk is full. What has arrived is kept; make room and start again.") from None
        raise


def _is_sound(file: BinaryIO, wanted: RemoteFile) -> bool:
    """Git puts the length before what it hashes."""
    git = wanted.digest.kind == "sha1"
    found = hashlib.new(wanted.digest.kind, usedforsecurity=not git)
    if git:
        found.update(f"blob {wanted.size_bytes}\0".encode())
    file.seek(0)
    while chunk := file.read(READ_BYTES):
        found.update(chunk)
    return found.hexdigest() == wanted.digest.value
