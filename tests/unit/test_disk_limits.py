"""The disk's tier keeps its limits: to the byte, over restarts, and by removing what is used least."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace
from pathlib import Path

from inference.cache.blocks import Root
from tests.disk_shelf import IDS, ROOM, ROOT, Shelf, SwiftFiles, chain, paper


def size_of(shelf: Shelf, padding: int = 0) -> int:
    """Bytes of the first block of a chain as a file."""
    label = chain(IDS)[0]
    return sum(map(len, shelf.store.codec.encode(label, paper(label, padding))))


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
