"""Every request says why it was warm or not, and at which token."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.cache import sessions as sessions_room
from inference.cache.blocks import Root
from inference.cache.limits import CacheLimits
from inference.cache.node import Admission
from inference.cache.reuse import ReuseMode
from inference.cache.verdict import VerdictName
from inference.events import Parting
from tests.cache_driver import Driver

ROOT = Root("m", "w", settings="kv16", template="t")
PLENTY = CacheLimits(budget_bytes=10**9, snapshot_budget_bytes=10**9, side_budget_bytes=10**9)
TALK = tuple(range(1000, 1700))


def stored(driver: Driver, ids: tuple[int, ...] = TALK, *, session: str = "", state: int = -1) -> None:
    row = driver.start(ROOT, ids, session=session)
    driver.compute(row, len(ids) - row.computed, state=state)
    driver.finish(row)


@pytest.fixture
def driver() -> Driver:
    return Driver(PLENTY)


def test_first_seen(driver: Driver) -> None:
    stored(driver)
    verdict = driver.cache.lookup(ROOT, TALK[:20] + tuple(range(300))).verdict
    assert (verdict.name, verdict.at_token, verdict.lost_tokens) == (VerdictName.FIRST_SEEN, 20, 0)


def test_exact_is_all_but_one_token(driver: Driver) -> None:
    stored(driver)
    for length in (len(TALK), 512, 300):
        reuse = driver.cache.lookup(ROOT, TALK[:length])
        assert (reuse.verdict.name, reuse.depth_tokens) == (VerdictName.EXACT, length - 1)


def test_extended_goes_on_where_something_ends(driver: Driver) -> None:
    stored(driver)
    reuse = driver.cache.lookup(ROOT, (*TALK, 1, 2, 3))
    assert (reuse.verdict.name, reuse.depth_tokens, reuse.verdict.at_token) == (VerdictName.EXTENDED, 700, 700)


def test_extended_on_a_grid_line_where_others_go_on(driver: Driver) -> None:
    stored(driver, TALK[:512], session="one")
    stored(driver)
    assert driver.cache.lookup(ROOT, (*TALK[:512], 1, 2)).verdict.name is VerdictName.EXTENDED


def test_branched_and_diverged_differ_by_whose_path_it_leaves(driver: Driver) -> None:
    stored(driver, session="one")
    ids = (*TALK[:600], 1, 2)
    assert driver.cache.lookup(ROOT, ids).verdict.name is VerdictName.BRANCHED
    assert driver.cache.lookup(ROOT, ids, session="two").verdict.name is VerdictName.BRANCHED
    mine = driver.cache.lookup(ROOT, ids, session="one").verdict
    assert (mine.name, mine.at_token, str(mine)) == (VerdictName.DIVERGED, 600, "diverged(token 600)")


def test_a_short_beginning_is_known_to_its_own_session(driver: Driver) -> None:
    stored(driver, TALK[:20], session="one")
    for session, name in (("one", VerdictName.EXTENDED), ("", VerdictName.FIRST_SEEN), ("two", VerdictName.FIRST_SEEN)):
        assert driver.cache.lookup(ROOT, (*TALK[:20], 1, 2), session=session).verdict.name is name
    for session, name in (("one", VerdictName.DIVERGED), ("two", VerdictName.FIRST_SEEN)):
        verdict = driver.cache.lookup(ROOT, (*TALK[:16], 1, 2), session=session).verdict
        assert (verdict.name, verdict.at_token) == (name, 16)


def test_too_short(driver: Driver) -> None:
    stored(driver)
    assert driver.cache.lookup(ROOT, TALK[:1]).verdict.name is VerdictName.TOO_SHORT
    assert driver.cache.lookup(ROOT, ()).verdict.name is VerdictName.TOO_SHORT
    bitwise = driver.cache.lookup(ROOT, TALK[:256], mode=ReuseMode.BITWISE)
    assert (bitwise.verdict.name, bitwise.depth_tokens) == (VerdictName.TOO_SHORT, 0)


def test_a_match_below_the_least_worth_reusing_is_left() -> None:
    driver = Driver(replace(PLENTY, min_reuse_tokens=256))
    stored(driver)
    reuse = driver.cache.lookup(ROOT, (*TALK[:255], *range(300)))
    assert (reuse.depth_tokens, reuse.kv_depth_tokens, reuse.handles) == (0, 255, ())
    assert driver.cache.lookup(ROOT, (*TALK[:256], *range(300))).depth_tokens == 256


def test_bitwise_stops_at_the_grid_and_before_decode(driver: Driver) -> None:
    row = driver.start(ROOT, TALK)
    driver.compute(row, 512)
    driver.compute(row, 88, decode=True)
    driver.compute(row, 212, decode=True)
    driver.finish(row)
    ids = (*row.ids, 1)
    assert driver.cache.lookup(ROOT, ids).depth_tokens == 812
    assert driver.cache.lookup(ROOT, ids, mode=ReuseMode.BITWISE).depth_tokens == 512


def test_an_exact_block_takes_the_place_of_an_inexact_one(driver: Driver) -> None:
    row = driver.start(ROOT, TALK)
    driver.compute(row, 512, decode=True)
    driver.finish(row)
    assert driver.cache.lookup(ROOT, TALK, mode=ReuseMode.BITWISE).depth_tokens == 0
    again = driver.start(ROOT, TALK, mode=ReuseMode.BITWISE)
    driver.compute(again, 512)
    driver.finish(again)
    assert driver.cache.lookup(ROOT, TALK, mode=ReuseMode.BITWISE).depth_tokens == 512


def test_no_snapshot_says_what_it_cost(driver: Driver) -> None:
    stored(driver, state=300)
    reuse = driver.cache.lookup(ROOT, (*TALK, 1), needs_snapshot=True)
    assert (reuse.depth_tokens, reuse.kv_depth_tokens) == (400, 700)
    assert (reuse.verdict.name, reuse.verdict.at_token, reuse.verdict.lost_tokens) == (
        VerdictName.NO_SNAPSHOT,
        400,
        300,
    )
    driver.cache.release(driver.cache.hold(reuse, "r"))
    counters = driver.cache.counters
    assert (counters.hybrid_trim_miss, counters.hybrid_trim_tokens) == (1, 300)


def test_a_snapshot_just_before_a_header_is_no_miss(driver: Driver) -> None:
    stored(driver, state=5)
    verdict = driver.cache.lookup(ROOT, (*TALK, 1, 2), needs_snapshot=True).verdict
    assert (verdict.name, verdict.lost_tokens) == (VerdictName.EXTENDED, 5)


def test_a_snapshot_shared_by_two_branches_outlives_one_of_them(driver: Driver) -> None:
    stored(driver, TALK[:600], state=20)
    stored(driver, (*TALK[:590], *range(400)))
    for branch in ((*TALK[:600], 9), (*TALK[:590], 0, 9)):
        assert driver.cache.lookup(ROOT, branch, needs_snapshot=True).depth_tokens == 580


def test_evicted_names_the_request_for_which_room_was_made() -> None:
    driver = Driver(replace(PLENTY, budget_bytes=7000))
    stored(driver)
    stored(driver, tuple(range(5000, 5600)))
    by = driver.cache.stats().recent_evictions[0].by
    verdict = driver.cache.lookup(ROOT, (*TALK, 1)).verdict
    assert (verdict.name, verdict.by, verdict.lost_tokens) == (VerdictName.EVICTED, by, 700)
    assert by == "r2" and str(verdict) == "evicted(by r2)"


def test_what_was_evicted_and_computed_again_is_warm_again() -> None:
    driver = Driver(replace(PLENTY, budget_bytes=7000))
    stored(driver)
    stored(driver, tuple(range(5000, 5600)))
    stored(driver)
    assert driver.cache.lookup(ROOT, (*TALK, 1, 2)).verdict.name is VerdictName.EXTENDED


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"weights": "w2"}, VerdictName.MODEL_RELOADED),
        ({"settings": "kv8"}, VerdictName.SETTINGS_CHANGED),
        ({"model": "other", "weights": "w2"}, VerdictName.FIRST_SEEN),
    ],
)
def test_a_session_that_finds_nothing_is_told_what_changed(
    driver: Driver, change: dict[str, str], name: VerdictName
) -> None:
    stored(driver, session="one")
    fields = {"model": "m", "weights": "w", "settings": "kv16", "template": "t"} | change
    assert driver.cache.lookup(Root(**fields), (*TALK, 1), session="one").verdict.name is name


def test_another_template_is_named_only_where_it_matters(driver: Driver) -> None:
    stored(driver, session="one")
    other = replace(ROOT, template="t2")
    assert driver.cache.lookup(other, (*TALK, 1, 2), session="one").verdict.name is VerdictName.EXTENDED
    parted = driver.cache.lookup(other, (*TALK[:300], 1, 2), session="one")
    assert (parted.verdict.name, parted.depth_tokens) == (VerdictName.TEMPLATE_CHANGED, 300)


def test_a_reload_is_named_when_it_cleared_the_store(driver: Driver) -> None:
    stored(driver)
    driver.cache.clear(ROOT, reason=VerdictName.MODEL_RELOADED)
    verdict = driver.cache.lookup(ROOT, (*TALK, 1)).verdict
    assert (verdict.name, verdict.lost_tokens) == (VerdictName.MODEL_RELOADED, 700)
    assert driver.cache.stats().block_bytes == 0


def test_a_lookup_changes_nothing(driver: Driver) -> None:
    stored(driver, session="one")
    before = driver.cache.stats()
    driver.now_s += 50
    for _ in range(3):
        driver.cache.lookup(ROOT, (*TALK, 1), session="two")
    assert driver.cache.stats() == before


def test_every_request_counts_once_and_sums_up(driver: Driver) -> None:
    stored(driver)
    row = driver.start(ROOT, (*TALK, 1, 2), admission=Admission.ONE_SHOT)
    driver.finish(row)
    counts = driver.cache.stats().counters
    assert (counts["requests"], counts["prompt_tokens"], counts["cached_tokens"]) == (2, 1402, 700)
    verdicts = counts["verdicts"]
    assert isinstance(verdicts, dict) and sum(verdicts.values()) == 2 and set(verdicts) == set(VerdictName)


def test_the_stats_are_json_and_sum_up(driver: Driver) -> None:
    stored(driver, session="one", state=0)
    stored(driver, TALK[:600] + TALK[:200])
    stats = json.loads(json.dumps(asdict(driver.cache.stats())))
    [model] = stats["models"]
    assert (model["model"], model["tokens"], model["nbytes"]) == ("m", 700 + 800 - 600, stats["block_bytes"])
    assert (model["snapshots"], model["snapshot_bytes"], stats["sessions"]) == (1, 500, 1)
    assert stats["counters"]["stored_tokens"] == model["tokens"]


def test_a_parting_is_told_from_the_path_that_the_request_follows_furthest(driver: Driver) -> None:
    """Its own, even where the last request was a sub-agent's and where other sessions have stored more."""
    stored(driver, session="one")
    stored(driver, (*TALK[:100], *range(400)), session="one")
    stored(driver, (*TALK[:300], *range(400)), session="other")
    found = driver.cache.lookup(ROOT, (*TALK[:300], *range(350), 7, 8, 9), session="one")
    assert (found.depth_tokens, str(found.verdict)) == (650, "diverged(token 300)")
    assert found.parting == Parting(300, TALK[300:316])


