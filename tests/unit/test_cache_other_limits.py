"""Limits that change while rows run: what is above them goes at once, what rows stand on when they end."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.cache.keeper import StoreKeeper
from inference.cache.limits import CacheLimits, limits_of
from inference.cache.node import Admission
from inference.prefix_store import StoreLimits
from tests.cache_driver import Driver
from tests.cache_talks import BLOCK, PLENTY, ROOT, stored, talk, warm

talks = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.sampled_from(Admission), st.booleans()), min_size=1, max_size=8
)
budgets = st.builds(
    CacheLimits,
    budget_bytes=st.integers(0, 12).map(lambda blocks: blocks * BLOCK),
    snapshot_budget_bytes=st.integers(0, 4).map(lambda states: states * 500),
    side_budget_bytes=st.integers(0, 4).map(lambda blocks: blocks * BLOCK),
)


def check_shrunk(driver: Driver) -> None:
    """Above a budget is only what rows stand on."""
    driver.cache.books.shrink(driver.now_s)
    tree, limits = driver.cache.books.tree, driver.limits
    for admission in Admission:
        if tree.block_bytes[admission] > limits.block_budget(admission):
            loose = [leaf for leaf in tree.leaves if not leaf.locks and leaf.admission is admission]
            assert not loose, "something could have gone"
    if tree.snapshot_bytes > limits.snapshot_budget_bytes:
        assert all(held.locks for held in tree.snapshots)
    assert driver.cache.check_integrity() == []


@given(talks=talks, orders=st.lists(budgets, min_size=1, max_size=4))
def test_what_is_above_a_new_budget_goes_but_for_what_rows_stand_on(
    talks: list[tuple[int, int, Admission, bool]], orders: list[CacheLimits]
) -> None:
    driver = Driver(PLENTY)
    for number, blocks, admission, runs in talks:
        row = driver.start(ROOT, talk(number, blocks * 256), admission=admission)
        driver.compute(row, len(row.ids) - row.computed, state=0)
        if not runs:
            driver.finish(row)
    for limits in orders:
        driver.limits = limits
        driver.cache.limit(limits)
        check_shrunk(driver)
        for row in driver.rows:
            driver._check_locked(row)
    for row in list(driver.rows):
        driver.finish(row)
    driver.check_always()
    driver.limits = PLENTY
    driver.cache.limit(PLENTY)
    stored(driver, talk(9, 512))
    assert warm(driver, talk(9, 512)) == 512, "there is room again"


def test_what_has_become_too_old_goes_at_the_next_look() -> None:
    driver = Driver(PLENTY)
    stored(driver, talk(1, 512))
    driver.wait(50)
    assert warm(driver, talk(1, 512)) == 512
    driver.now_s += 50
    driver.cache.limit(replace(PLENTY, ttl_s=20.0))
    driver.cache.sweep()
    assert warm(driver, talk(1, 512)) == 0


def test_sessions_above_a_new_number_go() -> None:
    driver = Driver(PLENTY)
    for number in (1, 2, 3):
        stored(driver, talk(number, 256), session=f"s{number}")
    driver.cache.limit(replace(PLENTY, max_sessions=1))
    assert [warm(driver, talk(number, 256)) for number in (1, 2, 3)] == [0, 0, 256]


def test_the_keeper_tells_what_went_and_gives_it_back_once() -> None:
    driver = Driver(PLENTY)
    for number in (1, 2, 3, 4):
        stored(driver, talk(number, 256))
    given_back: list[int] = []
    keeper = StoreKeeper(driver.cache, lambda: given_back.append(1), device_bytes=24 * BLOCK)
    assert keeper.limit(StoreLimits(memory_bytes=4 * BLOCK)).blocks == 0 and not given_back
    gone = keeper.limit(StoreLimits(memory_bytes=2 * BLOCK))
    assert (gone.blocks, gone.nbytes, len(given_back)) == (3, 3 * BLOCK, 1), "a little more, so that it is done once"
    assert keeper.totals().budget_bytes == 2 * BLOCK
    keeper.limit(StoreLimits())
    assert keeper.totals().budget_bytes == 8 * BLOCK, "what is not set is a part of the device"


@pytest.mark.parametrize("name", [one.name for one in fields(StoreLimits) if "memory" not in one.name])
def test_every_limit_that_may_be_set_is_one_of_the_cache(name: str) -> None:
    assert asdict(limits_of(StoreLimits(**{name: 7}), 1 << 20))[name] == 7
