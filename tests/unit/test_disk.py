"""The disk's tier on a real directory: what is found again, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.cache.blocks import Root
from inference.cache.disk_files import Files
from inference.cache.disk_limits import MAX_FILE_BYTES
from tests.disk_shelf import IDS, ROOT, Shelf, SwiftFiles, chain, paper, state, text


def test_what_was_written_is_found_by_the_next_process(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), [*chain(IDS), state(IDS[:512]), state(IDS)]
    assert all(shelf.write(labels))
    for _ in range(2):
        for label in labels:
            found = shelf.store.read(label.key, ROOT.key)
            assert found is not None and found.label == label and text(found) == paper(label).text
        shelf.check()
        shelf.open(Files())
    assert shelf.store.counters.dropped == {"left_over": 0}


def test_a_file_is_written_once(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    assert all(shelf.write(labels) + shelf.write(labels))
    assert shelf.store.counters.written_files == len(labels) == len(shelf.on_disk())


def test_what_is_written_as_the_first_to_go_goes_from_its_end_before_all_else(tmp_path: Path) -> None:
    shelf, kept, aside = Shelf(tmp_path), chain(IDS), chain(tuple(reversed(IDS)))
    shelf.write(kept)
    for _ in range(2):
        assert all(shelf.store.write(label, paper(label), first_to_go=True) for label in aside)
        assert [entry.key for entry in shelf.store.index][: len(aside)] == [label.key for label in reversed(aside)]
    shelf.write(aside[:2])  # a conversation goes on from there
    order = [entry.key for entry in shelf.store.index]
    assert order[0] == aside[2].key and set(order[-2:]) == {label.key for label in aside[:2]}
    shelf.check()


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    Shelf(tmp_path / "kv").write(chain(IDS))
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "kv").rglob("*.kv")}
    assert modes == {0o600}


# --- what is not served -----------------------------------------------------------------------------------------------


def flip(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 4])


@pytest.mark.parametrize("damage", [flip, lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw + b" "])
def test_a_damaged_file_is_a_counted_miss_and_goes(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    path = shelf.path(shelf.entry(labels[1].key))
    path.write_bytes(damage(path.read_bytes()))
    assert shelf.store.read(labels[1].key, ROOT.key) is None
    assert shelf.store.counters.dropped["corrupt"] == 1 and not path.exists()
    assert text(shelf.store.read(labels[0].key, ROOT.key)) == paper(labels[0]).text
    shelf.check()
    assert shelf.write(labels[1:2]) == [True], "computed again, it is stored again"


def test_a_file_under_anothers_name_is_foreign(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    shelf.path(shelf.entry(labels[0].key)).replace(shelf.path(shelf.entry(labels[1].key)))
    assert shelf.store.read(labels[1].key, ROOT.key) is None
    assert shelf.store.read(labels[0].key, ROOT.key) is None
    assert shelf.store.counters.dropped == {"left_over": 0, "foreign": 1, "unreadable": 1}


def test_another_tree_finds_nothing_even_if_it_asks_by_name(tmp_path: Path) -> None:
    """Other weights, other KV settings or another salt: another root."""
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    for other in (Root("model", "other"), Root("model", "weights", "8/64/0"), Root("model", "weights", salt=b"s")):
        assert not {label.key for label in chain(IDS, other)} & {one.key for one in shelf.store.index}
    assert shelf.store.read(labels[0].key, Root("model", "other").key) is None


class Counting(SwiftFiles):
    """How many bytes were read of files of ours at most, and in all."""

    most_bytes = 0

    def read(self, path: Path, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
        raw = super().read(path, limit_bytes)
        self.most_bytes = max(self.most_bytes, len(raw))
        return raw


def test_a_file_that_has_grown_is_a_miss_and_is_not_read(tmp_path: Path) -> None:
    """Sparse: it holds nothing but says that it holds 100 GB. While the process runs, and between two."""
    for lives in (1, 2):
        shelf, labels = Shelf(tmp_path / str(lives), files=(files := Counting())), chain(IDS)
        shelf.write(labels)
        path, size = shelf.path(shelf.entry(labels[2].key)), shelf.entry(labels[2].key).nbytes
        os.truncate(path, 100 * 10**9)
        if lives == 2:
            shelf.open()
        assert shelf.store.read(labels[2].key, ROOT.key) is None
        assert shelf.store.counters.dropped["corrupt"] == 1 and not path.exists()
        assert files.most_bytes <= size + 1
        assert shelf.store.read(labels[1].key, ROOT.key) is not None, "nothing else went for it"
        shelf.check()


def test_two_names_of_one_key_are_one_file_at_most(tmp_path: Path) -> None:
    """Else one of them would count towards no limit for ever."""
    shelf, labels = Shelf(tmp_path), chain(IDS)
    shelf.write(labels)
    path = shelf.path(shelf.entry(labels[0].key))
    path.with_name(path.name.replace("-0-256", "-0-255")).write_bytes(b"?" * 99)
    shelf.open()
    shelf.check()
    assert len(shelf.on_disk()) == 3


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path / "kv"), chain(IDS)
    shelf.write(labels)
    path, away = shelf.path(shelf.entry(labels[0].key)), tmp_path / "away"
    path.replace(away)
    path.symlink_to(away)
    assert shelf.store.read(labels[0].key, ROOT.key) is None and away.exists()


def test_a_label_that_is_not_its_names_tells_nothing_and_its_file_goes(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    [label] = chain(IDS[:200])
    shelf.write([label])
    path = shelf.path(shelf.entry(label.key))
    path.write_bytes(path.read_bytes().replace(label.ids.hex().encode(), label.ids[::-1].hex().encode()))
    store = shelf.open()
    assert store.ids(shelf.entry(label.key)) == b"" and store.counters.dropped["foreign"] == 1
    shelf.check()
