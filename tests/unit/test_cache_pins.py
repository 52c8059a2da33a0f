"""Pinned beginnings: what keeps them, what they give way to, and that nothing of them stays behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from inference.cache.keeper import StoreKeeper
from tests.cache_driver import KV
from tests.unit.test_cache_keeper import BYTES, A, Shelf, sequence


class Watched(KV):
    """Can be looked at without being held."""


def pinned() -> tuple[Shelf, weakref.ref[KV]]:
    """A store with one pinned block of a session, and a look at that block."""
    shelf, ids = Shelf(budget_bytes=8 * BYTES), sequence(0)
    handle: KV = Watched(A, ids, 0, True)
    lease = shelf.cache.hold(shelf.cache.lookup(A, ids, session="warm"), "r")
    shelf.cache.commit(lease, ids, 0, [handle])
    shelf.cache.release(lease)
    assert shelf.keeper.pin("warm") is not None
    return shelf, weakref.ref(handle)


def test_what_is_pinned_outlasts_what_others_need_room_for() -> None:
    shelf, _ = pinned()
    for number in range(1, 20):
        shelf.put(sequence(number))
    assert shelf.has(sequence(0)) and not shelf.has(sequence(1))
    assert shelf.keeper.free(100 * BYTES, "r") and shelf.has(sequence(0))


@pytest.mark.parametrize(
    "order",
    [
        lambda keeper: keeper.clear(),
        lambda keeper: keeper.clear(model="a"),
        lambda keeper: keeper.clear(session="warm"),
        lambda keeper: keeper.free(100 * BYTES, "r", locked=True),
    ],
)
def test_what_an_order_takes_is_gone_from_memory_and_not_pinned_any_more(
    order: Callable[[StoreKeeper], object],
) -> None:
    shelf, look = pinned()
    order(shelf.keeper)
    assert not shelf.has(sequence(0)) and shelf.keeper.held_bytes == 0
    gc.collect()
    assert look() is None, "its arrays are held, and counted nowhere"
    assert shelf.keeper.stats()["pinned"] == []
