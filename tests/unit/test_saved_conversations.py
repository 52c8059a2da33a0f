"""What is saved stays on the disk, whole, until it is deleted; a manifest that is not one is no conversation."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.cache import saved_work
from inference.cache.disk_records import BlockLabel
from inference.cache.saved_manifest import Manifest, read_manifest
from inference.cache.saved_work import Gathered, Recall, Wish
from inference.prefix_store import Refused, SavedConversation
from tests.disk_shelf import ROOM, ROOT, Crash, FailingFiles, Shelf, SwiftFiles, chain, paper, state

IDS = tuple(range(1000, 1700))
NAME, OTHER = "0" * 32, "1" * 32


def run[Answer](steps: Generator[None, None, Answer]) -> Answer:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def gathered(labels: list[BlockLabel], padding: int = 0) -> Gathered:
    return Gathered(ROOT, [(label, paper(label, padding)) for label in labels], (labels[-1].key,))


def save(
    shelf: Shelf, labels: list[BlockLabel], name: str = NAME, title: str | None = None, padding: int = 0
) -> SavedConversation | Refused | None:
    wish = Wish(name, "", f"id of {name}", title)
    return run(saved_work.save(shelf.store, wish, gathered(labels, padding) if labels else None, shelf.now_s))


def recall(shelf: Shelf, name: str = NAME, owner: str = "") -> Recall | None:
    return run(saved_work.recall(shelf.store, name, owner))


def saved(shelf: Shelf, labels: list[BlockLabel], **more: object) -> SavedConversation:
    found = save(shelf, labels, **more)  # type: ignore[arg-type]
    assert isinstance(found, SavedConversation)
    return found


def test_what_is_saved_stays_whatever_else_is_written_and_however_old_it_is(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, replace(ROOM, max_bytes=40_000, ttl_s=1000.0), now_s=1e9)
    labels = [*chain(IDS), state(IDS)]
    kept = saved(shelf, labels)
    assert (kept.tokens, kept.blocks) == (700, 3)
    assert kept.nbytes == sum(shelf.on_disk().values())
    for number in range(60):
        shelf.write(chain((number, *range(255))))
        assert all(label.key in shelf.store.index for label in labels)
        shelf.check()
    assert shelf.store.counters.dropped["evicted"] > 0
    shelf.now_s = 3e9
    shelf.open()
    assert {entry.key for entry in shelf.store.index} == {label.key for label in labels}, "all else has expired"
    found = recall(shelf)
    assert found is not None and found.saved == kept and found.needs_state and found.root.key == ROOT.key
    assert found.ways == (b"".join(label.ids for label in labels[:3]),)


def test_deleting_frees_what_nobody_else_stands_on(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    one, two = chain(IDS), chain((*IDS[:512], *range(100)))
    saved(shelf, one)
    saved(shelf, two, name=OTHER)
    size = shelf.store.index.get(one[-1].key)
    assert size is not None and run(saved_work.delete(shelf.store, NAME, "")) == size.nbytes
    assert {entry.key for entry in shelf.store.index} == {label.key for label in two}
    assert recall(shelf) is None and run(saved_work.delete(shelf.store, NAME, "")) is None
    shelf.write(chain((*IDS[:256], 7)))
    run(saved_work.delete(shelf.store, OTHER, ""))
    assert len(shelf.store.index) == 2, "another conversation goes on behind the first block"
    assert not list(tmp_path.glob("saved/*"))
    shelf.check()


def test_another_owner_sees_and_deletes_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    saved(shelf, chain(IDS))
    assert recall(shelf, owner="somebody") is None
    assert run(saved_work.delete(shelf.store, NAME, "somebody")) is None
    theirs, own = (run(saved_work.totals(shelf.store, owner)) for owner in ("somebody", ""))
    assert (theirs.conversations, theirs.nbytes) == ((), 0)
    assert len(own.conversations) == 1 and own.nbytes == own.conversations[0].nbytes > 0


def test_saving_again_brings_it_up_to_date_and_keeps_its_title(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first = saved(shelf, chain(IDS[:300]), title="one")
    assert saved(shelf, chain(IDS[:300])) == first
    longer = saved(shelf, chain(IDS))
    assert (longer.tokens, longer.title) == (700, "one")
    assert saved(shelf, [], title="two").title == "two", "nothing is in memory any more"
    assert save(shelf, [], name=OTHER) is None
    assert not shelf.store.index.is_pinned(chain(IDS[:300])[-1].key), "the end that has grown"


def test_what_does_not_fit_is_refused_and_leaves_nothing_pinned(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, replace(ROOM, max_bytes=40_000))
    kept = saved(shelf, chain(IDS))
    labels = chain(tuple(range(5000, 7000)))
    assert save(shelf, labels, OTHER, padding=4000) == Refused("limit")
    for reason, limits in (("disk_guard", {"max_disk_share": 0.0}), ("day_budget", {"day_bytes": 1})):
        shelf.limits = replace(shelf.limits, **limits)  # type: ignore[arg-type]
        shelf.open()
        assert save(shelf, labels[:1], OTHER) == Refused(reason)
        shelf.limits = replace(ROOM, max_bytes=40_000)
    assert not any(shelf.store.index.is_pinned(label.key) for label in labels)
    assert run(saved_work.totals(shelf.store, "")).conversations == (kept,)


def test_a_gap_or_a_broken_file_ends_the_way_there(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    told = saved(shelf, labels)
    next(tmp_path.glob(f"v1/*/*/*-{labels[1].key.hex()}-*")).unlink()
    shelf.open()
    found = recall(shelf)
    assert found is not None and found.ways == (labels[0].ids,)
    assert run(saved_work.lost(shelf.store, told, 256)).lost_files == 2
    assert saved(shelf, labels).nbytes == told.nbytes, "saved again it is whole again"


def test_clear_takes_what_is_saved_and_a_session_does_not(tmp_path: Path) -> None:
    shelf, labels = Shelf(tmp_path), chain(IDS)
    saved(shelf, labels)
    shelf.store.drop([label.key for label in labels], spare_pinned=True)
    assert len(shelf.store.index) == 3
    shelf.store.clear()
    assert len(shelf.store.index) == len(shelf.store.saved) == 0 and not list(tmp_path.glob("saved/*"))


@pytest.mark.parametrize("crash", [True, False])
def test_whatever_act_fails_or_is_the_last_there_is_a_whole_conversation_or_none(tmp_path: Path, crash: bool) -> None:
    labels, refusals = chain(IDS), 0
    for nth in range(1, 400):
        shelf = Shelf(tmp_path / str(nth))
        files = FailingFiles(nth=nth, crash=crash)
        shelf.store._files = files
        shelf.store.saved._files = files
        found = None
        with suppress(Crash):
            found = save(shelf, labels)
        refusals += isinstance(found, Refused)
        again = shelf.open(SwiftFiles())
        assert len(again.saved) == isinstance(found, SavedConversation) or crash
        assert all(key in again.index for manifest in again.saved for key in manifest.keys)
        if len(files.acts) < nth:
            assert isinstance(found, SavedConversation)
            break
    else:
        pytest.fail("there is no end of acts")
    assert crash or refusals > 5


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_manifest_that_was_changed_is_none(data: st.DataObject) -> None:
    manifest = Manifest(NAME, "", "id", "t", 1.5, 3, "m", "w", "", "", b"t" * 32, 1.0, (b"k" * 16,), (b"s" * 16,))
    raw = bytearray(manifest.packed())
    assert read_manifest(bytes(raw)) == manifest
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        if data.draw(st.booleans()):
            raw[at] = data.draw(st.integers(0, 255))
        else:
            del raw[at:]
            raw += b" "
    found = read_manifest(bytes(raw))
    assert found is None or found == manifest, "a digest is over all of it"


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"null", b'{"format": 1}', b'{"format": 2}', b"[" * 100_000])
def test_what_is_no_manifest_goes_and_pins_nothing(tmp_path: Path, raw: bytes) -> None:
    shelf = Shelf(tmp_path)
    saved(shelf, chain(IDS))
    (path,) = tmp_path.glob("saved/*.json")
    path.write_bytes(raw)
    path.with_name(f"{OTHER}.json").write_bytes(raw)
    store = shelf.open()
    assert len(store.saved) == 0 and store.counters.dropped["manifest"] == 2 and not list(tmp_path.glob("saved/*"))
    assert len(store.index) == 3, "its blocks are like any others"
