"""Models that would give other KV have other fingerprints; the same model keeps its own wherever it lies."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inference.engine import fingerprint as room
from inference.engine.fingerprint import fingerprint
from inference.errors import InvalidModel
from inference.params import KVQuantisation
from tests import tiny_models


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_models.build(tmp_path / "model", "dense")


def reweigh(directory: Path, change: Any) -> None:
    path = str(directory / "model.safetensors")
    weights = mx.load(path)
    assert isinstance(weights, dict)
    mx.eval(weights)
    mx.save_safetensors(path, change(weights), {"format": "mlx"})


def test_it_is_of_what_the_model_is_and_not_of_where(model: Path, tmp_path: Path) -> None:
    first = fingerprint(model)
    assert len(first) == 64 and first == fingerprint(model)
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in model.iterdir():
        (linked / path.name).symlink_to(path)
    (copy / "tokenizer.json").unlink()
    assert fingerprint(copy) == fingerprint(linked) == first


@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_one_tensor_trained_on_shows(model: Path, name: str) -> None:
    """Header, sizes and config are the same to the byte."""
    first, path = fingerprint(model), model / "model.safetensors"
    raw = bytearray(path.read_bytes())
    body = 8 + int.from_bytes(raw[:8], "little")
    start, stop = (body + at for at in json.loads(raw[8:body])[name]["data_offsets"])
    raw[start:stop] = (np.frombuffer(raw[start:stop], np.float32) * np.float32(1.001)).tobytes()
    path.write_bytes(raw)
    assert fingerprint(model) != first


def test_another_type_config_or_file_shows(model: Path) -> None:
    seen = {fingerprint(model)}
    reweigh(model, lambda weights: {name: array.astype(mx.bfloat16) for name, array in weights.items()})
    seen.add(fingerprint(model))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rope_theta": 20_000.0}))
    seen.add(fingerprint(model))
    shutil.copy(model / "model.safetensors", model / "model-2.safetensors")
    seen.add(fingerprint(model))
    assert len(seen) == 4


def test_the_same_bytes_as_another_type_or_shape_show(model: Path) -> None:
    """bfloat16 and float16 weights can agree in every size and sample: only the header tells them apart."""
    path = model / "model.safetensors"
    raw, seen = path.read_bytes(), {fingerprint(model)}
    body = 8 + int.from_bytes(raw[:8], "little")
    for told in ({"dtype": "I32"}, {"shape": [tiny_models.VOCAB_SIZE // 2, 96]}):
        header = json.loads(raw[8:body])
        header["lm_head.weight"] |= told
        path.write_bytes(raw[:8] + json.dumps(header, separators=(",", ":")).encode().ljust(body - 8) + raw[body:])
        assert path.stat().st_size == len(raw)
        seen.add(fingerprint(model))
    assert len(seen) == 3


def test_how_kv_is_kept_and_the_format_show(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {fingerprint(model, how) for how in (None, KVQuantisation(4), KVQuantisation(8), KVQuantisation(8, 32))}
    seen.add(fingerprint(model, KVQuantisation(8, 32, 5000)))
    for name in ("FORMAT_VERSION", "GRID_TOKENS"):
        monkeypatch.setattr(room, name, 9)
        seen.add(fingerprint(model))
    assert len(seen) == 7


@pytest.mark.parametrize("spoil", ["cut", "gone", "no_config"])
def test_files_that_went_under_way_are_refused(model: Path, spoil: str) -> None:
    weights = model / "model.safetensors"
    if spoil == "cut":
        weights.write_bytes(weights.read_bytes()[:40])
    elif spoil == "gone":
        weights.unlink()
    else:
        (model / "config.json").unlink()
    with pytest.raises(InvalidModel):
        fingerprint(model)


def test_it_reads_little_of_a_large_model(model: Path) -> None:
    """20 GB in 1000 tensors (in a file of holes): measured 25 ms, and a hash of them would take half a minute."""
    each = 20 * 1024**2
    entries = {
        f"t{at}": {"dtype": "U8", "shape": [each], "data_offsets": [at * each, (at + 1) * each]} for at in range(1000)
    }
    header = json.dumps(entries).encode()
    with (model / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 1000 * each)
    began_s = time.thread_time()
    fingerprint(model)
    assert time.thread_time() - began_s < 0.5
