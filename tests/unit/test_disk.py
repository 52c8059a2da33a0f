"""The disk's tier on a real directory: what is found again, what is refused, and what no failure can break."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from inference.cache.blocks import Root
from inference.cache.disk_files import Files
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_limits import MAX_FILE_BYTES
from inference.cache.disk_outage import PAUSE_S
from inference.cache.disk_records import Stored
from tests.disk_shelf import ROOM, ROOT, Crash, FailingFiles, Paper, Shelf, SwiftFiles, chain, paper, state

IDS = tuple(range(1000, 1000 + 700))


def size_of(shelf: Shelf, padding: int = 0) -> int:
    """Bytes of the first block of a chain as a file."""
    label = chain(IDS)[0]
    return sum(map(len, shelf.store.codec.encode(label, paper(label, padding))))


def text(found: Stored | None) -> str | None:
    return None if found is None else found.handle.text  # type: ignore[union-attr]


def test_what_was_written_is_found_by_the_next_process(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), [*chain(IDS), state(IDS[:512]), state(IDS)]
    assert all(shelf.write(labels))
    for _ in range(2):
        for label in labels:
            found = shelf.store.read(label.key, ROOT.key)
            assert found is not None and found.label == label and text(found) == paper(label).text
        shelf.check()
        shelf.open(Files())
    assert shelf.store.counters.dropped == {"left_over": 0}


def test_a_file_is_written_once(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    assert all(shelf.write(labels) + shelf.write(labels))
    assert shelf.store.counters.written_files == len(labels) == len(shelf.on_disk())


def test_what_is_written_as_the_first_to_go_goes_from_its_end_before_all_else(tmp_path: Path) -> None:
    shelf, kept, aside = Shelf(tmp_path), chain(IDS), chain(tuple(reversed(IDS)))
    shelf.write(kept)
    for _ in range(2):
        assert all(shelf.store.write(label, paper(label), first_to_go=True) for label in aside)
        assert [entry.key for entry in shelf.store.index][: len(aside)] == [label.key for label in reversed(aside)]
    shelf.write(aside[:2])  # a conversation goes on from there
    order = [entry.key for entry in shelf.store.index]
    assert order[0] == aside[2].key and set(order[-2:]) == {label.key for label in aside[:2]}
    shelf.check()


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    Shelf(tmp_path / "kv").write(chain(IDS))
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "kv").rglob("*.kv")}
    assert modes == {0o600}


# --- what is not served ---------------------------------------------------------------------------------------------


def _flip(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 4])


@pytest.mark.parametrize("damage", [_flip, lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw + b" "])
def test_a_damaged_file_is_a_counted_miss_and_goes(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    path = shelf.path(entry(shelf, 1))
    path.write_bytes(damage(path.read_bytes()))
    assert shelf.store.read(labels[1].key, ROOT.key) is None
    assert shelf.store.counters.dropped["corrupt"] == 1 and not path.exists()
    assert text(shelf.store.read(labels[0].key, ROOT.key)) == paper(labels[0]).text
    shelf.check()
    assert shelf.write(labels[1:2]) == [True], "computed again, it is stored again"


def entry(shelf: Shelf, at: int) -> DiskEntry:
    found = shelf.store.index.get(chain(IDS)[at].key)
    assert found is not None
    return found


def test_a_file_under_anothers_name_is_foreign(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    shelf.path(entry(shelf, 0)).replace(shelf.path(entry(shelf, 1)))
    assert shelf.store.read(labels[1].key, ROOT.key) is None
    assert shelf.store.read(labels[0].key, ROOT.key) is None
    assert shelf.store.counters.dropped == {"left_over": 0, "foreign": 1, "unreadable": 1}


def test_another_tree_finds_nothing_even_if_it_asks_by_name(tmp_path: Path) -> None:
    """Other weights, other KV settings or another salt: another root."""
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    for other in (Root("model", "other"), Root("model", "weights", "8/64/0"), Root("model", "weights", salt=b"s")):
        assert not {label.key for label in chain(IDS, other)} & {one.key for one in shelf.store.index}
    assert shelf.store.read(labels[0].key, Root("model", "other").key) is None


class Counting(SwiftFiles):
    """How many bytes were read of files of ours at most, and in all."""

    most_bytes = 0

    def read(self, path: Path, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
        raw = super().read(path, limit_bytes)
        self.most_bytes = max(self.most_bytes, len(raw))
        return raw


def test_a_file_that_has_grown_is_a_miss_and_is_not_read(tmp_path: Path) -> None:
    """Sparse: it holds nothing but says that it holds 100 GB. While the process runs, and between two."""
    for lives in (1, 2):
        shelf, labels = Shelf(tmp_path / str(lives), files=(files := Counting())), chain(IDS)
        shelf.write(labels)
        path, size = shelf.path(entry(shelf, 2)), entry(shelf, 2).nbytes
        os.truncate(path, 100 * 10**9)
        if lives == 2:
            shelf.open()
        assert shelf.store.read(labels[2].key, ROOT.key) is None
        assert shelf.store.counters.dropped["corrupt"] == 1 and not path.exists()
        assert files.most_bytes <= size + 1
        assert shelf.store.read(labels[1].key, ROOT.key) is not None, "nothing else went for it"
        shelf.check()


def test_two_names_of_one_key_are_one_file_at_most(tmp_path: Path) -> None:
    """Else one of them would count towards no limit for ever."""
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    path = shelf.path(entry(shelf, 0))
    path.with_name(path.name.replace("-0-256", "-0-255")).write_bytes(b"?" * 99)
    shelf.open()
    shelf.check()
    assert len(shelf.on_disk()) == 3


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path / "kv"), chain(IDS)
    shelf.write(labels)
    path, away = shelf.path(entry(shelf, 0)), tmp_path / "away"
    path.replace(away)
    path.symlink_to(away)
    assert shelf.store.read(labels[0].key, ROOT.key) is None and away.exists()


# --- limits ---------------------------------------------------------------------------------------------------------


class Watched(SwiftFiles):
    """Asserts the limit whenever anything was written, what is being written included."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        self.directory = directory
        self.most_bytes = most_bytes
        self.fullest = 0

    def put(self, descriptor: int, rest: memoryview) -> int:
        taken = super().put(descriptor, rest)
        held = sum(path.stat().st_size for path in self.directory.glob("v1/*/*/*"))
        self.fullest = max(self.fullest, held)
        assert held <= self.most_bytes
        return taken


