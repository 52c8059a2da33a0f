"""What leaves the cache first, and what never does."""

from __future__ import annotations

from dataclasses import replace

from inference.cache.blocks import Root
from inference.cache.node import Admission
from inference.cache.verdict import VerdictName
from tests.cache_driver import Driver
from tests.cache_talks import BLOCK, PLENTY, ROOT, stored, talk, warm


def test_at_equal_age_and_use_the_longer_survives() -> None:
    driver = Driver(replace(PLENTY, budget_bytes=8 * BLOCK))
    rows = [driver.start(ROOT, talk(1, 1024)), driver.start(ROOT, talk(2, 256)), driver.start(ROOT, talk(3, 256))]
    for row in rows:
        driver.compute(row, len(row.ids))
    at = driver.now_s
    for row in rows:
        driver.finish(row)
    driver.now_s = at + 100
    for node in driver.cache._store.tree.leaves:
        for before in node.upwards():
            before.last_used_s = at
    stored(driver, talk(4, 512))
    stored(driver, talk(5, 256))
    assert warm(driver, talk(1, 1024)) == 1024
    assert warm(driver, talk(2, 256)) == 0


def test_at_equal_age_and_length_the_more_used_survives() -> None:
    driver = Driver(replace(PLENTY, budget_bytes=3 * BLOCK))
    for number in (1, 2):
        stored(driver, talk(number, 256))
    for _ in range(4):
        driver.finish(driver.start(ROOT, (*talk(1, 256), 9)))
    for node in driver.cache._store.tree.leaves:
        node.last_used_s = driver.now_s
    stored(driver, talk(3, 512))
    assert (warm(driver, talk(1, 256)), warm(driver, talk(2, 256))) == (256, 0)


def test_what_is_dear_to_compute_survives() -> None:
    driver = Driver(replace(PLENTY, budget_bytes=3 * BLOCK))
    cheap, dear = Root("cheap", "a", token_cost=1.0), Root("dear", "b", token_cost=50.0)
    stored(driver, talk(1, 256), root=dear)
    stored(driver, talk(1, 256), root=cheap)
    stored(driver, talk(2, 512), root=cheap)
    assert (warm(driver, talk(1, 256), dear), warm(driver, talk(1, 256), cheap)) == (256, 0)


def test_a_shared_prefix_is_stored_once_and_outlives_its_branches() -> None:
    driver = Driver(PLENTY)
    prefix = talk(1, 4096)
    for branch in range(12):
        stored(driver, prefix + talk(2 + branch, 256))
    assert driver.cache.stats().block_bytes == (4096 + 12 * 256) * 10
    driver.now_s += 100
    small = Driver(replace(PLENTY, budget_bytes=20 * BLOCK))
    for branch in range(12):
        stored(small, prefix + talk(2 + branch, 256))
    assert warm(small, prefix) == 4096


def test_one_conversation_leaves_from_its_end_rather_than_a_piece_of_each() -> None:
    driver = Driver(replace(PLENTY, budget_bytes=12 * BLOCK))
    for number in (1, 2, 3):
        stored(driver, talk(number, 1024))
    stored(driver, talk(4, 512))
    assert [warm(driver, talk(number, 1024)) for number in (1, 2, 3)] == [512, 1024, 1024]


def test_one_shots_never_push_out_a_conversation() -> None:
    driver = Driver(replace(PLENTY, budget_bytes=4 * BLOCK, side_budget_bytes=2 * BLOCK))
    stored(driver, talk(1, 1024))
    for number in range(2, 30):
        stored(driver, talk(number, 512), admission=Admission.ONE_SHOT)
    assert warm(driver, talk(1, 1024)) == 1024
    assert warm(driver, talk(29, 512)) == 512
    stats = driver.cache.stats()
    assert (stats.block_bytes, stats.side_bytes) == (4 * BLOCK, 2 * BLOCK)


def test_a_conversation_behind_a_one_shot_makes_it_its_own() -> None:
    driver = Driver(replace(PLENTY, budget_bytes=8 * BLOCK, side_budget_bytes=4 * BLOCK))
    stored(driver, talk(1, 512), admission=Admission.ONE_SHOT)
    stored(driver, talk(1, 768))
    stats = driver.cache.stats()
    assert (stats.block_bytes, stats.side_bytes) == (3 * BLOCK, 0)
    assert driver.cache.check_integrity() == []


