"""A saved conversation comes back into memory in steps, as far as there is room, and reads nothing twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from inference.cache.blocks import BLOCK_TOKENS, Root
from inference.cache.disk import DiskStore
from inference.cache.disk_thread import DiskThread
from inference.cache.disk_tier import DiskTier
from inference.cache.keeper import StoreKeeper
from inference.cache.limits import CacheLimits
from inference.cache.prefix_cache import PrefixCache
from inference.prefix_store import Recalled, SavedConversation
from inference.tokens import TokenIds
from tests.cache_driver import KV
from tests.disk_shelf import ROOM, SwiftFiles
from tests.label_codec import LabelCodec

ROOT = Root("model", "weights")
BLOCKS = 150
IDS = tuple(range(BLOCKS * BLOCK_TOKENS))
BLOCK_BYTES = 10 * BLOCK_TOKENS
NAME = "a" * 32
SOON_S = 20.0


class Process:
    """A cache on a directory."""

    def __init__(self, directory: Path, blocks: int) -> None:
        self.disk = DiskThread(DiskStore(directory, ROOM, LabelCodec(ROOT), time.time, SwiftFiles()))
        self.disk.start()
        assert self.disk.settle(SOON_S)
        limits = CacheLimits(budget_bytes=blocks * BLOCK_BYTES)
        self.cache = PrefixCache(limits, time.monotonic, DiskTier(self.disk, time.monotonic))
        saved = StoreKeeper(self.cache, lambda: None).saved
        assert saved is not None
        self.saved = saved

    def answer(self, ids: TokenIds) -> None:
        lease = self.cache.hold(self.cache.lookup(ROOT, (*ids, 0), session=NAME), "request")
        handles = [KV(ROOT, ids[: at + BLOCK_TOKENS], at, True) for at in range(0, len(ids), BLOCK_TOKENS)]
        self.cache.commit(lease, ids, 0, handles, exact=True)
        self.cache.release(lease)

    def save(self) -> SavedConversation:
        found = self.saved.save(NAME, "", "id", None).result(SOON_S)
        assert isinstance(found, SavedConversation)
        return found

    def load(self) -> tuple[Recalled, int]:
        """What came of it, and in how many steps."""
        recalling = self.saved.recall(NAME, "").result(SOON_S)
        assert recalling is not None
        steps = 0
        while (reading := recalling.step()) is not None:
            reading.result(SOON_S)
            steps += 1
        return recalling.end().result(SOON_S), steps


@pytest.mark.parametrize("room", [2 * BLOCKS, BLOCKS // 2, 1])
def test_it_comes_back_as_far_as_there_is_room_and_nothing_is_read_twice(tmp_path: Path, room: int) -> None:
    one = Process(tmp_path, 2 * BLOCKS)
    one.answer(IDS)
    saved = one.save()
    assert (saved.tokens, saved.blocks) == (len(IDS), BLOCKS)
    assert one.cache.close(SOON_S)
    other = Process(tmp_path, room)
    done, steps = other.load()
    assert done.warm_tokens == min(room, BLOCKS) * BLOCK_TOKENS and done.lost_files == 0
    assert 1 <= steps <= 4
    assert other.disk.stats().read_files <= BLOCKS
    assert other.cache.check_integrity() == []
    if room > BLOCKS:
        assert other.load() == (done, 0), "it is there already"
        longer = (*IDS, *range(256))
        other.answer(longer)
        assert other.save().tokens == len(longer), "the session goes on"
    other.cache.close(SOON_S)


def test_what_has_left_memory_is_saved_from_the_disk(tmp_path: Path) -> None:
    one = Process(tmp_path, 2 * BLOCKS)
    one.answer(IDS)
    one.cache.free(1 << 40, "somebody")
    assert one.cache.held_bytes == 0
    assert one.disk.settle(SOON_S) and one.save().tokens == len(IDS)
    one.cache.close(SOON_S)
