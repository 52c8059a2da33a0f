"""Stored prefixes in one file: what comes out is what went in, and nothing else ever comes in."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.cache import saved_work
from inference.cache.archive import Archive, ArchiveWriter, NotAnArchive, Tree, entry_named
from inference.cache.archive_make import Choice, Made
from inference.cache.archive_make import Shelf as Made_from
from inference.cache.archive_take import batches, only, take_in, take_in_batch, write_batch
from inference.cache.disk_index import DiskEntry
from inference.cache.saved_work import Gathered, Wish
from inference.prefix_store import SavedConversation, Taken
from tests.disk_shelf import ROOM, ROOT, PaperCodec, Shelf, chain, paper, state

IDS = tuple(range(1000, 1700))
LABELS = [*chain(IDS), state(IDS)]
NAME = "0" * 32


def run(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def filled(directory: Path, *, save: bool = False) -> Shelf:
    shelf = Shelf(directory)
    assert all(shelf.write(LABELS))
    if save:
        gathered = Gathered(ROOT, [(label, paper(label)) for label in LABELS], (LABELS[-1].key,))
        told = run(saved_work.save(shelf.store, Wish(NAME, "", "the one", "Rules"), gathered, 5.0))
        assert isinstance(told, SavedConversation)
    return shelf


def chosen(directory: Path) -> Choice:
    return Made_from(directory, PaperCodec()).everything()


def packed(directory: Path, choice: Choice | None = None) -> bytes:
    file, made = io.BytesIO(), Made()
    for _ in Made_from(directory, PaperCodec()).write(choice or chosen(directory), file, 1.0, made):
        pass
    return file.getvalue()


def taken(raw: bytes, shelf: Shelf) -> Taken:
    archive = Archive(io.BytesIO(raw))
    found = run(take_in(shelf.store, archive))
    assert isinstance(found, Taken)
    return found


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    """To the byte, and it is a tar that anybody can list."""
    one, other = filled(tmp_path / "one", save=True), Shelf(tmp_path / "other")
    raw = packed(tmp_path / "one")
    assert taken(raw, other) == Taken({"taken": 4}, one.store.index.nbytes, {"taken": 1})
    assert other.on_disk() == one.on_disk()
    for path in (tmp_path / "one").glob("v1/*/*/*"):
        assert (tmp_path / "other" / path.relative_to(tmp_path / "one")).read_bytes() == path.read_bytes()
    other.check()
    again = other.open()
    assert [manifest.title for manifest in again.saved] == ["Rules"]
    assert run(saved_work.recall(again, NAME, "")).ways == (b"".join(label.ids for label in LABELS[:3]),)
    assert taken(raw, other) == Taken({"known": 4}, 0, {"known": 1})
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert len(tar.getnames()) == 5


def test_a_conversation_and_a_model_are_taken_out_alone(tmp_path: Path) -> None:
    shelf = filled(tmp_path, save=True)
    shelf.write(chain(tuple(range(5000, 5400))))
    make = Made_from(tmp_path, PaperCodec())
    saved = make.conversations(lambda manifest: manifest.id == "the one")
    assert {entry.key for entry in saved.entries} == {label.key for label in LABELS} and len(saved.conversations) == 1
    assert make.conversations(lambda manifest: manifest.id == "another").entries == ()
    assert len(make.everything("model").entries) == 6 and make.everything("stranger").entries == ()
    (contents,) = batches(Archive(io.BytesIO(packed(tmp_path, saved))).contents, 1 << 30)
    assert only(contents, "other weights").parts == ()


@pytest.mark.parametrize("number", range(len(LABELS)))
def test_a_broken_file_hides_no_others_of_its_model(tmp_path: Path, number: int) -> None:
    """Neither from an export of that model nor from the order to clear it."""
    shelf = filled(tmp_path)
    (broken,) = tmp_path.glob(f"v1/*/*/*-{LABELS[number].key.hex()}-*")
    broken.write_bytes(b"not what was written")
    assert len(Made_from(tmp_path, PaperCodec()).everything("model").entries) == len(LABELS)
    shelf.open().clear(model="model")
    assert shelf.on_disk() == {}


def test_in_batches_it_is_the_same(tmp_path: Path) -> None:
    filled(tmp_path / "one", save=True)
    other = Shelf(tmp_path / "other")
    archive = Archive(io.BytesIO(packed(tmp_path / "one")))
    folder = tmp_path / "other" / "incoming"
    folder.mkdir()
    total: Counter[str] = Counter()
    for number, batch in enumerate(batches(archive.contents, 1)):
        assert not write_batch(archive, batch, folder / f"{number:032x}.tar", 1.0)
        found = run(take_in_batch(other.store, f"{number:032x}"))
        total.update(found.files)
    assert number == 3 and total == {"taken": 4} and found.conversations == {"taken": 1}
    assert other.on_disk() == {entry.name: entry.nbytes for entry in chosen(tmp_path / "one").entries}


@pytest.mark.parametrize("name", ["..", "../../etc/passwd", "a" * 32, "0" * 31, "0" * 32 + "/..", "", "0" * 33])
def test_a_batch_is_a_name_in_one_folder_and_no_path(tmp_path: Path, name: str) -> None:
    shelf = Shelf(tmp_path)
    with pytest.raises((NotAnArchive, OSError)):
        run(take_in_batch(shelf.store, name))


def test_a_batch_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    filled(tmp_path / "one")
    (tmp_path / "elsewhere").write_bytes(packed(tmp_path / "one"))
    shelf = Shelf(tmp_path / "other")
    (tmp_path / "other" / "incoming").mkdir()
    (tmp_path / "other" / "incoming" / f"{NAME}.tar").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        run(take_in_batch(shelf.store, NAME))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_changed_in_it_nothing_comes_in_that_was_not_written(data: st.DataObject) -> None:
    """Bytes flipped, cut out, put in or cut off: each file is the one that was written, or it is counted."""
    raw = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "end", "insert"])):
            case "flip":
                raw[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 600))]
            case "end":
                del raw[at:]
            case _:
                raw[at:at] = bytes(data.draw(st.integers(1, 600)))
        if not raw:
            return
    _hold(bytes(raw))


def _hold(raw: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        shelf = Shelf(Path(made) / "shelf")
        try:
            found = taken(raw, shelf)
        except NotAnArchive:
            assert not shelf.on_disk()
            return
        assert sum(found.files.values()) == 4, "each part that the manifest names is counted"
        for path in Path(made).rglob("v1/*/*/*"):
            assert path.read_bytes() == ORIGINAL[path.name]
        shelf.check()


def hostile(*members: tarfile.TarInfo) -> bytes:
    """The export with members that nobody here would write, before the others."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    raw = file.getvalue().rstrip(b"\0")
    return raw + bytes(-len(raw) % 512) + WHOLE


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 3, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.size, found.linkname = kind, size if kind == tarfile.REGTYPE else 0, link
    return found


