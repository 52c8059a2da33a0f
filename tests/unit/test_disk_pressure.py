"""The disk's tier under load and in company: limits hold at every moment, and nobody is given what is not true."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from inference.cache.disk import DiskStore
from inference.cache.disk_thread import DiskThread
from tests.disk_shelf import ROOM, ROOT, SOON_S, PaperCodec, Shelf, SwiftFiles, chain, paper, state, want


class Scales(SwiftFiles):
    """Asserts the limit whenever anything was written, and adds up what was, but for the budget's own file."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        self.directory, self.most_bytes = directory, most_bytes
        self.written_bytes = self.fullest_bytes = 0
        self.over: list[int] = []

    def fill(self, path: Path, pieces: Sequence[bytes | memoryview]) -> None:
        super().fill(path, pieces)
        if path.parent != self.directory:
            self.written_bytes += sum(map(len, pieces))
        held = sum(one.stat().st_size for one in self.directory.glob("v1/*/*/*"))
        self.fullest_bytes = max(self.fullest_bytes, held)
        self.over += [held] if held > self.most_bytes else []


def test_limit_and_budget_hold_to_the_byte_while_all_is_asked_at_once(tmp_path: Path) -> None:
    """Written, read, waited for, let go and distrusted, in any order."""
    rng, limit, budget = random.Random(8), 40_000, 90_000
    files = Scales(tmp_path, limit)
    limits = replace(ROOM, max_bytes=limit, day_bytes=budget)
    thread = DiskThread(DiskStore(tmp_path, limits, PaperCodec(), lambda: 1e9, files), queue_bytes=30_000)
    thread.start()
    texts = [tuple(range(turn % 7 * 1000, turn % 7 * 1000 + rng.randrange(1, 1200))) for turn in range(200)]
    for turn, ids in enumerate(texts):
        labels = [*chain(ids), *([state(ids)] if turn % 3 == 0 else [])]
        for label in labels:
            thread.save(label, paper(label, padding=rng.randrange(900)), job=f"job {turn}")
        thread.want(f"job {turn}", want((*ids, 1, 2), state=turn % 3 == 0))
        keys = [label.key for label in rng.sample(labels, k=min(2, len(labels)))]
        rng.choice([thread.let_go, thread.distrust, lambda _: None, lambda _: None])(keys)
        if turn % 5 == 0:
            thread.kept([f"job {turn}"]).result(SOON_S)
    assert thread.close(SOON_S)
    stats = thread.stats()
    assert files.over == [] and files.fullest_bytes > 0.9 * limit, "otherwise this shows nothing"
    assert files.written_bytes == stats.written_bytes == stats.written_today_bytes <= budget
    assert stats.refused.get("day_budget", 0) > 0 and "fault" not in stats.refused, stats
    found = thread.fetched()
    assert len(found) == len(texts) and sum(len(one.blocks) for one in found) > 20
    assert all(one.handle == replace(paper(one.label)) for answer in found for one in answer.blocks)
    assert stats.nbytes == sum(one.stat().st_size for one in tmp_path.glob("v1/*/*/*"))


def test_two_processes_on_one_directory_cost_each_other_misses_and_nothing_else(tmp_path: Path) -> None:
    """The state directory's lock keeps daemons apart; a copied or linked directory has none."""
    rng = random.Random(4)
    both = [Shelf(tmp_path, replace(ROOM, max_bytes=9_000)), Shelf(tmp_path, replace(ROOM, max_bytes=9_000))]
    served = missed = 0
    for turn in range(200):
        shelf, ids = rng.choice(both), tuple(range(turn % 9 * 1000, turn % 9 * 1000 + rng.randrange(1, 900)))
        shelf.write(chain(ids))
        for label in chain(ids):
            found = rng.choice(both).store.read(label.key, ROOT.key)
            assert found is None or (found.label == label and found.handle.text == paper(label).text)  # type: ignore[union-attr]
            served, missed = served + (found is not None), missed + (found is None)
        if turn % 20 == 0:
            shelf.open()
    assert served > 100 and missed > 20
    both[0].open().drop([])
    both[0].check()


def test_a_directory_that_is_removed_under_a_running_thread_is_written_anew(tmp_path: Path) -> None:
    labels, place = chain(tuple(range(900))), tmp_path / "kv"
    thread = DiskThread(DiskStore(place, ROOM, PaperCodec(), lambda: 1e9, files := SwiftFiles()))
    thread.start()
    for label in labels:
        thread.save(label, paper(label))
    assert thread.settle(SOON_S)
    files.remove_folder(place)
    thread.want("job", want((*range(900), 1)))
    assert thread.settle(SOON_S)
    (found,) = thread.fetched()
    assert found.blocks == () and found.flawed is not None
    for label in labels:
        thread.save(label, paper(label))
    thread.want("again", want((*range(900), 1)))
    assert thread.settle(SOON_S)
    thread.want("later", want((*range(900), 1)))
    assert thread.close(SOON_S)
    assert [one.label for one in thread.fetched()[-1].blocks][:1] == labels[:1]
