"""What leaves the cache because of its age or its number, and commits that do not fit into it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference.cache.limits import CacheLimits
from inference.cache.node import Admission
from inference.cache.verdict import VerdictName
from tests.cache_driver import KV, Driver, State
from tests.cache_talks import BLOCK, PLENTY, ROOT, stored, talk, warm

# --- limits of time and number ----------------------------------------------------------------------------------------


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


# --- commits that do not fit ------------------------------------------------------------------------------------------


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