@pytest.mark.parametrize(
    "planted",
    [
        member("../../escaped"),
        member("/tmp/escaped"),
        member("a\\..\\b"),
        member("x" * 300),
        member("link", tarfile.SYMTYPE, link="/etc/passwd"),
        member("hard", tarfile.LNKTYPE, link="../../escaped"),
        member("pipe", tarfile.FIFOTYPE),
        member("node", tarfile.CHRTYPE),
        member("folder", tarfile.DIRTYPE),
    ],
    ids=lambda planted: planted.name[:12],
)
def test_what_does_not_belong_there_is_counted_and_leads_nowhere(tmp_path: Path, planted: tarfile.TarInfo) -> None:
    archive = Archive(io.BytesIO(hostile(planted)))
    assert archive.foreign >= 1
    shelf = Shelf(tmp_path / "shelf")
    assert run(take_in(shelf.store, archive)).files == {"taken": 4}
    files = {path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()}
    known = {tmp_path / "shelf" / "saved" / f"{NAME}.json", tmp_path / "shelf" / "budget.json"}
    assert files - known == set((tmp_path / "shelf").glob("v1/*/*/*")), "nothing but what the store itself keeps"


def test_a_size_that_is_not_there_costs_nothing(tmp_path: Path) -> None:
    """Exabytes by word, a sparse file, a manifest of a gigabyte of blanks: nothing is read that is not there."""
    bomb = member("bomb")
    bomb.size = 1 << 62
    raw = bomb.tobuf(tarfile.GNU_FORMAT) + WHOLE
    with pytest.raises(NotAnArchive):
        Archive(io.BytesIO(raw))
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(member("manifest-" + "0" * 64 + ".json", size=1 << 40).tobuf(tarfile.GNU_FORMAT))
        file.truncate((1 << 40) + 512)
    with pytest.raises(NotAnArchive):
        Archive.open(path)
    os.truncate(path, 0)


def test_parts_of_another_tree_and_orphans_are_refused(tmp_path: Path) -> None:
    codec, label = PaperCodec(), LABELS[1]
    for tree, word in (
        (Tree(label.root, "model", "weights", ""), "unreachable"),
        (Tree(label.root, "model", "w", ""), "foreign"),
    ):
        file = io.BytesIO()
        writer = ArchiveWriter(file, 1.0)
        raw = b"".join(bytes(piece) for piece in codec.encode(label, paper(label)))
        writer.add(DiskEntry.of(label, len(raw)), raw)
        writer.finish([tree], [])
        shelf = Shelf(tmp_path / word)
        assert taken(file.getvalue(), shelf).files == {word: 1} and not shelf.on_disk()


def test_the_limits_of_the_disk_are_those_of_everything_else(tmp_path: Path) -> None:
    for reason, limits in (
        ("too_large", {"max_bytes": 10}),
        ("disk_guard", {"max_disk_share": 0.0}),
        ("day_budget", {"day_bytes": 1}),
    ):
        shelf = Shelf(tmp_path / reason, ROOM.__class__(**{"max_bytes": 1 << 40, "max_disk_share": 1.0, **limits}))  # type: ignore[arg-type]
        found = taken(WHOLE, shelf)
        assert found.files == {f"refused_{reason}": 1, "unreachable": 3} and found.conversations == {"missing": 1}
        assert not shelf.on_disk() and len(shelf.store.saved) == 0


@pytest.mark.parametrize(
    "name", ["", "/", "a/b/c", "../x/y", "0" * 32 + "/00/..", "0" * 32 + "//x", "é" * 32 + "/00/x"]
)
def test_no_other_name_is_one_of_ours(name: str) -> None:
    assert entry_named(name, 5) is None


def _whole() -> tuple[bytes, dict[str, bytes]]:
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        filled(Path(made), save=True)
        files = {path.name: path.read_bytes() for path in Path(made).glob("v1/*/*/*")}
        return packed(Path(made)), files


WHOLE, ORIGINAL = _whole()
