"""Memory taken back from a store: from whom, in which order, how much, and how it is told."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.cache.blocks import Root
from inference.cache.keeper import StoreKeeper
from inference.cache.limits import CacheLimits
from inference.cache.node import Admission
from inference.cache.prefix_cache import PrefixCache
from inference.cache.reuse import Lease
from inference.prefix_store import StoreTotals
from inference.tokens import TokenIds
from tests.cache_driver import KV, State

A, B = Root("a", "weights of a"), Root("b", "weights of b")
TOKENS, BYTES = 256, 2560


class Shelf:
    def __init__(self, **limits: int) -> None:
        self.now_s = 0.0
        generous = {"budget_bytes": 1 << 30, "snapshot_budget_bytes": 1 << 30, "side_budget_bytes": 1 << 30}
        self.cache = PrefixCache(CacheLimits(**generous | limits), lambda: self.now_s)
        self.given_back = 0
        self.keeper = StoreKeeper(self.cache, self.note)

    def note(self) -> None:
        self.given_back += 1

    def begin(
        self, ids: TokenIds, root: Root = A, *, side: bool = False, state: bool = False, session: str = ""
    ) -> Lease:
        """Stores a sequence of whole blocks and keeps it locked."""
        self.now_s += 1
        found = self.cache.lookup(root, ids, session=session)
        lease = self.cache.hold(found, f"r{self.now_s:g}", Admission.ONE_SHOT if side else Admission.MAIN)
        ends = range(TOKENS, len(ids) + 1, TOKENS)
        states = (State(root, ids),) if state else ()
        self.cache.commit(lease, ids, 0, [KV(root, ids[:end], end - TOKENS, True) for end in ends], states)
        return lease

    def put(self, ids: TokenIds, root: Root = A, **how: bool | str) -> TokenIds:
        self.cache.release(self.begin(ids, root, **how))  # type: ignore[arg-type]
        return ids

    def has(self, ids: TokenIds, root: Root = A) -> int:
        """How many tokens of a stored sequence are there."""
        return self.cache.lookup(root, (*ids, 0)).depth_tokens


def sequence(number: int, blocks: int = 1) -> TokenIds:
    return (number + 10_000, *range(blocks * TOKENS - 1))


def test_what_a_request_would_begin_with_is_not_taken_for_it() -> None:
    shelf = Shelf()
    oldest, *others = [shelf.put(sequence(number, 2)) for number in range(5)]
    keep = shelf.cache.lookup(A, (*oldest, 7))
    shelf.now_s += 1000
    shelf.cache.free(10**9, "r", keep=keep)
    assert [shelf.has(ids) for ids in (oldest, *others)] == [512, 0, 0, 0, 0]
    shelf.cache.free(10**9, "r", keep=keep, locked=True)
    assert shelf.has(oldest) == 512
    shelf.cache.free(10**9, "r")
    assert shelf.has(oldest) == 0, "and not for ever"


def test_locked_paths_go_last_and_only_when_told_and_their_rows_store_no_more() -> None:
    shelf = Shelf()
    lease = shelf.begin(sequence(0, 2))
    shelf.now_s += 1000
    free = shelf.put(sequence(1))
    assert shelf.keeper.free(10**9, "r") == BYTES
    assert (shelf.has(sequence(0, 2)), shelf.has(free)) == (512, 0)
    shelf.put(free)
    assert shelf.keeper.free(BYTES, "r", locked=True) == BYTES
    assert (shelf.has(sequence(0, 2)), shelf.has(free)) == (512, 0)
    assert shelf.keeper.free(10**9, "r", locked=True) == 2 * BYTES
    ids = (*sequence(0, 2), *range(TOKENS))
    done = shelf.cache.commit(lease, ids, 2, [KV(A, ids, 512, True)])
    assert (done.refused_tokens, done.stored_tokens) == (TOKENS, 0)
    shelf.cache.release(lease)
    assert shelf.cache.check_integrity() == [] and shelf.keeper.held_bytes == 0


def test_states_count_towards_what_was_asked() -> None:
    shelf = Shelf()
    for number in range(4):
        shelf.put(sequence(number), state=True)
    held = shelf.keeper.held_bytes
    assert held == 4 * (BYTES + 500)
    assert shelf.keeper.free(BYTES + 400, "r") == BYTES + 500
    assert shelf.keeper.held_bytes == held - BYTES - 500


@given(
    ceilings=st.lists(st.integers(0, 12 * BYTES), min_size=1, max_size=6),
    rows=st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.booleans()), max_size=25),
)
def test_nothing_is_stored_above_the_ceiling_to_the_byte(
    ceilings: list[int], rows: list[tuple[int, bool, bool]]
) -> None:
    shelf = Shelf(budget_bytes=8 * BYTES, side_budget_bytes=4 * BYTES, snapshot_budget_bytes=3 * 500)
    for at, (number, side, state) in enumerate(rows):
        ceiling = ceilings[at % len(ceilings)]
        before = shelf.keeper.held_bytes
        shelf.keeper.keep_within(ceiling)
        assert shelf.keeper.held_bytes == before, "saying it takes nothing away"
        shelf.put(sequence(number, 1 + number % 3), side=side, state=state)
        assert shelf.keeper.held_bytes <= max(before, ceiling)
        assert shelf.cache.check_integrity() == []
    shelf.keeper.keep_within(None)
    shelf.put(sequence(99, 8))
    assert shelf.has(sequence(99, 8)) == 8 * TOKENS


def test_buffers_are_given_back_once_for_a_batch_and_not_for_nothing() -> None:
    shelf = Shelf()
    for number in range(6):
        shelf.put(sequence(number))
    shelf.keeper.free(4 * BYTES, "r")
    assert shelf.given_back == 1
    shelf.keeper.free(0, "r")
    shelf.keeper.sweep()
    shelf.keeper.clear(model="c")
    assert shelf.given_back == 1
    shelf.keeper.clear()
    assert shelf.given_back == 2 and shelf.keeper.held_bytes == 0


def test_a_model_is_cleared_by_itself_and_what_went_is_counted() -> None:
    shelf = Shelf()
    shelf.put(sequence(0, 3), A, state=True)
    shelf.put(sequence(0, 2), B)
    gone = shelf.keeper.clear(model="a")
    assert (gone.blocks, gone.tokens, gone.snapshots, gone.nbytes) == (3, 768, 1, 3 * BYTES + 500)
    assert (shelf.has(sequence(0, 3)), shelf.has(sequence(0, 2), B)) == (0, 512)
    assert str(shelf.cache.lookup(A, (*sequence(0, 3), 0)).verdict) == "cleared"


def test_a_session_is_cleared_without_what_others_hold() -> None:
    shelf = Shelf()
    shared = sequence(0, 2)
    shelf.put((*shared, *range(TOKENS)), session="one")
    shelf.put((*shared, *range(7, 7 + TOKENS)), session="two")
    gone = shelf.keeper.clear(session="one")
    assert (gone.blocks, gone.tokens) == (1, TOKENS)
    assert shelf.has((*shared, *range(7, 7 + TOKENS))) == 768


def test_the_totals_are_those_of_the_books() -> None:
    shelf = Shelf()
    shelf.put(sequence(0, 2))
    shelf.put((*sequence(0, 2), *range(TOKENS)), side=True)
    shelf.put(sequence(1), state=True)
    shelf.keeper.keep_within(12345)
    totals, stats = shelf.keeper.totals(), shelf.keeper.stats()
    assert {field.name for field in fields(StoreTotals)} == asdict(totals).keys()
    for name in ("block_bytes", "side_bytes", "snapshot_bytes", "budget_bytes"):
        assert getattr(totals, name) == stats[name]
    for name in ("requests", "prompt_tokens", "cached_tokens", "lost_tokens", "evicted_tokens", "evicted_bytes"):
        assert getattr(totals, name) == stats["counters"][name]
    assert totals.held_bytes == totals.block_bytes + totals.side_bytes + totals.snapshot_bytes == 4 * BYTES + 500
    assert totals.hit_ratio == pytest.approx(512 / (512 + 768 + 256))
    assert (totals.ceiling_bytes, totals.room_bytes) == (12345, 12345)


@pytest.mark.parametrize(
    ("prompt", "matched", "behind"),
    [
        ((*sequence(0), 9, 9, 9), 256, (0, 1, 2)),
        ((*sequence(0)[:100], 5, 5), 100, (99, 100, 101)),
        ((5, 5, 5), 0, (10_000, 0, 1)),
    ],
)
def test_what_stands_behind_a_match_is_told(prompt: TokenIds, matched: int, behind: TokenIds) -> None:
    shelf = Shelf()
    shelf.put((*sequence(0), *range(TOKENS), *range(TOKENS)))
    found = shelf.cache.lookup(A, prompt)
    assert found.kv_depth_tokens == matched
    assert shelf.cache.behind(found, 3) == behind


def test_behind_the_end_of_everything_is_nothing_and_of_two_ways_it_is_the_last_used() -> None:
    shelf = Shelf()
    one = shelf.put((*sequence(0), *range(50, 50 + TOKENS)))
    assert shelf.cache.behind(shelf.cache.lookup(A, (*one, 1, 2)), 4) == ()
    shelf.put((*sequence(0), *range(70, 70 + TOKENS)))
    assert shelf.cache.behind(shelf.cache.lookup(A, (*sequence(0), 1, 2)), 2) == (70, 71)
    shelf.put(one)
    assert shelf.cache.behind(shelf.cache.lookup(A, (*sequence(0), 1, 2)), 2) == (50, 51)
    assert shelf.cache.behind(shelf.cache.lookup(B, (1, 2, 3)), 2) == ()