@pytest.mark.parametrize("ids", [(*TALK, 5), TALK[:400], TALK[:1]])
def test_what_goes_on_or_ends_within_parts_from_nothing(driver: Driver, ids: tuple[int, ...]) -> None:
    stored(driver, session="one")
    stored(driver, (*TALK[:100], *range(400)), session="one")
    assert driver.cache.lookup(ROOT, ids, session="one").parting is None


@given(common=st.integers(0, 700), own=st.integers(1, 40), other=st.integers(1, 40), grid=st.booleans())
@settings(max_examples=60)
def test_the_first_difference_is_where_the_lists_differ(common: int, own: int, other: int, grid: bool) -> None:
    driver = Driver(PLENTY)
    common = common // 256 * 256 if grid else common
    before, now = (*TALK[:common], *range(1, own + 1)), (*TALK[:common], *range(100, 100 + other), 99)
    stored(driver, before, session="one")
    assert driver.cache.lookup(ROOT, now, session="one").parting == Parting(common, before[common : common + 16])


def test_the_second_turn_of_a_short_conversation_knows_its_session(driver: Driver) -> None:
    first = driver.start(ROOT, TALK, session="one", admission=Admission.ONE_SHOT)
    driver.compute(first, len(TALK))
    driver.finish(first)
    assert driver.cache.lookup(ROOT, (*TALK, 1, 2), session="one").verdict.name is VerdictName.EXTENDED
    parted = driver.cache.lookup(ROOT, (*TALK[:600], 1, 2), session="one")
    assert str(parted.verdict) == "diverged(token 600)"
    stored(driver, (*TALK, 1, 2), session="one")
    [entry] = driver.cache._store.sessions.get("one").entries  # type: ignore[union-attr]
    assert entry.end == 702


