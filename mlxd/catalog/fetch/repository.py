"""One repository into the cache: list, measure, fetch, verify; its snapshot appears when everything is there."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlxd.catalog.fetch.blobs import Blobs
from mlxd.catalog.fetch.failures import DownloadFailed
from mlxd.catalog.fetch.hub import Hub
from mlxd.catalog.fetch.listing import Listing, read_listing

RESERVE_BYTES: Final = 1 << 30
"""Stays free on the disk, for everybody else on it."""
_GIB: Final = 1 << 30
_UNFINISHED: Final = ".mlxd-"


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of the files that are here, of all."""

    here_bytes: int
    total_bytes: int


def fetch(hub: Hub, repo_id: str, folder: Path, told: Callable[[Progress], None] = lambda _: None) -> Path:
    """The directory of the newest commit, in the folder of a repository in the cache, whose names have been checked.

    Raises `ModelNotFound`, `InvalidModel`, `UnsafeModel` or `DownloadFailed`.
    """
    listing = read_listing(hub, repo_id)
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    total = sum(file.size_bytes for file in listing.files)
    blobs = Blobs(folder / "blobs")
    missing = sum(blobs.missing_bytes(file) for file in listing.files)
    require_room(folder, missing, shutil.disk_usage(folder).free)
    here = total - missing

    def arrived(count: int) -> None:
        nonlocal here
        here += count
        told(Progress(here, total))

    arrived(0)
    blobs = Blobs(folder / "blobs", arrived)
    for file in sorted(listing.files, key=lambda file: file.size_bytes):
        blobs.fetch(hub, hub.url(f"/{repo_id}/resolve/{listing.commit}/{file.name}"), file)
    return _publish(folder, listing)


def require_room(folder: Path, missing_bytes: int, free_bytes: int) -> None:
    """Raises `DownloadFailed` where less than the reserve would be left."""
    if missing_bytes and missing_bytes + RESERVE_BYTES > free_bytes:
        raise DownloadFailed(
            f"{missing_bytes / _GIB:.1f} GiB are to come and {free_bytes / _GIB:.1f} GiB are free in the cache,"
            f" of which {RESERVE_BYTES / _GIB:.0f} GiB stays free."
        )


def _publish(folder: Path, listing: Listing) -> Path:
    """Links to the blobs, all at once by a rename; then the name by which they are found."""
    snapshots, refs = folder / "snapshots", folder / "refs"
    for directory in (snapshots, refs):
        directory.mkdir(exist_ok=True)
    with _alone_in(snapshots):
        return _publish_alone(snapshots, refs, listing)


def _publish_alone(snapshots: Path, refs: Path, listing: Listing) -> Path:
    for left in snapshots.glob(f"{_UNFINISHED}*"):  # of a process that was killed right here
        shutil.rmtree(left, ignore_errors=True)
    made, final = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=snapshots)), snapshots / listing.commit
    for file in listing.files:
        (made / file.name).symlink_to(Path("../../blobs", file.digest.value))
    if final.is_dir() and not final.is_symlink():  # of another program, perhaps of a part of the files
        for link in made.iterdir():
            link.replace(final / link.name)
        made.rmdir()
    else:
        made.rename(final)
    _write_whole(refs / "main", listing.commit)
    return final


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Waits for the few milliseconds that another process publishes in: what it has not finished is not left over."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # NFS locks no directories: there it is as if nobody else were at it
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_whole(path: Path, text: str) -> None:
    descriptor, written = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    Path(written).replace(path)
