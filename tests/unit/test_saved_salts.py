"""What parts the clients is nowhere on the disk, in no export, and what an earlier version wrote of it goes (T45)."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.cache import saved_work
from inference.cache.archive import Archive
from inference.cache.archive_make import Made
from inference.cache.archive_make import Shelf as ToExport
from inference.cache.archive_take import take_in
from inference.cache.blocks import Root
from inference.cache.saved_manifest import Manifest, is_outdated, read_manifest
from inference.cache.saved_work import Gathered, Wish
from inference.prefix_store import SavedConversation, Taken
from tests.disk_shelf import PaperCodec, Shelf, chain, paper, state
from tests.unit.test_saved_conversations import NAME, recall, run

SECRET = b"of one key alone, 32 bytes of it"
ROOT = Root("model", "weights", "8/64/0", SECRET, "template", 2.0)
IDS = tuple(range(1000, 1700))


def filled(directory: Path) -> tuple[Shelf, Manifest]:
    """A saved conversation of a client with a salt."""
    shelf = Shelf(directory)
    labels = [*chain(IDS, ROOT), state(IDS, ROOT)]
    gathered = Gathered(ROOT, [(label, paper(label)) for label in labels], (labels[-2].key,))
    told = run(saved_work.save(shelf.store, Wish(NAME, "", "the one", "Rules"), gathered, 5.0))
    assert isinstance(told, SavedConversation)
    manifest = shelf.store.saved.get(NAME)
    assert manifest is not None
    return shelf, manifest


def exported(directory: Path) -> bytes:
    file, make = io.BytesIO(), ToExport(directory, PaperCodec())
    for _ in make.write(make.everything(), file, 1.0, Made()):
        pass
    return file.getvalue()


def imported(raw: bytes, shelf: Shelf) -> Taken:
    return run(take_in(shelf.store, Archive(io.BytesIO(raw))))


def tells(raw: bytes) -> bool:
    """Whether the salt, or a part of it, is there in some spelling."""
    spelled = [SECRET, SECRET[:12], base64.b64encode(SECRET)[:16], SECRET[:12].hex().encode()]
    return any(one in raw or one[::-1] in raw for one in spelled)


def lying(directory: Path) -> bytes:
    return b"".join(bytes(path) + path.read_bytes() for path in directory.rglob("*") if path.is_file())


def of_version_1(manifest: Manifest, salt: bytes = SECRET) -> bytes:
    """As the version before wrote it."""
    told: dict[str, Any] = json.loads(manifest.packed())
    del told["tree"], told["digest"]
    return json.dumps({**told, "format": 1, "salt": salt.hex()}).encode()


def test_nothing_on_the_disk_and_no_export_tells_a_salt(tmp_path: Path) -> None:
    shelf, manifest = filled(tmp_path / "one")
    assert tells(of_version_1(manifest)), "it would be seen"
    assert len(list((tmp_path / "one").glob("saved/*.json"))) == 1
    assert not tells(lying(tmp_path / "one"))
    raw = exported(tmp_path / "one")
    assert len(Archive(io.BytesIO(raw)).contents.conversations) == 1 and not tells(raw)
    other = Shelf(tmp_path / "other")
    assert imported(raw, other).conversations == {"taken": 1} and not tells(lying(tmp_path / "other"))
    for store in (shelf.open(), other.open()):
        kept = store.saved.get(NAME)
        assert kept == manifest and kept.root == ROOT and kept.root.key == ROOT.key, "it goes on in its own tree"
    assert replace(ROOT, salt=SECRET[::-1]) != ROOT, "and in no other"


def test_what_the_version_before_has_saved_is_read_and_tells_it_no_more(tmp_path: Path) -> None:
    shelf, manifest = filled(tmp_path)
    (path,) = tmp_path.glob("saved/*.json")
    path.write_bytes(of_version_1(manifest))
    assert not tells(exported(tmp_path)), "nor is it exported before it was written anew"
    assert shelf.open().saved.get(NAME) == manifest
    assert path.read_bytes() == manifest.packed() and not tells(lying(tmp_path))
    found = recall(shelf)
    assert found is not None and found.root.key == ROOT.key and len(found.ways) == 1
    assert is_outdated(of_version_1(manifest)) and not is_outdated(manifest.packed())
    assert read_manifest(of_version_1(replace(manifest, weights="others"))) != manifest
    assert read_manifest(of_version_1(manifest, b"another")) != manifest


def test_what_cannot_be_written_anew_is_served_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, manifest = filled(tmp_path)
    (path,) = tmp_path.glob("saved/*.json")
    path.write_bytes(of_version_1(manifest))

    def refuse(*_: object) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr("inference.cache.disk_files.Files.write", refuse)
        assert shelf.open().saved.get(NAME) == manifest
    assert tells(lying(tmp_path)) and shelf.open().saved.get(NAME) == manifest
    assert not tells(lying(tmp_path)), "each start tries again"


def test_a_conversation_that_says_to_be_of_another_model_than_its_tree_is_not_taken_in(tmp_path: Path) -> None:
    _, manifest = filled(tmp_path / "one")
    (path,) = (tmp_path / "one").glob("saved/*.json")
    for number, told in enumerate((replace(manifest, weights="others"), replace(manifest, settings=""))):
        path.write_bytes(told.packed())
        other = Shelf(tmp_path / f"other {number}")
        assert imported(exported(tmp_path / "one"), other).conversations == {"foreign": 1}
        assert len(other.store.saved) == 0
