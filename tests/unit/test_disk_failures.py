"""The disk's tier when something is missing or any act fails: what no failure can break."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from inference.cache.disk_files import Files
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_outage import PAUSE_S
from tests.disk_shelf import IDS, ROOM, ROOT, Crash, FailingFiles, Paper, Shelf, SwiftFiles, chain, state

# --- starts -----------------------------------------------------------------------------------------------------------


def test_a_start_sweeps_what_cannot_be_used(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), chain(tuple(range(1024)))
    shelf.write(labels)
    shelf.path(shelf.entry(labels[1].key)).unlink()
    folder = shelf.path(shelf.entry(labels[0].key)).parent
    (folder / ".writing-12ab").write_bytes(b"half")
    (folder / "notes.txt").write_text("not ours by name")
    (tmp_path / "v0" / "a").mkdir(parents=True)
    (tmp_path / "v1" / "lost+found").mkdir()
    (tmp_path / "keep").mkdir()
    store = shelf.open()
    assert [one.key for one in store.index] == [labels[0].key]
    assert store.counters.dropped == {"left_over": 2, "unreachable": 2, "layout": 1}
    assert (tmp_path / "keep").exists() and not (tmp_path / "v0").exists()
    shelf.check()


def test_a_start_takes_time_by_the_file_and_reads_none(tmp_path: Path) -> None:
    """100,000 files are a benchmark's: 0.6 s there. Here only that nothing is opened, which would cost ten times it."""
    shelf = Shelf(tmp_path)
    shelf.write(chain(tuple(range(20_000))))
    files = FailingFiles()
    store = shelf.open(files)
    assert len(store.index) == 79 and files.acts.count("read") == 1, "the budget's file alone is read"


def test_a_start_that_cannot_see_everything_loses_nothing(tmp_path: Path) -> None:
    """What stands behind something unseen looks as if nothing stood before it."""
    shelf, labels = Shelf(tmp_path), chain(tuple(range(5000)))
    shelf.write(labels)
    for nth in (4, 9, 15):
        files = FailingFiles(nth=10**6)
        shelf.open(files)
        files.nth = len(files.acts) - len(labels) + nth
        files.acts.clear()
        store = shelf.open(files)
        assert 0 < len(store.index) < len(labels) and store.outage == "eio"
    assert len(shelf.open(SwiftFiles()).index) == len(labels)
    shelf.check()


# --- every act may fail -----------------------------------------------------------------------------------------------


def one_life(shelf: Shelf) -> None:
    labels = [*chain(IDS), state(IDS)]
    shelf.write(labels)
    shelf.store.read(labels[0].key, ROOT.key)
    shelf.store.mark_used(labels[2].key)
    shelf.store.ids(next(iter(shelf.store.index)) if len(shelf.store.index) else DiskEntry.of(labels[0], 1))
    shelf.store.drop([labels[1].key])
    shelf.now_s += 2 * PAUSE_S
    shelf.write(chain(tuple(range(300))))
    shelf.store.close()


def acts_of(tmp_path: Path) -> int:
    files = FailingFiles()
    one_life(Shelf(tmp_path, replace(ROOM, day_bytes=100_000), files))
    return len(files.acts)


def assert_only_truth(shelf: Shelf, labels: Sequence[object]) -> None:
    for label in labels:
        found = shelf.store.read(label.key, ROOT.key)  # type: ignore[attr-defined]
        assert found is None or (found.label == label and isinstance(found.handle, Paper))


