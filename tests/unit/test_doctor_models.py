"""What `mlxd doctor` says of models: damaged, missing, with code of their own, or too large."""

import json

import pytest

from mlxd.catalog import LocalModel
from mlxd.doctor import (
    Status,
    model_files,
)
from tests.doctor_scene import healthy, ill

GIB = 1 << 30
LLAMA = {
    "max_position_embeddings": 131072,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
}


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_text(json.dumps(LLAMA))
    (root / "tokenizer.json").write_text("{}")
    (root / "model.safetensors").write_bytes(b"x")
    return root


def test_a_whole_model(scene, model):
    healthy(model_files.configured_models(scene(models=(f"name={model}",))))
    healthy(model_files.configured_models(scene()))


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_that_will_not_load(lost, scene, model):
    (model / lost).unlink()
    ill(model_files.configured_models(scene(models=(str(model),))))


def test_a_model_with_a_missing_shard(scene, model):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors" in ill(model_files.configured_models(scene(models=(str(model),))))


def test_a_model_that_is_not_here(scene, tmp_path):
    assert "not on this machine" in ill(model_files.configured_models(scene(models=(str(tmp_path / "no"),))))


def test_a_model_that_brought_code(scene, model):
    healthy(model_files.came_with_code(scene(models=(f"name={model}",))))
    (model / "modeling.py").write_text("raise SystemExit")
    assert "name" in ill(model_files.came_with_code(scene(models=(f"name={model}",))), Status.WARN)


def test_what_a_config_says(model):
    shape = model_files.read_shape(model)
    assert shape == model_files.Shape(131072, vision=False, kv_bytes_per_token=2 * 2 * 8 * 128 * 32)
    (model / "config.json").write_text(json.dumps({"text_config": LLAMA, "vision_config": {}}))
    assert model_files.read_shape(model) == model_files.Shape(131072, True, shape.kv_bytes_per_token)
    hybrid = LLAMA | {"layer_types": ["linear_attention"] * 24 + ["full_attention"] * 8, "head_dim": 256}
    (model / "config.json").write_text(json.dumps(hybrid))
    assert model_files.read_shape(model).kv_bytes_per_token == 2 * 2 * 8 * 256 * 8


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"num_hidden_layers": "x", "head_dim": -1}', '{"text_config": 7}']
)
def test_a_damaged_config_says_nothing(text, model):
    (model / "config.json").write_text(text)
    assert model_files.read_shape(model) == model_files.Shape(0, False, 0)


@pytest.mark.parametrize(
    ("weights_gib", "total_gib", "verdict"), [(4, 16, "fits ("), (7, 16, "fits, barely"), (10, 16, "does not fit")]
)
def test_a_verdict_on_memory_before_the_load(weights_gib, total_gib, verdict, scene, model):
    local = LocalModel("m", model, weights_gib * GIB)  # plus 4 GiB of KV for 32,768 tokens
    finding = model_files.fits(scene(), [local], total_gib * GIB)
    assert verdict in (ill(finding, Status.WARN) if "not" in verdict else healthy(finding))


def test_a_configured_limit_counts_instead_of_the_machine(scene, model):
    local = LocalModel("m", model, 4 * GIB)
    ill(model_files.fits(scene(memory_limit_bytes=6 * GIB), [local], 64 * GIB), Status.WARN)
    healthy(model_files.fits(scene(), [], GIB))
