"""What the end of an answer waits for: its whole blocks are on the disk first, and nothing makes it wait for long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.disk_life import disk, save_all
from tests.disk_shelf import IDS, SOON_S, GatedFiles, chain, paper, want


def test_what_somebody_waits_for_is_written_first_and_then_he_knows(tmp_path: Path) -> None:
    files, others, mine = GatedFiles(), chain(tuple(range(256 * 20))), chain(IDS)
    with disk(tmp_path, files) as thread:
        files.gate.clear()
        save_all(thread, *others[:1])
        assert files.came.wait(SOON_S)
        save_all(thread, *others[1:])
        for label in mine:
            thread.save(label, paper(label), job="mine")
        thread.save(others[3], paper(others[3]), job="mine")  # another has left it there before
        kept = thread.kept(["none", "mine"])
        assert not kept.done() and thread.kept(["none"]).done()
        written_then: list[int] = []
        kept.add_done_callback(lambda _: written_then.append(thread.stats().files))
        files.gate.set()
        kept.result(SOON_S)
        assert all(thread.is_written(label.key) for label in (*mine, others[3]))
        assert written_then[0] <= 5, "one that was under way, and those of the job"
        assert thread.settle(SOON_S)


@pytest.mark.parametrize("end", ["distrust", "clear", "close", "fail"])
def test_nobody_waits_for_what_will_not_be_written(tmp_path: Path, end: str) -> None:
    files, labels = GatedFiles(), chain(IDS)
    with disk(tmp_path, files) as thread:
        files.gate.clear()
        for label in labels:
            thread.save(label, paper(label), job="mine")
        assert files.came.wait(SOON_S)
        kept = thread.kept(["mine"])
        if end == "distrust":
            thread.distrust([label.key for label in labels])
        elif end == "clear":
            thread.clear()
        elif end == "close":
            assert not thread.close(0.01)
        else:
            files.broken = True
        files.gate.set()
        kept.result(SOON_S)
    assert thread.kept(["mine"]).done()


def test_a_disk_that_hangs_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.cache.disk_queue.PATIENCE_S", 0.0)
    files, labels = GatedFiles(), chain(IDS)
    with disk(tmp_path, files) as thread:
        files.gate.clear()
        for label in labels:
            thread.save(label, paper(label), job=f"of {label.start}")
        first = thread.kept(["of 0"])
        assert not first.done() and thread.kept(["of 256"]).done()
        files.gate.set()
        first.result(SOON_S)
        assert thread.settle(SOON_S)


def test_reading_and_what_somebody_waits_for_take_turns(tmp_path: Path) -> None:
    files, labels = GatedFiles(), chain(IDS)
    with disk(tmp_path, files) as thread:
        save_all(thread, *labels)
        assert thread.settle(SOON_S)
        files.gate.clear()
        files.came.clear()
        save_all(thread, *chain(tuple(range(256))))
        assert files.came.wait(SOON_S)
        for label in chain(tuple(range(5000, 5000 + 256 * 6))):
            thread.save(label, paper(label), job="mine")
        thread.want("job", want((*IDS, 1)))
        kept = thread.kept(["mine"])
        files.log.clear()
        files.gate.set()
        kept.result(SOON_S)
        assert thread.settle(SOON_S)
        read_at = [at for at, act in enumerate(files.log) if act == "read"]
        assert 1 <= read_at[0] <= 2, "after one write, and not after six"