def test_a_running_row_keeps_its_path_and_what_does_not_fit_is_refused() -> None:
    driver = Driver(replace(PLENTY, budget_bytes=2 * BLOCK))
    running = driver.start(ROOT, talk(1, 512))
    driver.compute(running, 512)
    other = driver.start(ROOT, talk(2, 300))
    driver.compute(other, 300)
    driver.check_always()
    assert (warm(driver, talk(1, 512)), warm(driver, talk(2, 300))) == (512, 0)
    assert driver.cache.counters.refused_tokens == 300
    driver.finish(running)
    driver.finish(other)
    stored(driver, talk(2, 300))
    assert warm(driver, talk(2, 300)) == 300


def test_memory_can_be_asked_back() -> None:
    driver = Driver(PLENTY)
    stored(driver, talk(1, 512), admission=Admission.ONE_SHOT)
    stored(driver, talk(2, 1024))
    running = driver.start(ROOT, (*talk(2, 512), 1))
    driver.cache.free(3 * BLOCK, "load")
    assert [warm(driver, talk(1, 512)), warm(driver, talk(2, 1024))] == [0, 768]
    evicted = driver.cache.free(10**9, "load")
    assert sum(gone.nbytes for gone in evicted) == BLOCK
    assert warm(driver, talk(2, 1024)) == 512
    driver.finish(running)
    driver.cache.free(10**9, "load")
    assert driver.cache.stats().block_bytes == 0


def test_room_is_made_in_batches() -> None:
    driver = Driver(replace(PLENTY, budget_bytes=64 * BLOCK))
    for number in range(64):
        stored(driver, talk(number, 256))
    row = driver.start(ROOT, talk(100, 1))
    driver.compute(row, 1)
    counters = driver.cache.counters
    assert (counters.eviction_batches, counters.evicted_for[VerdictName.EVICTED]) == (1, 2)


def test_snapshots_have_a_budget_of_their_own() -> None:
    driver = Driver(replace(PLENTY, snapshot_budget_bytes=1200))
    for number in (1, 2, 3):
        stored(driver, talk(number, 256), state=0)
    stats = driver.cache.stats()
    assert (stats.snapshot_bytes, stats.block_bytes) == (1000, 3 * BLOCK)
    depths = [driver.cache.lookup(ROOT, (*talk(n, 256), 1), needs_snapshot=True).depth_tokens for n in (1, 2, 3)]
    assert depths == [0, 256, 256]


def test_where_a_conversation_stands_outlives_where_others_came_past() -> None:
    driver = Driver(replace(PLENTY, snapshot_budget_bytes=3 * 500))
    resting, busy = talk(1, 400), talk(2, 400)
    stored(driver, resting, state=0)
    for turn in range(5):
        busy += talk(3 + turn, 200)
        stored(driver, busy, state=0)
    for ids in (resting, busy):
        assert driver.cache.lookup(ROOT, (*ids, 1), needs_snapshot=True).depth_tokens == len(ids)


def test_what_a_lease_wrote_can_be_discarded() -> None:
    driver = Driver(PLENTY)
    stored(driver, talk(1, 512))
    row = driver.start(ROOT, talk(1, 512) + talk(2, 400))
    driver.compute(row, 400)
    driver.abort(row)
    assert warm(driver, talk(1, 512) + talk(2, 400)) == 512
    driver.check_always()


def test_a_state_kept_behind_another_s_blocks_is_discarded_too() -> None:
    driver = Driver(PLENTY)
    stored(driver, talk(1, 512))
    row = driver.start(ROOT, (*talk(1, 512), 1), needs_snapshot=True)
    driver.compute(row, 512, state=100)
    assert driver.cache.stats().snapshot_bytes == 500
    driver.abort(row)
    driver.check_always()
    assert driver.cache.stats().snapshot_bytes == 0
    assert warm(driver, talk(1, 512)) == 512
