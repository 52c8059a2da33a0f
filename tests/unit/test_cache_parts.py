"""Siblings that part within a block hold its beginning once: who frees what, and in whose budget it lives."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.cache.blocks import Root, pack
from inference.cache.eviction import Evicted
from inference.cache.limits import CacheLimits
from inference.cache.node import Admission
from inference.cache.prefix_map import PrefixMap
from tests.cache_driver import Driver, common

ROOT = Root("m", "w")
PLENTY = CacheLimits(budget_bytes=10**9, snapshot_budget_bytes=10**9, side_budget_bytes=10**9)
TRUNK = tuple(range(456))
BRANCH = (*TRUNK[:356], *range(1000, 1050))
"""Both share a whole block and 100 tokens of the next; 100 are the trunk's alone, 50 the branch's. 10 bytes each."""


def stored(driver: Driver, ids: tuple[int, ...], admission: Admission = Admission.MAIN, session: str = "") -> None:
    row = driver.start(ROOT, ids, session=session, admission=admission)
    if len(ids) > row.computed:
        driver.compute(row, len(ids) - row.computed, state=-1)
    driver.finish(row)
    driver.check_always()


def warm(driver: Driver, ids: tuple[int, ...]) -> int:
    return driver.cache.lookup(ROOT, (*ids, 999_999)).depth_tokens


def held(driver: Driver) -> tuple[int, int]:
    """Bytes of conversations and of one-shots."""
    driver.check_always()
    held = driver.cache.books.tree.block_bytes
    return held[Admission.MAIN], held[Admission.ONE_SHOT]


def forget(driver: Driver, session: str) -> tuple[Evicted, ...]:
    gone = driver.cache.clear(session=session)
    driver.check_always()
    return gone


@pytest.mark.parametrize(
    ("goes", "freed", "stays", "warmth"),
    [("trunk", 1000, BRANCH, 406), ("branch", 500, TRUNK, 456)],
)
def test_what_goes_frees_its_own_tokens_and_leaves_the_other_whole(
    goes: str, freed: int, stays: tuple[int, ...], warmth: int
) -> None:
    driver = Driver(PLENTY)
    stored(driver, TRUNK, session="trunk")
    stored(driver, BRANCH, session="branch")
    assert held(driver) == (4560 + 500, 0)
    gone = forget(driver, goes)
    assert [(one.start, one.nbytes) for one in gone] == [(256, freed)]
    assert held(driver)[0] == 5060 - freed
    assert warm(driver, stays) == warmth
    rest = forget(driver, {"trunk": "branch", "branch": "trunk"}[goes])
    assert sum(one.nbytes for one in rest) == 5060 - freed and held(driver) == (0, 0)


def test_one_block_parts_at_any_depths_and_in_any_order() -> None:
    driver = Driver(PLENTY, exact=False)
    cuts = (300, 420, 260, 257, 419, 421, 455, 299, 301, 340)
    stored(driver, TRUNK)
    for at, cut in enumerate(cuts):
        stored(driver, (*TRUNK[:cut], 5000 + at, 6000))
    assert held(driver) == (10 * (456 + 2 * len(cuts)), 0)
    node = driver.cache.lookup(ROOT, (*TRUNK, 1)).nodes[-1]
    assert node.handle is not None and len(node.handle.parts) == len(cuts) + 1


def test_a_part_stays_a_conversations_until_it_goes() -> None:
    """Otherwise a conversation that leaves would overfill the budget of the one-shots that go on from it."""
    driver = Driver(replace(PLENTY, side_budget_bytes=500))
    stored(driver, TRUNK, session="trunk")
    stored(driver, BRANCH, Admission.ONE_SHOT)
    assert held(driver) == (4560, 500)
    forget(driver, "trunk")
    assert held(driver) == (3560, 500)
    assert warm(driver, BRANCH) == 406


def test_a_conversation_makes_the_part_of_a_one_shot_its_own() -> None:
    driver = Driver(PLENTY)
    stored(driver, TRUNK, Admission.ONE_SHOT)
    assert held(driver) == (0, 4560)
    stored(driver, BRANCH)
    assert held(driver) == (3560 + 500, 1000)


@given(st.sets(st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple), min_size=1, max_size=12), st.data())
def test_the_nearest_but_one_is_what_comparing_all_finds(texts: set[tuple[int, ...]], data: st.DataObject) -> None:
    keys = {text for text in texts if not any(text != other and other[: len(text)] == text for other in texts)}
    left_out = data.draw(st.sampled_from(sorted(keys)))
    sought = left_out + tuple(data.draw(st.lists(st.integers(0, 2), max_size=4)))
    table: PrefixMap[tuple[int, ...]] = PrefixMap()
    for key in keys:
        table.set(pack(key), key)
    best, shared = table.nearest(pack(sought), pack(left_out))
    assert shared == max((common(key, sought) for key in keys - {left_out}), default=0)
    assert best is None or (best != left_out and common(best, sought) == shared)
