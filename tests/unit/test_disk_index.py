"""What many conversations stand on is found without going through it once for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.cache.disk_index import DiskEntry
from tests.disk_shelf import Shelf, chain

COMMON = tuple(range(256 * 6))
TREE = [label for branch in range(4) for label in chain((*COMMON, *range(9000 + branch, 9600 + branch)))]
KEYS = sorted({label.key for label in TREE})


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    shelf.write(TREE)
    return shelf


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*KEYS, b"nowhere"])))
def test_the_paths_of_many_are_those_of_each(shelf: Shelf, ends: list[bytes]) -> None:
    index = shelf.store.index
    assert index.paths(ends) == {key for end in ends for key in index.path(end)}


def test_common_ground_is_gone_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done between the reads that answers wait for: thousands of sessions took seconds."""
    shelf, labels = Shelf(tmp_path), chain(tuple(range(256 * 30)))
    shelf.write(labels)
    steps = 0
    plain = DiskEntry.is_before

    def counted(entry: DiskEntry, behind: DiskEntry) -> bool:
        nonlocal steps
        steps += 1
        return plain(entry, behind)

    monkeypatch.setattr(DiskEntry, "is_before", counted)
    found = shelf.store.index.paths([labels[-1].key] * 1000 + [label.key for label in labels])
    assert found == {label.key for label in labels}
    assert steps < 60
