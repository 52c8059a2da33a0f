"""What is asked before anything goes to make room, and what counts as a file that is not what was written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from inference.cache.disk_check import check
from inference.cache.disk_records import BlockLabel
from inference.cache.disk_stats import health_of
from inference.prefix_store import DiskState
from tests.disk_shelf import ROOM, PaperCodec, Shelf, chain

IDS = tuple(range(1000, 1700))


def test_nothing_goes_for_a_file_that_the_day_has_no_budget_for(tmp_path: Path) -> None:
    mine = chain(IDS)
    theirs = chain(tuple(range(256)))
    shelf = Shelf(tmp_path)
    shelf.write(mine)
    held_bytes = shelf.store.index.nbytes
    shelf.limits = replace(ROOM, max_bytes=held_bytes, day_bytes=held_bytes)
    shelf.open()
    shelf.store.budget.take(held_bytes)
    assert shelf.write(theirs) == [False] and shelf.store.counters.refused == {"day_budget": 1}
    assert len(shelf.store.index) == len(mine), "what is there was removed for what could not be written"
    shelf.now_s += 86_400
    assert shelf.write(theirs) == [True] and shelf.store.counters.dropped["evicted"] >= 1
    shelf.check()


def _in_the_place_of(shelf: Shelf, other: BlockLabel, label: BlockLabel) -> None:
    """A whole file under the name of another."""
    taken = shelf.store.index.get(label.key)
    given = shelf.store.index.get(other.key)
    assert taken is not None and given is not None
    shutil.copyfile(shelf.path(given), shelf.path(taken))


@pytest.mark.parametrize("whole", [False, True])
def test_a_whole_file_under_another_name_is_foreign_to_whoever_looks(tmp_path: Path, whole: bool) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    _in_the_place_of(shelf, labels[0], labels[1])
    flaws = sorted(found.flaw for found in check(tmp_path, PaperCodec(), whole=whole))
    assert flaws == ["", "", "foreign"]


def test_a_foreign_file_counts_among_what_was_not_what_was_written(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    _in_the_place_of(shelf, labels[0], labels[1])
    assert shelf.store.read(labels[1].key, labels[1].root) is None
    found = health_of(shelf.store, shelf.store.outage)
    assert (found.state, found.corrupt, found.dropped) == (DiskState.OK, 1, 1)


def test_a_file_of_another_tree_is_not_given_out(tmp_path: Path) -> None:
    """Names hold half of a tree's key: the whole one is compared."""
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels[:1])
    other = labels[0].root[:16] + bytes(16)
    assert shelf.store.read(labels[0].key, other) is None and shelf.store.counters.dropped["foreign"] == 1


def test_a_name_says_all_that_a_label_does(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    entry = shelf.store.index.get(labels[1].key)
    assert entry is not None and entry.is_named_by(labels[1])
    for changed in ({"start": 0, "end": 256}, {"parent": bytes(32)}, {"root": bytes(32)}, {"own": bytes(32)}):
        assert not entry.is_named_by(replace(labels[1], **changed)), changed
    assert not entry.is_named_by(replace(labels[1], ids=labels[1].ids[:-4] + bytes(4)))
