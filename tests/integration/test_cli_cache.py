"""`mlxd cache` on a state directory that no daemon holds."""

from __future__ import annotations

import json
import time
from pathlib import Path

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
    assert run(state, "clear", "--all").exit_code == 0
    assert not (state / "prefixes").exists()
    assert run(state, "verify").exit_code == 0 and "Nothing" in run(state, "ls").stdout
