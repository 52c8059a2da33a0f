"""What the disk's state is called, for each thing that can ail it, and that it is well again when it is."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from inference.cache.disk_outage import PAUSE_S, THREAD_ENDED
from inference.cache.disk_stats import health_of
from inference.prefix_store import DiskState
from tests.disk_life import disk, save_all
from tests.disk_shelf import IDS, ROOM, SOON_S, FailingFiles, Shelf, SwiftFiles, chain


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (errno.ENOSPC, DiskState.FULL, "disk_full"),
        (errno.EDQUOT, DiskState.FULL, "disk_full"),
        (errno.EROFS, DiskState.READ_ONLY, "read_only"),
        (errno.EACCES, DiskState.READ_ONLY, "no_permission"),
        (errno.EIO, DiskState.FAILING, "eio"),
        (errno.EMFILE, DiskState.FAILING, "too_many_open_files"),
        (None, DiskState.FAILING, "error"),
    ],
)
def test_an_outage_has_a_name_and_an_end(tmp_path: Path, error: int | None, state: DiskState, reason: str) -> None:
    files = FailingFiles(nth=10**6, error=error)  # type: ignore[arg-type]
    shelf, labels = Shelf(tmp_path, files=files), chain(IDS)
    assert health_of(shelf.store, shelf.store.outage).state is DiskState.OK
    files.nth = len(files.acts) + 2
    shelf.write(labels[:2])
    found = health_of(shelf.store, shelf.store.outage)
    assert (found.state, found.reason, found.refused, found.written) == (state, reason, 2, 0)
    shelf.now_s += PAUSE_S + 1
    shelf.write(labels)
    found = health_of(shelf.store, shelf.store.outage)
    assert (found.state, found.reason, found.files, found.written) == (DiskState.OK, "", 3, 3)
    assert found.nbytes == sum(shelf.on_disk().values()) <= found.limit_bytes


def test_a_disk_that_others_have_filled_is_full_until_there_is_room(tmp_path: Path) -> None:
    class Filled(SwiftFiles):
        used = 990_000

        def used_share(self, path: Path) -> tuple[int, int]:
            return self.used, 1_000_000

    shelf = Shelf(tmp_path, replace(ROOM, max_disk_share=0.9), files := Filled())
    shelf.write(chain(IDS))
    found = health_of(shelf.store, shelf.store.outage)
    assert (found.state, found.reason, found.refused) == (DiskState.FULL, "disk_guard", 3)
    files.used = 0
    shelf.write(chain(IDS))
    assert health_of(shelf.store, shelf.store.outage).state is DiskState.OK


def test_a_corrupt_file_is_counted_and_no_outage(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    path = next(tmp_path.glob("v1/*/*/*-256-512.kv"))
    path.write_bytes(path.read_bytes()[:-1])
    assert shelf.store.read(labels[1].key, labels[1].root) is None
    found = health_of(shelf.store, shelf.store.outage)
    assert (found.state, found.corrupt, found.dropped) == (DiskState.OK, 1, 1)


def test_a_thread_that_has_ended_is_off(tmp_path: Path) -> None:
    with disk(tmp_path) as thread:
        save_all(thread, *chain(IDS))
        assert thread.settle(SOON_S) and thread.health().state is DiskState.OK
    assert (thread.health().state, thread.health().reason) == (DiskState.OFF, THREAD_ENDED)