def test_the_limit_is_kept_to_the_byte_while_writing(tmp_path: Path) -> None:
    rng = random.Random(5)
    limit = 12 * size_of(Shelf(tmp_path / "size"))
    shelf = Shelf(tmp_path / "kv", replace(ROOM, max_bytes=limit), Watched(tmp_path / "kv", limit))
    for turn in range(60):
        ids = (*IDS[: rng.randrange(700)], *range(turn * 1000, turn * 1000 + rng.randrange(1, 900)))
        shelf.write(chain(ids), padding=rng.randrange(300))
        shelf.check()
        assert not shelf.store.index.unreachable(), "a block left before what stands behind it"
    assert isinstance(shelf.files, Watched) and shelf.files.fullest > 0.9 * limit
    assert shelf.store.counters.dropped["evicted"] > 50


def test_a_lowered_limit_holds_before_the_first_write(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for turn in range(8):
        shelf.write(chain(tuple(range(turn * 9, turn * 9 + 512))))
    shelf.limits = replace(ROOM, max_bytes=shelf.store.index.nbytes // 3)
    shelf.open()
    shelf.check()
    assert len(shelf.store.index) >= 4 and not shelf.store.index.unreachable()


def test_what_is_used_stays_and_the_order_survives_a_restart(tmp_path: Path) -> None:
    shelf, old, new = Shelf(tmp_path), chain(tuple(range(512))), chain(tuple(range(600, 1112)))
    shelf.write(old)
    shelf.write(new)
    for number, one in enumerate(shelf.store.index):  # files of one millisecond may bear the same time
        os.utime(shelf.path(one), (number, number))
    shelf.store.mark_used(old[-1].key)
    for _ in range(2):
        assert [one.key for one in shelf.store.index] == [new[1].key, new[0].key, old[1].key, old[0].key]
        shelf.open()


def test_nothing_goes_for_a_file_that_can_never_fit(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, replace(ROOM, max_bytes=4000))
    labels = chain(IDS)
    assert shelf.write(labels[:1]) == [True]
    assert shelf.write(labels[1:2], padding=10_000) == [False]
    assert shelf.store.counters.refused["too_large"] == 1 and len(shelf.on_disk()) == 1


def test_a_share_of_what_is_free_does_not_shrink_by_what_is_kept(tmp_path: Path) -> None:
    files = FullDisk()
    files.used = 500_000
    shelf = Shelf(tmp_path, replace(ROOM, max_free_share=0.1), files)
    assert shelf.store.limit_bytes == 50_000
    shelf.write(chain(IDS))
    files.used += shelf.store.index.nbytes
    assert shelf.open().limit_bytes == 50_000


class FullDisk(SwiftFiles):
    used = 0

    def used_share(self, path: Path) -> tuple[int, int]:
        return self.used, 1_000_000


def test_the_guard_leaves_the_disk_its_tenth(tmp_path: Path) -> None:
    files = FullDisk()
    shelf, labels = Shelf(tmp_path, replace(ROOM, max_disk_share=0.9), files), chain(IDS)
    assert shelf.write(labels[:1]) == [True]
    files.used = 900_000 - 10
    other = chain(tuple(range(256)))
    assert shelf.write(other) == [True], "in the place of what is used least"
    assert [one.key for one in shelf.store.index] == [other[0].key]
    files.used = 990_000
    assert shelf.write(labels) == [False] * 3 and shelf.store.counters.refused == {"disk_guard": 3}
    assert shelf.store.read(other[0].key, ROOT.key) is not None, "what is there is read all the same"


def test_a_days_budget_holds_to_the_byte_and_over_a_kill(tmp_path: Path) -> None:
    size = size_of(Shelf(tmp_path / "size"))
    shelf, labels = (
        Shelf(tmp_path / "kv", replace(ROOM, day_bytes=2 * size + 5)),
        chain(tuple(range(1100, 1100 + 1024))),
    )
    assert shelf.write(labels[:2]) == [True, True] and shelf.store.budget.used_bytes <= 2 * size + 5
    assert shelf.write(labels[2:3]) == [False] and shelf.store.counters.refused == {"day_budget": 1}
    shelf.open()  # killed: nothing was closed
    assert shelf.write(labels[2:3]) == [False]
    shelf.now_s += 86_400
    assert shelf.write(labels[2:3]) == [True]


def test_an_orderly_end_gives_back_what_was_granted_and_not_used(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, replace(ROOM, day_bytes=10_000))
    shelf.write(chain(IDS)[:1])
    used = shelf.store.budget.used_bytes
    shelf.store.close()
    assert 0 < used == shelf.open().budget.used_bytes < 10_000


def test_what_nobody_used_for_too_long_goes_at_the_start(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, now_s=time.time())
    shelf.write(chain(IDS))
    shelf.now_s += 1000
    shelf.limits = replace(ROOM, ttl_s=2000)
    assert len(shelf.open().index) == 3
    shelf.limits = replace(ROOM, ttl_s=500)
    assert len(shelf.open().index) == 0 and shelf.on_disk() == {}


def test_orders_remove_files(tmp_path: Path) -> None:
    shelf, mine = Shelf(tmp_path), chain(IDS)
    theirs = chain(IDS, other := Root("other model", "other"))
    shelf.write([*mine, *theirs])
    shelf.store.drop([mine[2].key])
    assert len(shelf.on_disk()) == 5
    shelf.store.clear(model="other model")
    assert {one.root for one in shelf.store.index} == {ROOT.key[:16]}
    shelf.store.clear(other.key)
    assert len(shelf.on_disk()) == 2
    shelf.store.clear()
    assert shelf.on_disk() == {}


# --- starts ---------------------------------------------------------------------------------------------------------


def test_a_start_sweeps_what_cannot_be_used(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), chain(tuple(range(1024)))
    shelf.write(labels)
    shelf.path(_at(shelf, labels[1].key)).unlink()
    folder = shelf.path(_at(shelf, labels[0].key)).parent
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


# --- every act may fail ---------------------------------------------------------------------------------------------


def _life(shelf: Shelf) -> None:
    labels = [*chain(IDS), state(IDS)]
    shelf.write(labels)
    shelf.store.read(labels[0].key, ROOT.key)
    shelf.store.mark_used(labels[2].key)
    shelf.store.ids(next(iter(shelf.store.index)) if len(shelf.store.index) else DiskEntry.of(labels[0], 1))
    shelf.store.drop([labels[1].key])
    shelf.now_s += 2 * PAUSE_S
    shelf.write(chain(tuple(range(300))))
    shelf.store.close()


def _acts(tmp_path: Path) -> int:
    files = FailingFiles()
    _life(Shelf(tmp_path, replace(ROOM, day_bytes=100_000), files))
    return len(files.acts)


def _serves_only_truth(shelf: Shelf, labels: Sequence[object]) -> None:
    for label in labels:
        found = shelf.store.read(label.key, ROOT.key)  # type: ignore[attr-defined]
        assert found is None or (found.label == label and isinstance(found.handle, Paper))


@pytest.mark.parametrize("kind", ["once", "from then on", "the end of the process"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_any_act_may_fail(tmp_path: Path, kind: str, error: int) -> None:
    """For every act: no exception leaves, and the next process serves the truth and keeps its books."""
    total = _acts(tmp_path / "count")
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
            _life(shelf)
        except Crash:
            assert files.crash
        shelf.open(SwiftFiles())
        shelf.check()
        _serves_only_truth(shelf, written)
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


def _at(shelf: Shelf, key: bytes) -> DiskEntry:
    found = shelf.store.index.get(key)
    assert found is not None
    return found


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
    for ask in (lambda: shelf.store.read(labels[2].key, ROOT.key), lambda: shelf.store.ids(_at(shelf, labels[2].key))):
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
