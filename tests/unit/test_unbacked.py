"""What keeps prompts out of backups and search indexes, as far as it can be seen where there is no Time Machine."""

from __future__ import annotations

import plistlib
import stat
from pathlib import Path

import pytest

from mlxd.unbacked import MARK, NOT_INDEXED, TAG, keep_out_of_backups, tag_as_cache


def test_the_directory_bears_what_time_machine_and_spotlight_look_for(tmp_path: Path) -> None:
    marks: list[tuple[Path, str, object]] = []
    keep_out_of_backups(tmp_path, lambda path, name, value: marks.append((path, name, plistlib.loads(value))))
    assert marks == [(tmp_path, MARK, "com.apple.backupd")]
    assert stat.S_IMODE((tmp_path / NOT_INDEXED).stat().st_mode) == 0o600
    keep_out_of_backups(tmp_path)  # again, and as this system does it


def test_a_disk_that_will_have_no_mark_ends_nothing(tmp_path: Path) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    keep_out_of_backups(tmp_path / "not there", refused)


@pytest.mark.parametrize("there", ["nothing", "file", "link"])
def test_a_cache_is_tagged_once(tmp_path: Path, there: str) -> None:
    folder, elsewhere = tmp_path / "prefixes", tmp_path / "elsewhere"
    if there != "nothing":
        folder.mkdir()
        (folder / TAG).write_text("mine") if there == "file" else (folder / TAG).symlink_to(elsewhere)
    tag_as_cache(folder)
    if there == "nothing":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        first, _, _ = (folder / TAG).read_text().partition("\n")
        assert first == "Signature: 8a477f597d28d172789f06886806bc55", "the standard's, to the letter"
    assert not elsewhere.exists() and (there != "file" or (folder / TAG).read_text() == "mine")
