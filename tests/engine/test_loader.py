"""Loading: what is refused and how fast, what a model's figures are, and that nothing stays behind."""

from __future__ import annotations

import gc
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inference.engine import memory
from inference.engine.loader import MlxLoader
from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.settings import EngineSettings
from inference.errors import InvalidModel, MemoryPressure, ModelError, ModelTooLarge, UnsafeModel
from inference.ports import ModelRef
from tests import tiny_models
from tests.engine.harness import Loaded, job, run, solo

REFUSED_WITHIN_S = 0.05
SLACK = 10


@pytest.fixture(scope="module")
def loader() -> MlxLoader:
    return MlxLoader(EngineSettings())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A fresh directory to spoil."""
    return tiny_models.build(tmp_path / "model", "dense")


def refusal(loader: MlxLoader, path: Path) -> ModelError:
    """The error a directory is refused with: at once, with nothing allocated, naming no path."""
    memory.release_unused()
    gc.freeze()  # a refusal collects garbage, and this process's heap holds much that a daemon's does not
    before, began = mx.get_active_memory(), time.perf_counter()
    with pytest.raises(ModelError) as caught:
        loader.load(ModelRef("spoiled", path))
    took_s = time.perf_counter() - began
    gc.unfreeze()
    assert took_s < REFUSED_WITHIN_S * SLACK
    assert mx.get_active_memory() <= before
    assert str(path) not in caught.value.message and str(path.parent) not in caught.value.message
    return caught.value


# --- safetensors ----------------------------------------------------------------------------------------------------


def read_header(file: Path) -> tuple[dict[str, Any], bytes]:
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_file(file: Path, header: object, body: bytes, *, length: int | None = None) -> None:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + body)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        header, body = read_header(file)
        change(header["model.norm.weight"])
        write_file(file, header, body)

    return spoil


def edit_file(change: Callable[[dict[str, Any], bytes], tuple[object, bytes]]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        write_file(file, *change(*read_header(file)))

    return spoil


def header_length(length: int) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        write_file(file, *read_header(file), length=length)

    return spoil


CORRUPTIONS: dict[str, Callable[[Path], None]] = {
    "empty": lambda file: file.write_bytes(b"") and None,
    "seven_bytes": lambda file: file.write_bytes(b"\0" * 7) and None,
    "header_beyond_file": header_length(2**31),
    "header_100_mb": header_length(100 * 2**20 + 1),
    "header_2_64": header_length(2**64 - 1),
    "header_zero": header_length(0),
    "not_json": edit_file(lambda _header, body: (b"{" + b"x" * 64, body)),
    "not_utf8": edit_file(lambda _header, body: (b'{"\xff": 1}', body)),
    "a_list": edit_file(lambda _header, body: (b"[1, 2]", body)),
    "deep_json": edit_file(lambda _header, body: (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, body)),
    "duplicate_tensor": edit_file(
        lambda header, body: (json.dumps(header).replace("model.norm.weight", "lm_head.weight").encode(), body)
    ),
    "truncated_body": edit_file(lambda header, body: (header, body[:-1])),
    "trailing_bytes": edit_file(lambda header, body: (header, body + b"\0")),
    "unknown_type": edit(lambda entry: entry.update(dtype="F31")),
    "type_is_a_list": edit(lambda entry: entry.update(dtype=["F32"])),
    "other_type": edit(lambda entry: entry.update(dtype="F16")),
    "negative_shape": edit(lambda entry: entry.update(shape=[-48])),
    "float_shape": edit(lambda entry: entry.update(shape=[48.0])),
    "huge_shape": edit(lambda entry: entry.update(shape=[2**62, 2**62])),
    "larger_shape": edit(lambda entry: entry.update(shape=[49])),
    "offsets_reversed": edit(lambda entry: entry.update(data_offsets=entry["data_offsets"][::-1])),
    "offsets_beyond": edit(lambda entry: entry.update(data_offsets=[2**40, 2**40 + 192])),
    "offsets_negative": edit(lambda entry: entry.update(data_offsets=[-192, 0])),
    "overlap": edit(lambda entry: entry.update(data_offsets=[0, 192])),
    "missing_field": edit(lambda entry: entry.pop("shape")),
    "unknown_field": edit(lambda entry: entry.update(extra=1)),
    "metadata_is_a_list": edit_file(lambda header, body: (header | {"__metadata__": [1]}, body)),
    "metadata_not_text": edit_file(lambda header, body: (header | {"__metadata__": {"a": 1}}, body)),
}


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


# --- directories ----------------------------------------------------------------------------------------------------


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


# --- config.json ----------------------------------------------------------------------------------------------------


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


# --- size -----------------------------------------------------------------------------------------------------------


def test_a_model_too_large_is_refused_with_both_figures_before_it_is_read(model: Path) -> None:
    limit = memory.default_limit_bytes()
    try:
        small = MlxLoader(EngineSettings(memory_limit_bytes=2**20))
        memory.release_unused()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        error = refusal(small, model)
        assert isinstance(error, ModelTooLarge)
        assert error.message == "The model needs 4 MiB (weights 0 MiB) and 1 MiB may be used."
        assert mx.get_peak_memory() - before < 4096
    finally:
        MlxLoader(EngineSettings(memory_limit_bytes=limit))


def test_room_that_other_models_hold_is_pressure_not_refusal(model: Path) -> None:
    limit = memory.default_limit_bytes()
    try:
        crowded = MlxLoader(EngineSettings(memory_limit_bytes=mx.get_active_memory() + 6 * 2**20))
        held = mx.zeros((2**20,))
        mx.eval(held)
        with pytest.raises(MemoryPressure):
            crowded.load(ModelRef("m", model))
        del held
        crowded.load(ModelRef("m", model)).close()
    finally:
        MlxLoader(EngineSettings(memory_limit_bytes=limit))


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_limits_are_those_of_the_model(load: Callable[[str], Loaded], architecture: str) -> None:
    loaded = load(architecture)
    limits, config = loaded.limits, tiny_models.CONFIGS[architecture]
    assert (limits.context_tokens, limits.vocab_size) == (tiny_models.CONTEXT_TOKENS, tiny_models.VOCAB_SIZE)
    assert limits.architecture == config["model_type"]
    assert limits.weights_bytes == pytest.approx(4 * limits.parameters, rel=0.01)
    growing = sum(type(entry).__name__ == "KVCache" for entry in make_prompt_cache(loaded.model))
    assert limits.kv_bytes_per_token == growing * 2 * 2 * 16 * 4


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize("length", [1, 300, 1025])
def test_a_row_holds_no_more_than_its_limits_say(load: Callable[[str], Loaded], architecture: str, length: int) -> None:
    loaded = load(architecture)
    most = 0

    def look(runner: Any) -> None:
        nonlocal most
        most = max(most, runner.kv_bytes)

    run(loaded.runner(), [job("a", tiny_models.prompt_ids(length), max_tokens=3)], each_step=look)
    allowed = loaded.limits.row_bytes(length + 3)
    assert allowed / 2.5 < most <= allowed or (length == 1 and most <= allowed)


def test_weights_too_few_or_too_many_are_invalid(loader: MlxLoader, model: Path) -> None:
    weights = dict(mx.load(str(model / "model.safetensors")))
    for changed in (
        {name: array for name, array in weights.items() if "norm" not in name},
        weights | {"model.extra.weight": mx.zeros((4,))},
        weights | {"lm_head.weight": mx.zeros((511, 48))},
    ):
        mx.save_safetensors(str(model / "model.safetensors"), changed)
        assert isinstance(refusal(loader, model), InvalidModel)


def test_a_bf16_model_has_bf16_figures(loader: MlxLoader, tmp_path: Path) -> None:
    path = tiny_models.build(tmp_path / "half", "dense")
    weights = {name: array.astype(mx.bfloat16) for name, array in mx.load(str(path / "model.safetensors")).items()}
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    runner = loader.load(ModelRef("half", path))
    assert runner.limits.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
    assert runner.limits.weights_bytes == 2 * runner.limits.parameters
    assert len(run(runner, [job("a", tiny_models.prompt_ids(30))])["a"].tokens) == 8  # type: ignore[arg-type]
    runner.close()


# --- what loading does to the process -------------------------------------------------------------------------------


def test_memory_returns_after_twenty_loads(loader: MlxLoader, model_dir: Callable[[str], Path]) -> None:
    path = model_dir("moe")

    def once() -> int:
        runner = loader.load(ModelRef("m", path))
        runner.start(job("a", tiny_models.prompt_ids(300), max_tokens=3))
        runner.step()
        held = mx.get_active_memory()
        runner.close()
        return held

    once()
    memory.release_unused()
    baseline = mx.get_active_memory()
    held = max(once() for _ in range(20))
    model_bytes = held - baseline
    assert model_bytes > 400_000
    assert abs(mx.get_active_memory() - baseline) <= 0.02 * model_bytes
    assert mx.get_cache_memory() == 0


def test_the_wired_limit_is_never_touched(loader: MlxLoader, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_limit: int) -> int:
        raise AssertionError("set_wired_limit was called")

    monkeypatch.setattr(mx, "set_wired_limit", never)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 2**30})
    runner = MlxLoader(EngineSettings(memory_limit_bytes=2**33)).load(ModelRef("m", model))
    jobs = [job(f"r{at}", tiny_models.prompt_ids(300 + at)) for at in range(3)]
    assert all(len(outcome.tokens) == 8 for outcome in run(runner, jobs).values())  # type: ignore[arg-type]
    runner.close()
    loader.release_unused()
    monkeypatch.undo()
    MlxLoader(EngineSettings())


SCRIPT = """
import resource, sys, threading
from pathlib import Path
before = resource.getrlimit(resource.RLIMIT_NOFILE)
import inference.engine.settings
assert "mlx" not in sys.modules and "mlx.core" not in sys.modules, "settings must not import MLX"