@pytest.mark.parametrize("kind", ["once", "from then on", "the end of the process"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_any_act_may_fail(tmp_path: Path, kind: str, error: int) -> None:
    """For every act: no exception leaves, and the next process serves the truth and keeps its books."""
    total = acts_of(tmp_path / "count")
    assert total > 40
    written = [*chain(IDS), state(IDS), *chain(tuple(range(300)))]
    for nth in range(1, total + 1, 1 if error == errno.EIO else 3):
        files = FailingFiles(
            nth=nth, persistent=kind == "from then on", crash=kind == "the end of the process", error=error
        )
        shelf = Shelf.__new__(Shelf)
        shelf.directory, shelf.limits, shelf.now_s = tmp_path / str(nth), replace(ROOM, day_bytes=100_000), 1e9
        try:
            shelf.open(files)
            one_life(shelf)
        except Crash:
            assert files.crash
        shelf.open(SwiftFiles())
        shelf.check()
        assert_only_truth(shelf, written)
        assert not list(shelf.directory.rglob(".writing-*"))


def test_after_a_refusal_the_disk_is_left_alone_for_a_minute(tmp_path: Path) -> None:
    files = FailingFiles(nth=10**6)
    shelf, labels = Shelf(tmp_path, files=files), chain(IDS)
    files.nth, files.error = len(files.acts) + 2, errno.EROFS
    assert shelf.write(labels[:1]) == [False] and shelf.store.outage == "read_only"
    before = len(files.acts)
    assert shelf.write(labels) == [False] * 3 and len(files.acts) == before
    shelf.now_s += PAUSE_S + 1
    assert all(shelf.write(labels)) and shelf.store.outage == ""


def test_a_full_disk_gets_something_back(tmp_path: Path) -> None:
    files = FailingFiles(nth=10**6)
    shelf = Shelf(tmp_path, files=files)
    shelf.write(chain(tuple(range(512))))
    files.nth, files.error = len(files.acts) + 2, errno.ENOSPC
    assert shelf.write(chain(IDS)[:1]) == [False] and shelf.store.outage == "disk_full"
    assert shelf.store.counters.dropped["evicted"] >= 1
    shelf.check()


def test_a_directory_that_goes_away_is_misses_and_nothing_worse(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path / "kv"), chain(IDS)
    shelf.write(labels)
    Files().remove_folder(tmp_path / "kv")
    assert shelf.store.read(labels[0].key, ROOT.key) is None
    shelf.store.mark_used(labels[1].key)
    shelf.write(labels)
    shelf.now_s += 2 * PAUSE_S
    assert shelf.write([*labels[:2], state(IDS)]) == [True] * 3
    assert shelf.store.read(labels[0].key, ROOT.key) is not None


# --- faults that cost no file -----------------------------------------------------------------------------------------


def test_a_disk_that_takes_no_times_is_still_read(tmp_path: Path) -> None:
    """As one that became read-only: what is there is worth as much as before."""
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    files = FailingFiles(nth=10**6, error=errno.EROFS)
    shelf.open(files)
    files.nth = len(files.acts) + 1
    shelf.store.mark_used(labels[2].key)
    assert files.acts[-1] == "mark_used" and shelf.store.outage == "read_only"
    assert all(shelf.store.read(label.key, ROOT.key) for label in labels)
    shelf.check()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_a_process_that_can_open_nothing_loses_no_file(tmp_path: Path, error: int) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    files = FailingFiles(nth=10**6, error=error)
    shelf.open(files)
    for ask in (lambda: shelf.store.read(labels[2].key, ROOT.key), lambda: shelf.store.ids(shelf.entry(labels[2].key))):
        files.nth = len(files.acts) + 1
        assert not ask()
        assert ask()
    shelf.check()


def test_a_clock_that_is_put_back_ends_the_pause(tmp_path: Path) -> None:
    files = FailingFiles(nth=10**6)
    shelf, labels = Shelf(tmp_path, files=files), chain(IDS)
    files.nth = len(files.acts) + 2
    assert shelf.write(labels[:1]) == [False] == shelf.write(labels[:1])
    shelf.now_s -= 86_400
    assert all(shelf.write(labels))


def test_what_cannot_be_swept_does_not_hide_what_is_there(tmp_path: Path) -> None:
    """Else the limit would know nothing of the files that are there already."""

    class Unswept(SwiftFiles):
        def remove_folder(self, path: Path) -> None:
            raise PermissionError(errno.EPERM, "planted")

    shelf = Shelf(tmp_path)
    shelf.write(chain(IDS))
    (tmp_path / "v0").mkdir()
    shelf.open(Unswept())
    assert len(shelf.store.index) == 3 and shelf.store.outage == "no_permission"
    shelf.check()


def test_names_that_lead_in_a_circle_lead_nowhere(tmp_path: Path) -> None:
    """Whoever may write here may name files as he likes; the thread must come back from them."""
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    root = ROOT.key[:16].hex()
    for parent, key, start, end in [
        (root, root, 0, 256),
        (labels[2].key.hex(), root, 512, 768),
        ("aa" * 16,) * 2 + (0, 0),
    ]:
        folder = tmp_path / "v1" / root / key[:2]
        folder.mkdir(exist_ok=True)
        (folder / f"{parent}-{key}-{start}-{end}.kv").write_bytes(b"?")
    shelf.open()
    shelf.store.mark_used(labels[2].key)
    assert shelf.store.index.path(labels[2].key) >= {label.key for label in labels}
    assert {entry.key for entry in shelf.store.index.from_here(labels[0].key)} >= {label.key for label in labels}
