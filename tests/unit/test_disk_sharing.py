"""What several want of the disk: one reading for all, what each may remove, and which kind of block it keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.disk_life import answer, being_read, disk, save_all
from tests.disk_shelf import IDS, SOON_S, GatedFiles, chain, paper, state, want


def test_two_jobs_that_want_the_same_blocks_are_given_one_reading(tmp_path: Path) -> None:
    files, labels = GatedFiles(), chain(IDS)
    with disk(tmp_path, files) as thread:
        save_all(thread, *labels)
        assert thread.settle(SOON_S)
        files.gate.clear()
        for job in ("first", "second", "third"):
            thread.want(job, want((*IDS, 1)))
        files.gate.set()
        assert thread.settle(SOON_S)
        found = thread.fetched()
        assert [[one.label for one in answer.blocks] for answer in found] == [labels] * 3
        assert (thread.stats().read_files, thread.stats().shared_files) == (3, 6)
        thread.want("later", want((*IDS, 1)))
        assert len(answer(thread).blocks) == 3 and thread.stats().read_files == 6, "nothing is held on to"


def test_what_was_removed_between_two_who_want_it_is_not_shared(tmp_path: Path) -> None:
    with being_read(tmp_path) as (thread, files):
        thread.want("second", want((*IDS, 1)))
        thread.clear()
        save_all(thread, chain(IDS)[0])
        files.gate.set()
        assert thread.settle(SOON_S)
        assert [len(found.blocks) for found in thread.fetched()] == [3, 0]


def test_a_conversation_leaves_the_disk_without_what_others_have_of_it(tmp_path: Path) -> None:
    """What others have behind it may be on the disk alone, of an earlier process, or on its way there."""
    trunk = tuple(range(512))
    mine, theirs = chain((*trunk, *range(7000, 7600))), chain((*trunk, *range(8000, 8300)))
    queued = chain((*trunk[:256], *range(9000, 9300)))
    ended, states = state((*trunk, *range(7000, 7100))), state(trunk[:300])
    files = GatedFiles()
    with disk(tmp_path, files) as thread:
        save_all(thread, *mine, *theirs, ended, states)
        assert thread.settle(SOON_S)
        files.gate.clear()
        save_all(thread, *queued)
        thread.let_go([label.key for label in (*mine[:3], ended)], end=mine[-1].key)
        files.gate.set()
        assert thread.settle(SOON_S)
        assert [thread.holds(label.key) for label in mine] == [True, True, False, False, False]
        assert all(thread.holds(label.key) for label in (*theirs, *queued, states)) and not thread.holds(ended.key)
        thread.let_go([label.key for label in (*theirs, *queued)])
        assert thread.settle(SOON_S)
        assert thread.stats().files == 0 and not thread.holds(mine[0].key)


def test_what_memory_still_has_of_a_conversation_stays(tmp_path: Path) -> None:
    labels = chain(IDS)
    with disk(tmp_path) as thread:
        save_all(thread, *labels)
        assert thread.settle(SOON_S)
        thread.let_go((), end=labels[-1].key, spare=[labels[0].key])
        assert thread.settle(SOON_S)
        assert [thread.holds(label.key) for label in labels] == [True, False, False]


def test_an_exact_block_takes_the_place_of_one_that_is_not_where_that_is_wanted(tmp_path: Path) -> None:
    labels = [*chain(IDS)[:2], state(IDS[:512])]
    rounded = [replace(label, exact=False) for label in labels]
    exact = [replace(label, exact=True) for label in labels]
    for lives in (1, 2):  # within one process, and by one that knows nothing of the files but their names
        directory = tmp_path / str(lives)
        with disk(directory) as thread:
            save_all(thread, *rounded)
            assert thread.settle(SOON_S)
            if lives == 1:
                save_all(thread, *exact)
                assert thread.settle(SOON_S) and not any(thread.holds(label.key, exact=True) for label in exact)
                for label in exact:
                    thread.save(label, paper(label, padding=3), better=True)
        with disk(directory) as thread:
            for label in exact if lives == 2 else ():
                thread.save(label, paper(label, padding=3), better=True)
            assert thread.settle(SOON_S)
            thread.want("job", want((*IDS[:512], 1), bitwise=True, state=True))
            found = answer(thread)
            assert [one.label for one in (*found.blocks, found.state) if one is not None] == exact
            assert thread.stats().files == 3 and thread.stats().nbytes == sum(
                path.stat().st_size for path in directory.glob("v1/*/*/*")
            )


def test_what_is_not_exact_is_not_read_where_only_that_is_reused(tmp_path: Path) -> None:
    labels = chain(tuple(range(1024)))
    mixed = [replace(label, exact=label.start < 512) for label in labels]
    with disk(tmp_path) as thread:
        save_all(thread, *mixed)
    with disk(tmp_path) as thread:
        for expected in (3, 2):  # what is not exact is known by its name no sooner than it was read once
            thread.want("job", want((*range(1024), 1), bitwise=True))
            before = thread.stats().read_files
            assert len(answer(thread).blocks) == 2
            assert thread.stats().read_files - before == expected
