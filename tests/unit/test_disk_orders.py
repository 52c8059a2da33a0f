"""The disk's answers come late: what has gone from memory or was ordered away since is not brought back by them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inference.cache.blocks import BLOCK_TOKENS, pack
from inference.cache.disk import DiskStore
from inference.cache.disk_fetch import Fetched
from inference.cache.disk_records import Flaw, Stored
from inference.cache.disk_thread import QUEUE_BYTES, DiskThread
from inference.cache.disk_tier import PATIENCE_S, DiskTier
from inference.cache.limits import CacheLimits
from inference.cache.prefix_cache import PrefixCache
from inference.cache.quarantine import quarantine
from inference.cache.restore import restore
from inference.cache.reuse import Query, ReuseMode
from inference.cache.store import Store
from inference.cache.tree import Match, Removed
from tests.disk_shelf import ROOM, ROOT, SOON_S, GatedFiles, Paper, PaperCodec, chain, paper, state, want

IDS = tuple(range(1000, 1700))
LIMITS = CacheLimits(1 << 20, 1 << 20, 1 << 20)
QUERY = Query(ROOT, pack(IDS), len(IDS) - 1, False, ReuseMode.TOKEN, "")


class Page(Paper):
    """A block in one part, for a tree in which nothing branches."""

    @property
    def parts(self) -> tuple[Paper, ...]:
        return (self,)

    def parted(self, tokens: int) -> Page:
        raise AssertionError("nothing branches")

    def sharing(self, other: Page, tokens: int) -> Page:
        raise AssertionError("nothing branches")


class PageCodec(PaperCodec):
    def decode(self, raw: bytes) -> Stored | Flaw:
        found = super().decode(raw)
        if isinstance(found, Flaw) or not isinstance(found.handle, Paper):
            return found
        return Stored(found.label, Page("x", found.handle.tokens, found.handle.depth))


class Life:
    """A tier on a disk that has the blocks of `IDS`, with a clock of its own."""

    def __init__(self, directory: Path, *, queue_bytes: int = QUEUE_BYTES) -> None:
        self.files, self.now_s = GatedFiles(), 100.0
        store = DiskStore(directory, ROOM, PageCodec(), lambda: 1e9, self.files)
        self.thread = DiskThread(store, queue_bytes=queue_bytes)
        self.tier = DiskTier(self.thread, lambda: self.now_s)
        self.thread.start()
        for label in chain(IDS):
            self.thread.save(label, paper(label))
        self.settle()

    def settle(self) -> None:
        assert self.thread.settle(SOON_S)

    def lose(self, key: bytes) -> None:
        def work(store: DiskStore) -> Iterator[None]:
            store.drop([key])
            yield

        self.thread.ask(work).result(SOON_S)  # type: ignore[arg-type]

    def ask(self, job: str) -> bool:
        return self.tier.ask(job, QUERY, Match(()), 0, 1 << 40)


@contextmanager
def living(directory: Path, *, queue_bytes: int = QUEUE_BYTES) -> Iterator[Life]:
    life = Life(directory, queue_bytes=queue_bytes)
    try:
        yield life
    finally:
        life.files.gate.set()
        life.thread.close(SOON_S)


@pytest.mark.parametrize("at", [256, 300, 512])
def test_a_state_whose_blocks_left_memory_meanwhile_is_let_go(at: int) -> None:
    """Nothing else was read for the job: its blocks were in memory when the disk was asked."""
    store = Store(LIMITS)
    query = Query(ROOT, pack(IDS), len(IDS) - 1, True, ReuseMode.TOKEN, "")
    label = state(IDS[:at])
    found = Fetched("job", want(IDS, in_memory=at, state=True), state=Stored(label, paper(label)))
    assert restore(store, query, found, 1.0) == ()
    assert not store.tree.snapshots and not store.tree.leaves


@pytest.mark.parametrize(
    "remove",
    [
        lambda tier: tier.clear(),
        lambda tier: tier.clear(model="model"),
        lambda tier: tier.left(Removed((), (), ()), keep=False),
    ],
)
def test_what_was_being_read_when_something_was_removed_is_given_to_nobody(
    tmp_path: Path, remove: Callable[[DiskTier], None]
) -> None:
    with living(tmp_path) as life:
        life.files.gate.clear()
        assert life.ask("job") and life.files.came.wait(SOON_S)
        remove(life.tier)
        life.files.gate.set()
        life.settle()
        assert list(life.tier.arrived()) == [] and not life.tier.is_reading("job")


def test_a_disk_that_hangs_holds_nobody_up_a_second_time(tmp_path: Path) -> None:
    with living(tmp_path) as life:
        life.files.gate.clear()
        assert life.ask("first") and life.ask("beside it")
        life.now_s += PATIENCE_S
        assert not life.tier.is_reading("first") and not life.tier.is_reading("beside it")
        assert not life.ask("second")
        life.files.gate.set()
        life.settle()
        assert life.ask("third")
        life.settle()
        ((query, found),) = life.tier.arrived()
        assert query is QUERY and (found.job, len(found.blocks)) == ("third", 3)


def test_a_gap_before_what_is_there_is_filled_by_the_next_commit(tmp_path: Path) -> None:
    """As a broken file leaves it: nothing behind it could be found by the next process."""
    ids = tuple(range(4 * BLOCK_TOKENS))
    labels = chain(ids)
    with living(tmp_path) as life:
        cache = PrefixCache(LIMITS, lambda: life.now_s, life.tier)
        lease = cache.hold(cache.lookup(ROOT, ids), "job")
        cache.commit(lease, ids, 0, [Page("x", BLOCK_TOKENS, label.end) for label in labels])
        life.settle()
        life.lose(labels[1].key)
        assert [life.thread.holds(label.key) for label in labels] == [True, False, True, True]
        cache.commit(lease, ids, 3, [Page("x", BLOCK_TOKENS, labels[3].end)])
        life.settle()
        assert all(life.thread.holds(label.key) for label in labels)


def test_what_was_computed_behind_what_is_not_true_goes_with_it(tmp_path: Path) -> None:
    """It may be on the disk alone, or about to be: in memory nothing tells of it any more."""
    ids = tuple(range(5 * BLOCK_TOKENS))
    labels = [*chain(ids), state(ids[: 3 * BLOCK_TOKENS + 7])]
    with living(tmp_path) as life:
        for label in labels[:3]:
            life.thread.save(label, paper(label))
        life.settle()
        life.files.gate.clear()
        for label in labels[3:]:
            life.thread.save(label, paper(label))
        life.thread.distrust([labels[1].key])
        life.files.gate.set()
        life.settle()
        assert [life.thread.holds(label.key) for label in labels] == [True] + 5 * [False]
        assert life.thread.stats().queued_bytes == 0 and life.thread.stats().files == 1 + len(chain(IDS))


def test_a_request_whose_kv_is_not_true_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    ids = tuple(range(3 * BLOCK_TOKENS))
    labels = chain(ids)
    with living(tmp_path) as life:
        cache = PrefixCache(LIMITS, lambda: life.now_s, life.tier)
        before = cache.hold(cache.lookup(ROOT, ids), "before")
        cache.commit(before, ids, 0, [Page("x", BLOCK_TOKENS, labels[0].end)])
        cache.release(before)
        lease = cache.hold(cache.lookup(ROOT, ids), "job")
        cache.commit(lease, ids, 1, [Page("x", BLOCK_TOKENS, labels[1].end)])
        life.thread.save(labels[2], paper(labels[2]))  # as another has left it when memory had no room
        cache.discard(lease)
        life.settle()
        assert [life.thread.holds(label.key) for label in labels] == [True, False, False]


@pytest.mark.parametrize("back", [False, True])
def test_what_an_audit_finds_untrue_leaves_the_disk_though_it_has_left_memory_since(
    tmp_path: Path, *, back: bool
) -> None:
    """And what has come back from there meanwhile leaves memory too."""
    ids = tuple(range(5 * BLOCK_TOKENS))
    with living(tmp_path) as life:
        cache = PrefixCache(LIMITS, lambda: life.now_s, life.tier)
        conversation(life, cache, "s", ids)
        looked_at = cache.lookup(ROOT, (*ids, 1))
        cache.free(1 << 20, "another")
        if back:
            assert cache.read_ahead(cache.lookup(ROOT, (*ids, 1)), "job")
            life.settle()
            assert not cache.is_reading("job") and cache.lookup(ROOT, (*ids, 1)).depth_tokens == len(ids)
        gone = quarantine(cache.books, looked_at, BLOCK_TOKENS + 3)
        life.settle()
        assert [life.thread.holds(label.key) for label in chain(ids)] == [True] + 4 * [False]
        assert cache.lookup(ROOT, (*ids, 1)).depth_tokens == (BLOCK_TOKENS if back else 0)
        assert len(gone) == (4 if back else 0) and cache.check_integrity() == []


def test_what_holds_the_beginning_of_an_untrue_block_leaves_the_disk_with_it(tmp_path: Path) -> None:
    """It was stored in the same part, and is on the disk alone or about to be there. What begins otherwise stays."""
    trunk = tuple(range(BLOCK_TOKENS))
    bad, other = (*trunk, *range(500, 756)), (*trunk, *range(900, 1200))
    like, late = (*bad[:300], *range(7000, 7400)), (*bad[:280], *range(8000, 8100))
    with living(tmp_path) as life:
        cache = PrefixCache(LIMITS, lambda: life.now_s, life.tier)
        conversation(life, cache, "s", bad)
        kept, gone = [*chain(other)], [*chain(bad)[1:], *chain(like)[1:], state(like[:290])]
        for label in (*kept, *gone):
            life.thread.save(label, paper(label))
        life.settle()
        life.files.gate.clear()
        for label in chain(late)[1:]:
            life.thread.save(label, paper(label))
        quarantine(cache.books, cache.lookup(ROOT, (*bad, 1)), BLOCK_TOKENS + 9)
        life.files.gate.set()
        life.settle()
        assert all(life.thread.holds(label.key) for label in kept)
        assert not any(life.thread.holds(label.key) for label in (*gone, *chain(late)[1:]))


def conversation(life: Life, cache: PrefixCache, session: str, ids: tuple[int, ...]) -> None:
    """Reads and leaves the whole blocks of `ids`."""
    lease = cache.hold(cache.lookup(ROOT, (*ids, 1), session=session), session)
    first = lease.reuse.depth_tokens // BLOCK_TOKENS
    pages = [Page(label.own.hex()[:8], BLOCK_TOKENS, label.end) for label in chain(ids)[first:]]
    cache.commit(lease, ids, first, pages)
    cache.release(lease)
    life.settle()


def test_a_session_that_is_cleared_leaves_the_disk_but_for_what_others_share(tmp_path: Path) -> None:
    """Also what memory had no room for, and the shared beginning stays though its other owner is on the disk alone."""
    trunk = tuple(range(5 * BLOCK_TOKENS))
    mine, theirs = (*trunk, *range(10_000, 10_768)), (*trunk, *range(20_000, 20_768))
    with living(tmp_path) as life:
        life.thread.clear()
        cache = PrefixCache(CacheLimits(64, 64, 64), lambda: life.now_s, life.tier)  # eight blocks
        conversation(life, cache, "theirs", theirs)
        conversation(life, cache, "mine", mine)
        conversation(life, cache, "other", tuple(range(50_000, 50_000 + 6 * BLOCK_TOKENS)))
        assert cache.counters.evicted_tokens >= 6 * BLOCK_TOKENS, "otherwise this shows nothing"
        assert all(life.thread.holds(label.key) for label in (*chain(mine), *chain(theirs)))
        cache.clear(session="mine")
        life.settle()
        assert [life.thread.holds(label.key) for label in chain(mine)] == [True] * 5 + [False] * 3
        assert all(life.thread.holds(label.key) for label in chain(theirs))
        cache.clear(session="theirs")
        life.settle()
        assert not any(life.thread.holds(label.key) for label in (*chain(mine), *chain(theirs)))
        assert life.thread.stats().files == 6


def test_what_found_no_room_in_the_queue_is_written_when_there_is(tmp_path: Path) -> None:
    """A fast prompt is computed faster than it is written; its process may be killed long after."""
    ids = tuple(range(9 * BLOCK_TOKENS))
    with living(tmp_path, queue_bytes=20) as life:
        cache = PrefixCache(LIMITS, lambda: life.now_s, life.tier)
        life.files.gate.clear()
        lease = cache.hold(cache.lookup(ROOT, ids), "job")
        cache.commit(lease, ids, 0, [Page(label.own.hex()[:8], BLOCK_TOKENS, label.end) for label in chain(ids)])
        cache.release(lease)
        cache.sweep()
        assert sum(life.thread.holds(label.key) for label in chain(ids)) == 2
        life.files.gate.set()
        for _ in range(6):
            life.settle()
            cache.sweep()
        life.settle()
        assert all(life.thread.is_written(label.key) for label in chain(ids))
        refused = life.thread.stats().refused["queue_full"]
        cache.sweep()
        assert life.thread.stats().refused["queue_full"] == refused


def test_a_disk_that_hangs_holds_nothing_that_has_left_memory(tmp_path: Path) -> None:
    """What it still owes the disk is a part of the store, or its memory would be counted nowhere."""
    with living(tmp_path, queue_bytes=20) as life:
        cache = PrefixCache(CacheLimits(40, 40, 40), lambda: life.now_s, life.tier)  # five blocks
        life.files.gate.clear()
        looks: list[weakref.ref[Page]] = []
        for number in range(20):
            ids = tuple(range(number * 1000, number * 1000 + BLOCK_TOKENS))
            lease, page = (
                cache.hold(cache.lookup(ROOT, ids), f"job {number}"),
                Page(f"page {number:3}", BLOCK_TOKENS, 256),
            )
            looks.append(weakref.ref(page))
            cache.commit(lease, ids, 0, [page])
            cache.release(lease)
        del lease, page
        cache.sweep()
        gc.collect()
        queued = life.thread.stats().queued_bytes // 8
        assert sum(look() is not None for look in looks) <= cache.held_bytes // 8 + queued < 10


def test_what_came_for_one_job_is_there_for_the_next_that_asks(tmp_path: Path) -> None:
    with living(tmp_path) as life:
        cache = PrefixCache(LIMITS, lambda: life.now_s, life.tier)
        first = cache.lookup(ROOT, (*IDS, 1))
        second = cache.lookup(ROOT, (*IDS, 2))
        assert cache.read_ahead(first, "first")
        life.settle()
        assert not cache.read_ahead(second, "second"), "it has come, though nobody has asked for it yet"
        assert cache.hold(second, "second").reuse.depth_tokens == len(IDS)
        assert life.thread.stats().read_files == len(chain(IDS))
