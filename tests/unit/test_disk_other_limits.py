"""Other limits for a disk that is in use: kept at once, and counted from what was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from inference.cache.disk_limits import FREE_SHARE, MOST_BYTES, disk_limits_of
from tests.disk_shelf import IDS, ROOM, Shelf, chain


def test_what_is_above_a_new_limit_goes_from_the_ends_of_paths(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.write(chain(IDS))
    held = shelf.on_disk()
    most = sum(held.values()) - 1
    shelf.store.limit(replace(ROOM, max_bytes=most))
    assert 0 < sum(shelf.on_disk().values()) <= most and shelf.store.limit_bytes == most
    assert not list(shelf.store.index.unreachable())
    shelf.store.limit(ROOM)
    shelf.write(chain(IDS))
    assert shelf.on_disk() == held, "there is room again"
    shelf.check()


@pytest.mark.parametrize("first_bytes", [0, 1 << 30])
def test_a_days_limit_counts_what_was_written_before_it(tmp_path: Path, first_bytes: int) -> None:
    shelf = Shelf(tmp_path, replace(ROOM, day_bytes=first_bytes))
    shelf.write(chain(IDS))
    written = shelf.store.budget.used_bytes
    assert written > 0
    for day_bytes, allowed in ((written, False), (written + 10, True), (0, True), (1, False)):
        shelf.store.limit(replace(ROOM, day_bytes=day_bytes))
        assert shelf.store.budget.allows(10) is allowed


def test_what_nobody_says_is_a_part_of_the_disk() -> None:
    auto, said = disk_limits_of(None, 5), disk_limits_of(7, 0, 3.0)
    assert (auto.max_bytes, auto.max_free_share, auto.day_bytes) == (MOST_BYTES, FREE_SHARE, 5)
    assert (said.max_bytes, said.max_free_share, said.ttl_s) == (7, 1.0, 3.0)
