"""A disk's thread for as long as a test needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference.cache.disk import DiskStore
from inference.cache.disk_fetch import Fetched
from inference.cache.disk_records import BlockLabel
from inference.cache.disk_thread import DiskThread
from tests.disk_shelf import IDS, ROOM, SOON_S, FailingFiles, GatedFiles, PaperCodec, SwiftFiles, chain, paper, want


@contextmanager
def disk(directory: Path, files: SwiftFiles | FailingFiles | None = None, **settings: object) -> Iterator[DiskThread]:
    store = DiskStore(directory, ROOM, PaperCodec(), lambda: 1e9, files or SwiftFiles())
    thread = DiskThread(store, **settings)  # type: ignore[arg-type]
    thread.start()
    assert thread.settle(SOON_S)
    try:
        yield thread
    finally:
        thread.close(SOON_S)


def save_all(thread: DiskThread, *labels: BlockLabel) -> list[bool]:
    return [thread.save(label, paper(label)) for label in labels]


def answer(thread: DiskThread) -> Fetched:
    assert thread.settle(SOON_S)
    (found,) = thread.fetched()
    return found


@contextmanager
def being_read(directory: Path) -> Iterator[tuple[DiskThread, GatedFiles]]:
    """A disk with the chain of IDS, which stands before its shut gate to read it for the job `first`."""
    files = GatedFiles()
    with disk(directory, files) as thread:
        save_all(thread, *chain(IDS))
        assert thread.settle(SOON_S)
        files.gate.clear()
        thread.want("first", want((*IDS, 1)))
        assert files.came.wait(SOON_S)
        yield thread, files
