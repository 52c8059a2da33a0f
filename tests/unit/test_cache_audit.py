"""Which warm requests are audited, and what quarantine takes: pure rules, without an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.cache.audit import WAITING, AuditCase, AuditKind, AuditQueue, Kinds, worth
from inference.cache.blocks import Root
from inference.cache.limits import CacheLimits
from inference.cache.prefix_cache import PrefixCache
from inference.cache.quarantine import quarantine
from inference.cache.verdict import VerdictName
from inference.params import CacheScope
from inference.tokens import TokenIds
from tests.cache_driver import KV

ROOT = Root("model", "weights")
kinds = st.frozensets(st.sampled_from(AuditKind))


def offer(queue: AuditQueue, seen: Kinds, number: int = 0) -> None:
    queue.offer(seen, lambda: AuditCase(number.to_bytes(4, "little"), CacheScope(), None, seen))


def taken(queue: AuditQueue) -> list[AuditCase]:
    return list(iter(queue.take, None))


@given(every=st.integers(1, 9), seen=st.lists(kinds, max_size=60))
def test_each_kind_once_and_of_the_others_one_in_so_many(every: int, seen: list[Kinds]) -> None:
    queue, told = AuditQueue(every), []
    for number, one in enumerate(seen):
        offer(queue, one, number)
        told += taken(queue)
    first = len(set(seen))
    assert len(told) == first + (len(seen) - first) // every
    assert {case.kinds for case in told} == set(seen), "none is left out"


@given(seen=st.lists(kinds, min_size=1, max_size=60))
def test_those_worth_most_come_first_and_the_rest_is_bounded(seen: list[Kinds]) -> None:
    queue = AuditQueue(1)
    for one in seen:
        offer(queue, one)
    assert len(queue) == min(WAITING, len(seen))
    told = [case.worth for case in taken(queue)]
    assert told == sorted(map(worth, seen), reverse=True)[:WAITING]


@given(boundary=st.integers(0, 7))
def test_of_those_between_two_choices_the_boundary_case_is_chosen(boundary: int) -> None:
    plain, disk, queue = frozenset[AuditKind](), frozenset({AuditKind.DISK}), AuditQueue(8, chance=lambda _: 0)
    offer(queue, plain)
    offer(queue, disk)
    taken(queue)
    for number in range(8):
        offer(queue, disk if number == boundary else plain, number)
    assert [case.kinds for case in taken(queue)] == [disk]


def test_nothing_is_chosen_where_nothing_is_wanted() -> None:
    queue = AuditQueue(0)
    for number in range(100):
        offer(queue, frozenset(), number)
    assert not len(queue) and queue.take() is None


# --- quarantine -------------------------------------------------------------------------------------------------


def stored(cache: PrefixCache, sequences: Iterable[TokenIds]) -> None:
    for ids in sequences:
        lease = cache.hold(cache.lookup(ROOT, ids), "r")
        ends = [*range(256, len(ids), 256), len(ids)]
        cache.commit(lease, ids, 0, [KV(ROOT, ids[:end], (end - 1) // 256 * 256, True) for end in ends])
        cache.release(lease)


def made() -> PrefixCache:
    return PrefixCache(CacheLimits(budget_bytes=1 << 30), clock())


def clock() -> Callable[[], float]:
    ticks = iter(range(1_000_000))
    return lambda: float(next(ticks))


@settings(max_examples=30, deadline=None)
@given(bad=st.integers(0, 799), split=st.integers(1, 799))
def test_from_the_first_bad_block_on_nothing_is_reused_and_the_verdict_says_so(bad: int, split: int) -> None:
    """Another conversation parts from the first at `split`, and keeps what it does not share with the bad block."""
    ids, other = tuple(range(800)), (*range(split), *range(9000, 9900))
    cache = made()
    stored(cache, (ids, other))
    gone = quarantine(cache.books, cache.lookup(ROOT, (*ids, 1)), bad)
    assert gone and cache.check_integrity() == []
    line = bad // 256 * 256
    again = cache.lookup(ROOT, (*ids, 1))
    assert again.depth_tokens <= line
    assert (again.verdict.name, again.verdict.lost_tokens) == (VerdictName.QUARANTINED, 800 - again.depth_tokens)
    assert cache.lookup(ROOT, (*other, 1)).depth_tokens == (len(other) if split <= line else line)
    stored(cache, (ids,))
    assert cache.lookup(ROOT, (*ids, 1)).verdict.name is VerdictName.EXACT, "fresh blocks have taken the place"
