"""The disk's answers come late: what has gone from memory or was ordered away since is not brought back by them."""

from __future__ import annotations

import pytest

from inference.cache.blocks import pack
from inference.cache.disk_fetch import Fetched
from inference.cache.disk_records import Stored
from inference.cache.limits import CacheLimits
from inference.cache.restore import restore
from inference.cache.reuse import Query, ReuseMode
from inference.cache.store import Store
from tests.disk_shelf import ROOT, paper, state, want

IDS = tuple(range(1000, 1700))


@pytest.mark.parametrize("at", [256, 300, 512])
def test_a_state_whose_blocks_left_memory_meanwhile_is_let_go(at: int) -> None:
    """Nothing else was read for the job: its blocks were in memory when the disk was asked."""
    store = Store(CacheLimits(1 << 20, 1 << 20, 1 << 20))
    query = Query(ROOT, pack(IDS), len(IDS) - 1, True, ReuseMode.TOKEN, "")
    label = state(IDS[:at])
    found = Fetched("job", want(IDS, in_memory=at, state=True), state=Stored(label, paper(label)))
    assert restore(store, query, found, 1.0) == ()
    assert not store.tree.snapshots and not store.tree.leaves