def work():
    from inference.engine.loader import MlxLoader
    from inference.engine.settings import EngineSettings
    from inference.params import SamplingParams
    from inference.ports import Job, ModelRef
    from inference.tokens import Prompt
    runner = MlxLoader(EngineSettings()).load(ModelRef("m", Path(sys.argv[1])))
    for at in range(3):
        runner.start(Job(str(at), Prompt(tuple(range(3, 300 + at))), SamplingParams(), 8 + at))
    for _ in range(20 if "end" in sys.argv else 4):
        runner.step()
    if "close" in sys.argv:
        runner.close()
    if "daemon" in sys.argv:
        done.set()
        threading.Event().wait()

done = threading.Event()
for _ in range(1 if "daemon" in sys.argv else 4):
    thread = threading.Thread(target=work, daemon="daemon" in sys.argv)
    thread.start()
    done.wait(60) if "daemon" in sys.argv else thread.join()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == before, "importing the engine changed the file limit"
print("fine")
"""


@pytest.mark.parametrize("how", [("end", "close"), (), ("daemon",)], ids="-".join)
def test_a_worker_thread_leaves_the_interpreter_in_order(
    model_dir: Callable[[str], Path], how: tuple[str, ...]
) -> None:
    """One worker after another, closed or not, or one that never ends: the process exits 0 and says nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", SCRIPT, str(model_dir("dense")), *how],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_the_answer_of_a_loaded_model_is_that_of_its_weights(loader: MlxLoader, tmp_path: Path) -> None:
    """Two seeds of weights, two answers: what is loaded is what lies in the directory."""
    answers = []
    for seed in (1, 2, 1):
        path = tiny_models.build(tmp_path / f"m{len(answers)}", "dense", seed=seed)
        runner: Any = loader.load(ModelRef("m", path))
        answers.append(solo(Loaded(runner._model, runner.limits), job("a", tiny_models.prompt_ids(30))).tokens)
        runner.close()
    assert answers[0] == answers[2] != answers[1]
    assert np.unique(answers[0]).size > 3
