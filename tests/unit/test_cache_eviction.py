"""Who goes when room is needed, and what the limits of number and time remove."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference.cache.blocks import Root
from inference.cache.limits import CacheLimits
from inference.cache.node import Admission
from inference.cache.verdict import VerdictName
from tests.cache_driver import KV, Driver, RowOfTest, State

ROOT = Root("m", "w")
BLOCK = 2560
PLENTY = CacheLimits(budget_bytes=10**9, snapshot_budget_bytes=10**9, side_budget_bytes=10**9)


def talk(number: int, tokens: int) -> tuple[int, ...]:
    return tuple(range(number * 10_000, number * 10_000 + tokens))


def stored(
    driver: Driver,
    ids: tuple[int, ...],
    *,
    session: str = "",
    admission: Admission = Admission.MAIN,
    root: Root = ROOT,
    state: int = -1,
) -> RowOfTest:
    row = driver.start(root, ids, session=session, admission=admission)
    driver.compute(row, len(ids) - row.computed, state=state)
    driver.finish(row)
    return row


def warm(driver: Driver, ids: tuple[int, ...], root: Root = ROOT) -> int:
    return driver.cache.lookup(root, (*ids, 999_999)).depth_tokens


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


# --- limits of time and number --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("waited_s", "left"), [(29.0, 512), (30.0, 0)])
def test_blocks_unused_for_ttl_s_go(waited_s: float, left: int) -> None:
    driver = Driver(replace(PLENTY, ttl_s=30.0))
    stored(driver, talk(1, 512))
    driver.wait(waited_s)
    assert warm(driver, talk(1, 512)) == left
    assert (driver.cache.lookup(ROOT, (*talk(1, 512), 1)).verdict.name is VerdictName.EXPIRED) == (left == 0)


def test_use_renews_and_locks_hold_off_the_ttl() -> None:
    driver = Driver(replace(PLENTY, ttl_s=30.0))
    stored(driver, talk(1, 512))
    driver.wait(20)
    row = driver.start(ROOT, talk(1, 512))
    driver.wait(29)
    assert warm(driver, talk(1, 512)) == 512
    driver.wait(300)
    driver.check_always()
    driver.finish(row)
    driver.wait(31)
    assert warm(driver, talk(1, 512)) == 0


@pytest.mark.parametrize("limits", [replace(PLENTY, ttl_s=0.0), replace(PLENTY, idle_s=0.0)])
def test_zero_is_never(limits: CacheLimits) -> None:
    driver = Driver(limits)
    stored(driver, talk(1, 512), session="one")
    driver.wait(10**9)
    assert warm(driver, talk(1, 512)) == 512


def test_an_idle_session_loses_what_only_it_holds() -> None:
    driver = Driver(replace(PLENTY, idle_s=50.0))
    shared = talk(1, 512)
    stored(driver, shared + talk(2, 256), session="idle")
    driver.wait(40)
    stored(driver, shared + talk(3, 256), session="busy")
    driver.wait(20)
    assert warm(driver, shared + talk(2, 256)) == 512
    assert warm(driver, shared + talk(3, 256)) == 768


def test_a_session_keeps_its_latest_entries() -> None:
    driver = Driver(replace(PLENTY, max_entries_per_session=2))
    for number in (1, 2, 3):
        stored(driver, talk(number, 300), session="one")
    assert [warm(driver, talk(number, 300)) for number in (1, 2, 3)] == [0, 300, 300]


def test_a_request_that_goes_on_takes_the_place_of_its_entry() -> None:
    driver = Driver(replace(PLENTY, max_entries_per_session=1))
    ids = talk(1, 300)
    for turn in range(5):
        ids += talk(2 + turn, 100)
        stored(driver, ids, session="one")
    assert warm(driver, ids) == 800
    assert driver.cache.counters.evicted_tokens == 0


def test_a_one_shot_takes_no_place_among_a_session_s_entries() -> None:
    driver = Driver(replace(PLENTY, max_entries_per_session=1))
    stored(driver, talk(1, 300), session="one")
    stored(driver, talk(2, 300), session="one", admission=Admission.ONE_SHOT)
    assert warm(driver, talk(1, 300)) == 300


def test_a_session_is_not_idle_while_it_answers() -> None:
    driver = Driver(replace(PLENTY, idle_s=50.0))
    row = driver.start(ROOT, talk(1, 300), session="one")
    driver.compute(row, 300)
    driver.wait(60)
    driver.finish(row)
    driver.wait(40)
    assert warm(driver, talk(1, 300)) == 300
    driver.wait(20)
    assert warm(driver, talk(1, 300)) == 0


def test_above_the_number_of_sessions_the_least_recent_goes() -> None:
    driver = Driver(replace(PLENTY, max_sessions=2))
    for name in ("a", "b", "a", "c"):
        stored(driver, talk(ord(name), 300), session=name)
    assert [warm(driver, talk(ord(name), 300)) for name in "abc"] == [300, 0, 300]


def test_a_conversation_is_stored_up_to_its_limit() -> None:
    driver = Driver(replace(PLENTY, max_conversation_tokens=700))
    stored(driver, talk(1, 1000))
    assert warm(driver, talk(1, 1000)) == 512
    assert driver.cache.counters.refused_tokens == 488


def test_a_session_can_be_cleared_without_its_neighbours() -> None:
    driver = Driver(PLENTY)
    stored(driver, talk(1, 512) + talk(2, 100), session="one")
    stored(driver, talk(1, 512) + talk(3, 100), session="two")
    driver.cache.clear(session="one")
    assert (warm(driver, talk(1, 512) + talk(2, 100)), warm(driver, talk(1, 512) + talk(3, 100))) == (512, 612)


def test_negative_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        CacheLimits(budget_bytes=1, ttl_s=-1)


# --- commits that do not fit ----------------------------------------------------------------------------------------


def kv(ids: tuple[int, ...], start: int, stop: int) -> KV:
    return KV(ROOT, ids[:stop], start, True)


def test_commits_that_do_not_join_are_refused_loudly() -> None:
    driver = Driver(PLENTY)
    ids = talk(1, 1000)
    row = driver.start(ROOT, ids)
    driver.compute(row, 256)
    commit = driver.cache.commit
    with pytest.raises(ValueError, match="was not committed"):
        commit(row.lease, ids, 2, [kv(ids, 512, 768)])
    with pytest.raises(ValueError, match="not those of the leased path"):
        commit(row.lease, (0, *ids), 1, [kv(ids, 256, 512)])
    with pytest.raises(ValueError, match="only the last"):
        commit(row.lease, ids, 1, [kv(ids, 256, 500), kv(ids, 512, 768)])
    with pytest.raises(ValueError, match="more tokens than"):
        commit(row.lease, ids[:400], 1, [kv(ids, 256, 512)])
    with pytest.raises(ValueError, match="1 to 256"):
        commit(row.lease, ids, 1, [kv(ids, 256, 600)])
    with pytest.raises(ValueError, match="no committed blocks cover"):
        commit(row.lease, ids, 1, [], [State(ROOT, ids[:300])])
    driver.check_always()
    driver.finish(row)
    with pytest.raises(ValueError, match="has ended"):
        commit(row.lease, ids, 1, [kv(ids, 256, 512)])
    assert driver.cache.release(row.lease) == ()


def test_a_stale_lookup_is_repeated_when_it_is_held() -> None:
    driver = Driver(replace(PLENTY, budget_bytes=3 * BLOCK))
    stored(driver, talk(1, 512))
    old = driver.cache.lookup(ROOT, (*talk(1, 512), 1))
    stored(driver, talk(2, 512))
    lease = driver.cache.hold(old, "late")
    assert old.depth_tokens == 512 and lease.reuse.depth_tokens < 512
    driver.check_reuse(lease.reuse, ROOT, (*talk(1, 512), 1))


def test_two_rows_with_one_prompt_store_it_once() -> None:
    driver = Driver(PLENTY)
    rows = [driver.start(ROOT, talk(1, 700)) for _ in range(2)]
    for _ in range(2):
        for row in rows:
            driver.compute(row, 350)
    driver.check_always()
    assert driver.cache.stats().block_bytes == 7000
    for row in rows:
        driver.finish(row)
    driver.check_always()
