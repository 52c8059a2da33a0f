"""What a model's weight files and their index can cost before they are refused: little memory, whatever they hold."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from inference.engine.model_files import MAX_INDEX_BYTES, MAX_INDEX_VALUES, check_model_files
from inference.engine.safetensors_check import MAX_HEADER_BYTES, MAX_HEADER_VALUES, CorruptFileError, check_safetensors
from inference.errors import InvalidModel
from tests import tiny_models

MEASURED = """
import sys
from pathlib import Path
from inference.engine.model_files import check_model_files
from inference.engine.peak_memory import peak_bytes
from inference.errors import InvalidModel
before = peak_bytes()
try:
    check_model_files(Path(sys.argv[1]))
    print("taken")
except InvalidModel:
    print(peak_bytes() - before)
"""
HEADERS = {
    "lists as large as the file may be": b"[]," * ((MAX_HEADER_BYTES - 16) // 3),
    "lists as many as there may be": b"[]," * (MAX_HEADER_VALUES // 2 - 2),
    "numbers as many as there may be": b"1111," * (MAX_HEADER_VALUES - 2),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_models.build(tmp_path / "model", "dense")


def grown_bytes(model: Path) -> int:
    """How far refusing a directory drives the memory of a fresh process."""
    run = subprocess.run([sys.executable, "-P", "-c", MEASURED, str(model)], capture_output=True, text=True, check=True)
    assert run.stdout != "taken\n"
    return int(run.stdout)


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_never_takes_much_memory(model: Path, kind: str) -> None:
    """Its bytes, its text and what is made of a million values; without a limit the first took 2 GB."""
    header = b'{"a":[' + HEADERS[kind] + b"1]}"
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert grown_bytes(model) < 200 << 20


def test_an_index_never_takes_much_memory(model: Path) -> None:
    (model / "model.safetensors.index.json").write_bytes(b'{"a":[' + b"[]," * ((MAX_INDEX_BYTES - 16) // 3) + b"1]}")
    assert grown_bytes(model) < 200 << 20


def test_more_values_than_anybody_has_are_refused_by_their_number(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(range(MAX_INDEX_VALUES), "")})
    )
    with pytest.raises(InvalidModel, match=f"more than {MAX_INDEX_VALUES}"):
        check_model_files(model)
    header = b'{"a":[' + b"0," * MAX_HEADER_VALUES + b"0]}"
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CorruptFileError, match=f"more than {MAX_HEADER_VALUES}"):
        check_safetensors(model / "model.safetensors")


def test_a_shard_larger_than_any_is_taken(tmp_path: Path) -> None:
    """All experts of a large mixture in one file, each with its scales and biases."""
    count = 50_000
    entries = {
        f"model.layers.59.mlp.experts.{at}.down_proj.scales": {
            "dtype": "U8",
            "shape": [1, 1],
            "data_offsets": [at, at + 1],
        }
        for at in range(count)
    }
    header = json.dumps(entries, separators=(",", ":")).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(count))
    assert check_safetensors(tmp_path / "m.safetensors").tensor_bytes == count
