"""`mlxd cache` on a state directory that no daemon holds."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from inference.cache.disk import DiskStore
from inference.cache.disk_limits import DiskLimits
from inference.engine.block_file import SafetensorsCodec
from mlxd.cli import cli
from mlxd.start_errors import StartError
from tests.disk_shelf import chain
from tests.engine.test_block_file import block

IDS = tuple(range(1000, 1700))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    store = DiskStore(tmp_path / "prefixes", DiskLimits(1 << 30, max_disk_share=1.0), SafetensorsCodec(), time.time)
    store.open()
    assert all(store.write(label, block(label.end - label.start)) for label in chain(IDS))
    return tmp_path


def run(state: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["cache", *words, "--state-dir", str(state)])


def files(state: Path) -> list[Path]:
    return sorted((state / "prefixes").rglob("*.kv"))


def test_what_is_on_the_disk_is_listed_and_counted(state: Path) -> None:
    (row,) = json.loads(run(state, "ls", "--json").stdout)
    size_bytes = sum(path.stat().st_size for path in files(state))
    assert (row["files"], row["tokens"], row["size_bytes"], row["flawed"]) == (3, 700, size_bytes, 0)
    assert json.loads(run(state, "stats", "--json").stdout)["disk"] == {"files": 3, "nbytes": size_bytes}
    assert "3 files, 700 tokens" in run(state, "ls").stdout


@pytest.mark.parametrize("at", [0, 300, -1])
def test_one_bit_is_enough_to_be_told(state: Path, at: int) -> None:
    assert run(state, "verify").exit_code == 0
    path = files(state)[1]
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(bytes(raw))
    told = run(state, "verify", "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["broken"] == [{"path": str(path), "flaw": "corrupt"}]
    assert path.exists(), "nothing is changed"


def test_a_file_under_anothers_name_and_one_of_somebody_else_are_told(state: Path) -> None:
    first, second, _ = files(state)
    second.write_bytes(first.read_bytes())
    (first.parent / "notes.txt").write_text("mine")
    broken = json.loads(run(state, "verify", "--json").stdout)["broken"]
    assert {one["flaw"] for one in broken} == {"foreign", "not_ours"}


def test_everything_is_removed_and_a_part_only_by_a_daemon(state: Path) -> None:
    refused = run(state, "clear", "--model", "one")
    assert isinstance(refused.exception, StartError) and files(state)
    assert isinstance(run(state, "clear").exception, StartError) and files(state)
    for words in (("--all", "--key", "me"), ("--model", "one", "--key", "me"), ("--session", "s", "--key", "")):
        told = run(state, "clear", *words).exception
        assert isinstance(told, StartError) and "--key" in str(told) and files(state)
    assert run(state, "clear", "--all").exit_code == 0
    assert not (state / "prefixes").exists()
    assert run(state, "verify").exit_code == 0 and "Nothing" in run(state, "ls").stdout


def told(state: Path, *words: str, code: int = 0) -> dict[str, Any]:
    done = run(state, *words, "--json")
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(state: Path, *words: str) -> str:
    error = run(state, *words).exception
    assert isinstance(error, StartError)
    return f"{error.message} {error.cure}"


def test_what_is_exported_is_imported_elsewhere_once(state: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "out.tar", tmp_path / "other"
    assert told(state, "export", str(file), "--all")["files"] == 3
    assert file.stat().st_mode & 0o777 == 0o600
    assert "is there already" in refused(state, "export", str(file), "--all")
    assert told(other, "import", str(file))["files"] == {"taken": 3}
    assert [path.read_bytes() for path in files(other)] == [path.read_bytes() for path in files(state)]
    assert told(other, "import", str(file))["files"] == {"known": 3}
    assert run(other, "verify").exit_code == 0 and not list(other.rglob("*.tar"))


def test_what_is_broken_is_not_exported_and_what_is_damaged_not_imported(state: Path, tmp_path: Path) -> None:
    last = max(files(state), key=lambda path: "-512-" in path.name)
    raw = bytearray(last.read_bytes())
    raw[-1] ^= 1
    last.write_bytes(raw)
    file = tmp_path / "out.tar"
    assert told(state, "export", str(file), "--all", code=1)["left_out"] == {"corrupt": 1}
    packed = bytearray(file.read_bytes())
    packed[len(packed) // 4] ^= 1
    file.write_bytes(packed)
    done = run(tmp_path / "other", "import", str(file))
    assert done.exit_code == 1 and "refused: 1 damaged" in done.stdout


def test_what_cannot_be_done_says_so(state: Path, tmp_path: Path) -> None:
    file, other = str(tmp_path / "out.tar"), tmp_path / "other"
    assert "Say what" in refused(state, "export", file)
    assert "nothing of that" in refused(state, "export", file, "--session", "stranger")
    assert "nothing of that" in refused(state, "export", file, "--model", "stranger")
    assert "No such file" in refused(state, "export", str(tmp_path / "none" / "out.tar"), "--all")
    assert "No such file" in refused(other, "import", file)
    Path(file).write_bytes(b"anything")
    assert "not an export" in refused(other, "import", file)
    Path(file).unlink()
    run(state, "export", file, "--all")
    assert told(other, "import", file, "--model", "demo", code=1)["files"] == {"foreign": 3}
    assert "switched off" in refused_with({"MLXD_SSD_CACHE_BYTES": "0"}, other, "import", file)
    assert "Raise ssd_cache_bytes" in refused_with({"MLXD_SSD_CACHE_BYTES": "1KiB"}, other, "import", file)
    assert not files(other)


def refused_with(environment: dict[str, str], state: Path, *words: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return refused(state, *words)
