"""Where a session's requests ended is known to the next process: what it had can be saved there, and forgotten."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.cache.blocks import BLOCK_TOKENS, Root
from inference.cache.disk_records import KEY_BYTES
from inference.cache.keeper import StoreKeeper
from inference.cache.limits import CacheLimits
from inference.cache.node import Admission, Node
from inference.cache.prefix_cache import PrefixCache
from inference.cache.session_record import MAX_ENDS, SessionRecord, read_record
from inference.cache.session_shelf import SessionShelf
from inference.cache.sessions import MAX_ASIDE
from inference.prefix_store import Refused, SavedConversation
from inference.tokens import TokenIds
from tests.cache_driver import KV
from tests.disk_shelf import SOON_S, FailingFiles, Shelf, SwiftFiles, chain
from tests.unit.test_saved_recall import NAME, ROOT, Process

OTHER = "b" * 32


@contextmanager
def process(directory: Path) -> Iterator[Process]:
    one = Process(directory, 0)
    limits = CacheLimits(budget_bytes=1 << 30, side_budget_bytes=1 << 30)
    one.cache = PrefixCache(limits, time.monotonic, one.cache.disk)
    saved = StoreKeeper(one.cache, lambda: None).saved
    assert saved is not None
    one.saved = saved
    try:
        yield one
    finally:
        one.cache.close(SOON_S)


def answer(
    one: Process, ids: TokenIds, name: str = NAME, root: Root = ROOT, admission: Admission = Admission.MAIN
) -> None:
    lease = one.cache.hold(one.cache.lookup(root, (*ids, 0), session=name), "request", admission)
    start = lease.reuse.depth_tokens // BLOCK_TOKENS
    handles = [KV(root, ids[: at + BLOCK_TOKENS], at, True) for at in range(start * BLOCK_TOKENS, len(ids), 256)]
    one.cache.commit(lease, ids, start, handles, exact=True)
    one.cache.release(lease)
    assert one.disk.settle(SOON_S)


def save(one: Process, name: str = NAME, title: str | None = None) -> SavedConversation | Refused | None:
    return one.saved.save(name, "", "id", title).result(SOON_S)


def tokens(one: Process, name: str = NAME) -> int:
    found = save(one, name)
    return found.tokens if isinstance(found, SavedConversation) else 0


def text(number: int, length: int) -> TokenIds:
    return tuple(range(number * 10_000, number * 10_000 + length))


def test_what_only_the_disk_has_of_a_conversation_can_be_saved(tmp_path: Path) -> None:
    whole = text(1, 1000)
    with process(tmp_path) as one:
        answer(one, whole)
        assert tokens(one, OTHER) == 0
    with process(tmp_path) as two:
        assert tokens(two) == 1000, "also the block that was not whole"
        assert save(two, OTHER) is None
        recalled, _ = two.load()
        assert (recalled.warm_tokens, recalled.lost_files) == (1000, 0)
        assert two.cache.lookup(ROOT, (*whole, 5)).depth_tokens == 1000


def test_a_killed_process_leaves_the_whole_blocks_of_it(tmp_path: Path) -> None:
    with process(tmp_path) as one:
        answer(one, text(1, 1000))
        with process(tmp_path) as two:  # the other has not ended
            assert tokens(two) == 768


def test_all_ways_of_a_session_are_saved_also_those_of_an_earlier_process(tmp_path: Path) -> None:
    trunk = text(1, 512)
    with process(tmp_path) as one:
        answer(one, trunk + text(2, 300))
        answer(one, trunk + text(3, 256))
    with process(tmp_path) as two:
        answer(two, trunk + text(4, 256))  # it has read the trunk alone
    with process(tmp_path) as three:
        answer(three, trunk + text(3, 256) + text(5, 256))  # goes on from one of them
        assert tokens(three) == 512 + 300 + 512 + 256
        record = three.disk._store.sessions.get(NAME)
        assert record is not None and len(record.keys) == 4, "a way that goes on has one end"


def test_a_side_call_that_nobody_went_on_from_is_no_part_of_it(tmp_path: Path) -> None:
    with process(tmp_path) as one:
        answer(one, text(1, 300), admission=Admission.ONE_SHOT)
    with process(tmp_path) as two:
        assert tokens(two) == 300, "until something else comes it is what there is"
        assert two.saved.delete(NAME, "").result(SOON_S) is not None
    with process(tmp_path) as one:
        answer(one, text(2, 300), admission=Admission.ONE_SHOT)
    with process(tmp_path) as two:
        answer(two, text(3, 512))
        assert tokens(two) == 512


def test_another_tree_takes_the_place(tmp_path: Path) -> None:
    with process(tmp_path) as one:
        answer(one, text(1, 512))
    with process(tmp_path) as two:
        answer(two, text(1, 256), root=Root("model", "other weights"))
        found = save(two)
        assert isinstance(found, SavedConversation) and (found.tokens, found.weights) == (256, "other weights")


def test_a_session_of_an_earlier_process_is_forgotten_on_the_disk_but_for_what_others_stand_on(tmp_path: Path) -> None:
    shared, own = text(1, 512), text(2, 512)
    with process(tmp_path) as one:
        answer(one, shared + own)
        answer(one, shared, OTHER)
    with process(tmp_path) as two:
        two.cache.clear(session=NAME)
        assert two.disk.settle(SOON_S) and len(two.disk._store.index) == 2, "what another session ended on is there"
        assert save(two) is None and tokens(two, OTHER) == 512
        assert len(list(tmp_path.glob("sessions/*.json"))) == 1
    with process(tmp_path) as three:
        assert save(three) is None
        three.cache.clear()
        assert three.disk.settle(SOON_S) and list(tmp_path.glob("sessions/*.json")) == []


def test_nothing_of_a_session_is_written_behind_its_removal(tmp_path: Path) -> None:
    with process(tmp_path) as one:
        answer(one, text(1, 512))
        answer(one, text(1, 600))
        one.cache.clear(session=NAME)
        assert one.disk.settle(SOON_S)
        assert list(tmp_path.glob("sessions/*")) == [] and save(one) is None


def record(name: str = NAME, *ends: bytes) -> SessionRecord:
    return SessionRecord(name, "process", False, "m", "w", "", "", b"t" * 32, 1.0, ends or (b"e" * KEY_BYTES,))


@given(st.data())
def test_a_file_that_was_changed_anywhere_is_none(data: st.DataObject) -> None:
    raw = record().packed()
    assert read_record(raw) == record()
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    found = read_record(changed)
    assert found is None or found == record(), "JSON has blanks and escapes that mean nothing"


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_file_is_read_without_an_error(raw: bytes) -> None:
    assert read_record(raw) is None


def test_no_more_records_are_kept_than_there_may_be_and_the_last_used_stay(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    labels = chain(text(1, 256))
    shelf.write(labels)
    names = [f"{number:032x}" for number in range(6)]
    sessions = SessionShelf(tmp_path, SwiftFiles(), shelf.store.index, most=3)
    for name in [*names[:4], names[1], names[4]]:
        sessions.keep(record(name, labels[0].key))
    assert sorted(path.stem for path in tmp_path.glob("sessions/*.json")) == [names[1], names[3], names[4]]
    assert [sessions.get(name) is not None for name in names] == [False, True, False, True, True, False]
    later = SessionShelf(tmp_path, SwiftFiles(), shelf.store.index, most=2)
    later.open()
    assert len(later) == 2 and later.get(names[4]) == record(names[4], labels[0].key)
    shelf.store.drop([labels[0].key])
    assert later.get(names[4]) is None, "nothing of it is there"
    with pytest.raises(ValueError, match="name"):
        later.keep(record("../x", labels[0].key))


def test_a_file_of_somebody_else_stays_and_keeps_nothing_from_being_forgotten(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    folder = tmp_path / "sessions"
    folder.mkdir()
    foreign = [folder / ".DS_Store", folder / "notes.json", folder / f"{NAME}.txt"]
    for file in foreign:
        file.write_text("theirs")
    SessionShelf(tmp_path, SwiftFiles(), shelf.store.index).keep(record(NAME, b"k" * KEY_BYTES))
    later = SessionShelf(tmp_path, SwiftFiles(), shelf.store.index)
    later.open()
    assert len(later) == 1
    later.clear()
    assert sorted(folder.iterdir()) == sorted(foreign)


def test_records_do_not_grow_without_end() -> None:
    before = record(NAME, *(bytes([number]) * KEY_BYTES for number in range(MAX_ENDS)))
    now = replace(before, by="other", ends=(b"z" * KEY_BYTES,))
    for number in range(50):
        now = replace(now, by=str(number), ends=(bytes([100 + number]) * KEY_BYTES,)).behind(now, ())
    assert len(now.keys) <= MAX_ENDS + 1


@pytest.mark.parametrize("crash", [False, True])
def test_a_disk_that_fails_while_it_is_noted_costs_nothing_else(tmp_path: Path, crash: bool) -> None:
    for nth in range(1, 20):
        directory = tmp_path / str(nth)
        shelf = Shelf(directory, files=FailingFiles())
        labels = chain(text(1, 256))
        shelf.write(labels)
        shelf.store.note(record(NAME, labels[0].key), ())
        files = shelf.files
        assert isinstance(files, FailingFiles)
        files.nth, files.crash = len(files.acts) + nth, crash
        try:
            shelf.store.note(record(NAME, labels[0].key, b"f" * KEY_BYTES), ())
        except BaseException as error:
            assert crash and type(error).__name__ == "Crash"
        found = shelf.open(SwiftFiles()).sessions.get(NAME)
        assert found is not None and len(found.ends) in (1, 2)
        assert list(directory.glob("sessions/.*")) == []


def kept(one: Process) -> tuple[int, int]:
    """Tokens in memory, and files of blocks."""
    return sum(use.tokens for use in one.cache.stats().models), len(one.disk._store.index)


def test_what_a_session_left_aside_goes_with_it(tmp_path: Path) -> None:
    """A first question is a one-shot, and where the template drops its thought the second does not go on from it."""
    with process(tmp_path) as one:
        asked = text(1, 300)
        answer(one, asked + text(2, 700), admission=Admission.ONE_SHOT)
        answer(one, asked + text(3, 700))
        answer(one, text(4, 600), admission=Admission.ONE_SHOT)  # a title
        assert kept(one) == (1000 + 700 + 600, 7)
        assert one.cache.clear(session=NAME)
        assert one.disk.settle(SOON_S) and kept(one) == (0, 0)


def test_what_was_left_aside_goes_also_where_only_the_disk_has_it(tmp_path: Path) -> None:
    with process(tmp_path) as one:
        answer(one, text(1, 300) + text(2, 700), admission=Admission.ONE_SHOT)
        answer(one, text(1, 300) + text(3, 700))
        answer(one, text(4, 600), admission=Admission.ONE_SHOT)
        answer(one, text(5, 512), OTHER)
        one.cache.free(1 << 40, "somebody")
        answer(one, text(1, 300) + text(6, 300))
    with process(tmp_path) as two:
        assert tokens(two) == 600, "of several ways that have left memory the last one is saved"
        assert two.saved.delete(NAME, "").result(SOON_S) is not None
        two.cache.clear(session=NAME)
        assert two.disk.settle(SOON_S) and kept(two) == (0, 2)


def test_what_is_held_aside_holds_no_memory_and_is_bounded(tmp_path: Path) -> None:
    with process(tmp_path) as one:
        answer(one, text(1, 300))
        for number in range(3):
            answer(one, text(2, 256) + text(3 + number, 44), admission=Admission.ONE_SHOT)
        session = one.cache.books.sessions.get(NAME)
        assert session is not None and len(session.aside) == 3
        one.cache.free(1 << 40, "somebody")
        assert not session.aside and not one.cache.books.sessions._aside
        for _ in range(MAX_ASIDE + 9):
            one.cache.books.sessions._put_aside(session, Node(ROOT, None, b"", 0, b"", 0))
        assert len(session.aside) == len(one.cache.books.sessions._aside) == MAX_ASIDE


def test_nothing_is_foreseen_of_what_is_about_to_go(tmp_path: Path) -> None:
    whole = text(1, 1000)
    with process(tmp_path) as one:
        answer(one, whole)
    with process(tmp_path) as two:
        reuse = two.cache.lookup(ROOT, (*whole, 5))
        assert two.cache.foreseen(reuse).depth_tokens == 1000
        gate = threading.Event()
        two.disk._todo.first(gate.wait)  # the disk is busy with something else
        two.cache.clear()
        assert two.cache.foreseen(reuse).depth_tokens == 0
        gate.set()
        assert two.disk.settle(SOON_S) and two.cache.foreseen(reuse).depth_tokens == 0
        answer(two, whole)
        two.cache.free(1 << 40, "somebody")
        assert two.disk.settle(SOON_S)
        assert two.cache.foreseen(two.cache.lookup(ROOT, (*whole, 5))).depth_tokens == 1000, "it is there again"


def test_a_first_turn_that_was_taken_for_a_side_call_is_what_the_second_is_compared_with(tmp_path: Path) -> None:
    """Title and tags are asked for before the second question: they are one-shots like the first."""
    asked, said = text(1, 300), text(2, 200)
    with process(tmp_path) as one:
        answer(one, asked + said, admission=Admission.ONE_SHOT)
        for number in (3, 4):
            answer(one, text(number, 100), admission=Admission.ONE_SHOT)
        onward = one.cache.lookup(ROOT, (*asked, *said, 1, 2), session=NAME)
        assert str(onward.verdict) == "extended" and onward.parting is None
        stripped = one.cache.lookup(ROOT, (*asked, 1, 2), session=NAME)
        assert str(stripped.verdict) == "diverged(token 300)"
        assert stripped.parting is not None and stripped.parting.stored == said[:16]
    with process(tmp_path) as two:
        assert tokens(two) == 700, "until it is known which of them it is, all are saved"