def test_a_side_call_is_not_what_its_session_is_compared_with(driver: Driver) -> None:
    def title(ids: tuple[int, ...]) -> None:
        row = driver.start(ROOT, ids, session="one", admission=Admission.ONE_SHOT)
        driver.compute(row, len(ids))
        driver.finish(row)

    title(tuple(range(5000, 5100)))
    stored(driver, session="one")
    title(tuple(range(6000, 6100)))
    session = driver.cache._store.sessions.get("one")
    assert session is not None and [entry.end for entry in session.entries] == [700]


def test_one_shots_alone_push_no_session_out() -> None:
    driver = Driver(replace(PLENTY, max_sessions=2))
    for name in ("one", "two"):
        stored(driver, (*TALK[:300], *range(len(name), 200)), session=name)
    for number in range(5):
        row = driver.start(ROOT, tuple(range(9000 + 300 * number, 9100 + 300 * number)), session=f"title{number}",
                           admission=Admission.ONE_SHOT)  # fmt: skip
        driver.compute(row, 100)
        driver.finish(row)
    sessions = driver.cache._store.sessions
    assert sessions.get("one") is not None and sessions.get("two") is not None
    stored(driver, session="three")
    assert sessions.get("one") is None and sessions.get("two") is not None


def test_sessions_are_bounded_whatever_the_limits_say(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr(sessions_room, "MAX_KNOWN", 3)
    for number in range(5):
        stored(driver, (*TALK[:300], number, number), session=str(number))
    known = driver.cache._store.sessions
    assert [known.get(str(number)) is not None for number in range(5)] == [False, False, True, True, True]
    assert driver.cache.lookup(ROOT, (*TALK[:300], 0, 0, 7, 7)).depth_tokens == 302
    assert driver.cache.check_integrity() == []
