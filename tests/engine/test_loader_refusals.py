"""Loading: what is refused, by which error and how fast."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from inference.engine.loader import MlxLoader
from inference.errors import InvalidModel, UnsafeModel
from inference.ports import ModelRef
from tests import tiny_models
from tests.engine.spoiled import CORRUPTIONS, refusal

# --- safetensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupt_weight_file_is_refused_by_name(loader: MlxLoader, model: Path, corruption: str) -> None:
    CORRUPTIONS[corruption](model / "model.safetensors")
    error = refusal(loader, model)
    assert isinstance(error, InvalidModel) and "model.safetensors" in error.message


def test_refusing_reads_headers_only(loader: MlxLoader, model: Path) -> None:
    """A sparse file of 1 TB is refused as fast as a small one."""
    file = model / "model.safetensors"
    with file.open("r+b") as handle:
        handle.truncate(2**40)
    refusal(loader, model)


# --- directories ------------------------------------------------------------------------------------------------------


def index(weight_map: object) -> str:
    return json.dumps({"metadata": {}, "weight_map": weight_map})


@pytest.mark.parametrize(
    "target", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", "a\\b", "a\0b", 7, None]
)
def test_an_index_that_leads_elsewhere_is_unsafe(loader: MlxLoader, model: Path, target: object) -> None:
    (model / "model.safetensors.index.json").write_text(index({"lm_head.weight": target}))
    error = refusal(loader, model)
    assert isinstance(error, UnsafeModel) and "index.json" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": 3}',
        index({"lm_head.weight": "model-00001-of-00002.safetensors"}),
        index({"nowhere.weight": "model.safetensors"}),
        "[" * 100_000,
    ],
)
def test_an_index_that_is_wrong_is_invalid(loader: MlxLoader, model: Path, text: str) -> None:
    (model / "model.safetensors.index.json").write_text(text)
    error = refusal(loader, model)
    assert isinstance(error, InvalidModel) and "index.json" in error.message


def test_a_link_out_of_the_directory_is_unsafe(loader: MlxLoader, model: Path, tmp_path: Path) -> None:
    file = model / "model.safetensors"
    file.rename(tmp_path / "outside.safetensors")
    file.symlink_to(tmp_path / "outside.safetensors")
    assert isinstance(refusal(loader, model), UnsafeModel)


def test_the_links_of_a_hub_snapshot_are_followed(loader: MlxLoader, tmp_path: Path) -> None:
    repo = tmp_path / "models--org--name"
    snapshot = tiny_models.build(repo / "snapshots" / "0123abc", "dense")
    (repo / "blobs").mkdir()
    for file in list(snapshot.iterdir()):
        file.rename(repo / "blobs" / file.name)
        file.symlink_to(Path("../../blobs") / file.name)
    loader.load(ModelRef("hub", snapshot)).close()


def test_what_is_missing_is_named(loader: MlxLoader, model: Path, tmp_path: Path) -> None:
    assert "config.json" in refusal(loader, tmp_path / "nowhere").message
    (model / "model.safetensors").unlink()
    assert "safetensors" in refusal(loader, model).message
    (model / "config.json").unlink()
    assert "config.json" in refusal(loader, model).message


def test_a_pipe_by_a_file_s_name_does_not_block(loader: MlxLoader, model: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (model / name).unlink()
        os.mkfifo(model / name)
        assert isinstance(refusal(loader, model), InvalidModel)


# --- config.json ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": "2"},
        {"num_hidden_layers": True},
        {"num_hidden_layers": 2.5},
        {"num_hidden_layers": float("nan")},
        {"hidden_size": 2**40},
        {"vocab_size": -5},
        {"vocab_size": 10**30},
        {"head_dim": [16, 10**9]},
        {"max_position_embeddings": 0},
        {"num_experts": 10**9},
        {"text_config": {"num_hidden_layers": 10**9}},
        {"model_type": "../../evil"},
        {"model_type": "qwen3.evil"},
        {"model_type": ""},
        {"model_type": None},
        {"model_type": "no_such_architecture"},
        {"model_type": "cache"},
        {"hidden_size": 64},
        {"num_attention_heads": 3},
        {"quantization": "yes"},
        {"rope_scaling": {"rope_type": "nonsense"}},
    ],
    ids=repr,
)
def test_a_config_that_cannot_be_is_invalid(loader: MlxLoader, model: Path, changes: dict[str, Any]) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))
    error = refusal(loader, model)
    assert isinstance(error, InvalidModel) and "config.json" in error.message


@pytest.mark.parametrize("where", ["", "text_config"])
@pytest.mark.parametrize(
    "asks", [{"model_file": "evil.py"}, {"auto_map": {"A": "evil.E"}, "model_type": "evil"}], ids=str
)
def test_a_config_that_needs_code_is_unsafe(loader: MlxLoader, model: Path, asks: dict[str, Any], where: str) -> None:
    config = json.loads((model / "config.json").read_text()) | {"model_type": asks.get("model_type", "qwen3")}
    (model / "config.json").write_text(json.dumps(config | ({where: asks} if where else asks)))
    error = refusal(loader, model)
    assert isinstance(error, UnsafeModel) and next(iter(asks)) in error.message


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"3", b"\xff\xfe", b'{"a":' * 100_000, b'{"a":' * 40 + b"1" + b"}" * 40, b"{" + b" " * 2**22],
    ids=lambda text: repr(text[:12]),
)
def test_a_config_that_is_not_an_object_is_invalid(loader: MlxLoader, model: Path, text: bytes) -> None:
    (model / "config.json").write_bytes(text)
    error = refusal(loader, model)
    assert isinstance(error, InvalidModel) and "config.json" in error.message
