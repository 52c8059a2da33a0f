"""The disk's thread: what it is given is on the disk or counted, what it is asked is answered, and nobody waits."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

from inference.cache.disk import DiskStore
from inference.cache.disk_thread import DiskThread
from tests.disk_life import answer, being_read, disk, save_all
from tests.disk_shelf import (
    IDS,
    ROOM,
    SOON_S,
    FailingFiles,
    GatedFiles,
    Paper,
    PaperCodec,
    SwiftFiles,
    chain,
    paper,
    state,
    want,
)


def test_what_is_saved_is_there_for_the_next_process(tmp_path: Path) -> None:
    labels = [*chain(IDS), state(IDS)]
    with disk(tmp_path) as thread:
        assert all(save_all(thread, *labels)) and all(thread.holds(label.key) for label in labels)
    with disk(tmp_path) as thread:
        thread.want("job", want((*IDS, 1, 2)))
        found = answer(thread)
        assert found.job == "job" and [one.label for one in found.blocks] == labels[:3]
        thread.want("other", want((*IDS, 1, 2), state=True))
        assert answer(thread).state is not None
        assert thread.stats().read_tokens > 0 and thread.stats().read_back_ratio == 0.0


def test_a_full_queue_drops_and_counts_and_nobody_waits(tmp_path: Path) -> None:
    files = GatedFiles()
    with disk(tmp_path, files, queue_bytes=150) as thread:
        files.gate.clear()
        before = time.monotonic()
        saved = save_all(thread, *chain(tuple(range(256 * 8))))
        assert time.monotonic() - before < SOON_S / 4
        assert saved[:2] == [True, True] and saved[-1] is False
        assert thread.stats().refused["queue_full"] == saved.count(False)
        files.gate.set()
        assert thread.settle(SOON_S)
        assert thread.stats().files == saved.count(True) and thread.stats().queued_bytes == 0


def test_who_can_wait_gets_everything_written(tmp_path: Path) -> None:
    """As at the end of the process."""
    labels = chain(tuple(range(256 * 8)))
    with disk(tmp_path, queue_bytes=150) as thread:
        until_s = time.monotonic() + SOON_S
        assert all(thread.save(label, paper(label), until_s=until_s) for label in labels)
    with disk(tmp_path) as thread:
        assert thread.stats().files == 8


def test_a_slow_disk_answers_late_and_holds_nobody_up(tmp_path: Path) -> None:
    files = GatedFiles()
    with disk(tmp_path, files) as thread:
        save_all(thread, *chain(IDS))
        assert thread.settle(SOON_S)
        files.gate.clear()
        thread.want("job", want((*IDS, 1)))
        assert thread.fetched() == [] and not thread.settle(0.01)
        files.gate.set()
        assert len(answer(thread).blocks) == 3


def test_reading_comes_before_writing(tmp_path: Path) -> None:
    files = GatedFiles()
    with disk(tmp_path, files) as thread:
        save_all(thread, *chain(IDS))
        assert thread.settle(SOON_S)
        files.gate.clear()
        save_all(thread, *chain(tuple(range(256 * 20))))
        thread.want("job", want((*IDS, 1)))
        files.gate.set()
        for _ in range(1000):
            if found := thread.fetched():
                break
            time.sleep(SOON_S / 1000)
        assert len(found[0].blocks) == 3
        assert thread.settle(SOON_S)


def test_what_is_dropped_is_not_written_after_all(tmp_path: Path) -> None:
    files, labels = GatedFiles(), chain(tuple(range(256 * 6)))
    with disk(tmp_path, files) as thread:
        files.gate.clear()
        save_all(thread, *labels)
        thread.let_go([label.key for label in labels[2:]])
        files.gate.set()
        assert thread.settle(SOON_S)
        assert [thread.holds(label.key) for label in labels] == [True] * 2 + [False] * 4
        thread.clear()
        assert thread.settle(SOON_S) and thread.stats().files == 0


def test_nobody_is_given_what_was_removed_before_he_asked(tmp_path: Path) -> None:
    """Though reading comes before everything else that is not urgent."""
    with being_read(tmp_path) as (thread, files):
        thread.distrust([chain(IDS)[1].key])
        thread.want("second", want((*IDS, 1)))
        files.gate.set()
        assert thread.settle(SOON_S)
        first, second = thread.fetched()
        assert (len(first.blocks), len(second.blocks)) == (3, 1)


def test_clear_empties_the_queue_too(tmp_path: Path) -> None:
    files, labels = GatedFiles(), chain(IDS)
    with disk(tmp_path, files) as thread:
        files.gate.clear()
        save_all(thread, *labels)
        thread.clear(model="another")
        assert all(thread.holds(label.key) for label in labels)
        thread.clear(model="model")
        files.gate.set()
        assert thread.settle(SOON_S)
        assert thread.stats().files == 0 and thread.stats().queued_bytes == 0


def test_a_fault_costs_the_one_task(tmp_path: Path) -> None:
    class Faulty(PaperCodec):
        def encode(self, label: object, handle: object) -> list[bytes]:
            raise RuntimeError("planted")

    store = DiskStore(tmp_path, ROOM, Faulty(), lambda: 1e9, SwiftFiles())
    thread = DiskThread(store)
    thread.start()
    try:
        save_all(thread, *chain(IDS))
        thread.want("job", want((*IDS, 1)))
        assert answer(thread).blocks == ()
        stats = thread.stats()
        assert stats.refused["fault"] == 3 and stats.queued_bytes == 0 and stats.outage == ""
    finally:
        assert thread.close(SOON_S)


def test_a_disk_that_always_fails_is_no_disk(tmp_path: Path) -> None:
    with disk(tmp_path, FailingFiles(nth=1, persistent=True)) as thread:
        save_all(thread, *chain(IDS))
        thread.want("job", want((*IDS, 1)))
        assert answer(thread).blocks == ()
        assert thread.stats().outage == "eio" and thread.stats().files == 0


def test_jobs_ask_while_what_is_there_is_not_known_yet(tmp_path: Path) -> None:
    with disk(tmp_path) as thread:
        save_all(thread, *chain(IDS))
    gate = threading.Event()
    store = DiskStore(tmp_path, ROOM, PaperCodec(), lambda: 1e9, SwiftFiles())
    thread = DiskThread(store, prepare=lambda: gate.wait(SOON_S))
    thread.start()
    asked = want((*IDS, 1))
    assert thread.may_help(asked) and thread.stats().scanning
    thread.want("job", asked)
    gate.set()
    assert len(answer(thread).blocks) == 3
    assert not thread.may_help(want(tuple(range(600)), in_memory=512))
    assert thread.close(SOON_S) and not thread.may_help(asked)


def test_an_end_that_may_not_take_long_does_not(tmp_path: Path) -> None:
    files = GatedFiles()
    store = DiskStore(tmp_path, replace(ROOM), PaperCodec(), lambda: 1e9, files)
    thread = DiskThread(store)
    thread.start()
    assert thread.settle(SOON_S)
    files.gate.clear()
    label = chain(IDS)[0]
    thread.save(label, Paper("x", 256, 256))
    assert not thread.close(0.01)
    files.gate.set()
    thread._thread.join(SOON_S)
    assert not thread._thread.is_alive()
