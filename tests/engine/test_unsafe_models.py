"""What a model directory may bring along is never run, by no way that leads to it; what needs it is refused."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from inference.engine.left_unread import left_unread
from inference.engine.loader import MlxLoader
from inference.engine.model_json import MAX_VALUES, read_object
from inference.engine.settings import EngineSettings
from inference.engine.text import load_text
from inference.errors import InvalidModel, ModelError, UnsafeModel
from inference.ports import ModelRef
from tests import tiny_models
from tests.hostile_models import HOSTILE, MODULES, PICKLES, merge, plant_canaries


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_models.build(tmp_path / "model", "dense")


@pytest.fixture
def witness(tmp_path: Path, model: Path) -> Path:
    plant_canaries(model, tmp_path / "witness")
    return tmp_path / "witness"


def test_the_canaries_sing(model: Path, witness: Path) -> None:
    """Else their silence would say nothing."""
    for name in PICKLES:
        pickle.loads((model / name).read_bytes())
    for name in MODULES:
        exec((model / f"{name}.py").read_text())
    assert len(witness.read_text().splitlines()) == len(PICKLES) + len(MODULES)


# Every way by which the program meets a model, in a process started inside of the model's directory.
WAYS = """
import asyncio, os, sys
from pathlib import Path
os.environ["HF_HUB_OFFLINE"] = "1"
from inference.conversation.preparer import LARGE_BODY_BYTES, Preparer
from inference.engine.fingerprint import fingerprint
from inference.engine.loader import MlxLoader
from inference.engine.settings import EngineSettings
from inference.engine.text import load_text
from inference.engine.text_trial import load_text_apart
from inference.messages import Conversation, Message, Role, TextPart
from inference.ports import ModelRef
from mlxd.cli.models import _row
from mlxd.config import Config
from mlxd.doctor import Scene, examine, model_files
from mlxd.paths import StateDir
path, state = Path(sys.argv[1]), Path(sys.argv[2])
state.mkdir(mode=0o700, exist_ok=True)
MlxLoader(EngineSettings()).load(ModelRef("m", path)).close()
fingerprint(path)
text = load_text(path)
load_text_apart(path)
preparer = Preparer()
talk = Conversation((Message(Role.USER, (TextPart("hi"),)),))
for size in (1, LARGE_BODY_BYTES + 1):
    asyncio.run(preparer.prepare(path, text, talk, size))
preparer.close()
print(_row("m", path, "").unread)
scene = Scene(Config(state_dir=state, models=(str(path),)), StateDir(state), {}, ())
checks = (model_files.configured_models, model_files.fits, model_files.came_with_code)
for finding in examine(scene, checks):
    print(finding.status, finding.what)
"""


def test_no_canary_sings_on_any_way(model: Path, witness: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", WAYS, str(model), str(tmp_path / "state")],
        cwd=model, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "brought code or pickled data along" in done.stdout
    assert "came with code or pickled data" in done.stderr, "the log says so too"
    assert not witness.exists()


def test_a_tokenizer_that_needs_its_own_code_is_refused(model: Path, witness: Path) -> None:
    (model / "tokenizer.json").unlink()
    (model / "vocab.txt").write_text("a\nb\n")
    merge(model / "tokenizer_config.json", tokenizer_class="TokenizerOfItsOwn")
    with pytest.raises(UnsafeModel, match="auto_map"):
        load_text(model)
    assert not witness.exists()


def test_what_is_left_lying_is_named(model: Path, witness: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = left_unread(model)
    assert {f"{name}.py" for name in MODULES} | set(PICKLES) | {"model.npz"} < set(named)
    assert {"config.json: auto_map", "tokenizer_config.json: auto_map"} < set(named)
    with caplog.at_level(logging.WARNING):
        MlxLoader(EngineSettings()).load(ModelRef("m", model)).close()
    assert "configuration_evil.py" in caplog.text


def test_a_plain_model_is_not_spoken_of(model: Path, tmp_path: Path) -> None:
    assert left_unread(model) == () == left_unread(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_directory_is_refused_by_its_code(model: Path, kind: str) -> None:
    spoil, code = HOSTILE[kind]
    spoil(model)
    with pytest.raises(ModelError) as caught:
        load_text(model)
        MlxLoader(EngineSettings()).load(ModelRef("m", model))
    assert caught.value.code == code and str(model) not in caught.value.message


@pytest.mark.parametrize("name", ["generation_config.json", "hf_quant_config.json"])
@pytest.mark.parametrize("text", ["{" + " " * 2**22, "[" * 100_000, "[]", "{"])
def test_what_mlx_lm_reads_beside_the_config_is_bounded_too(model: Path, name: str, text: str) -> None:
    (model / name).write_text(text)
    with pytest.raises(InvalidModel, match=name):
        MlxLoader(EngineSettings()).load(ModelRef("m", model))


@pytest.mark.parametrize("unit", ["[],", '{"":1},', "1111,", '"😀😀😀😀😀",', "[[[[]]]],"])
def test_a_json_file_never_takes_much_memory(tmp_path: Path, unit: str) -> None:
    """As many of a value as fit, once within the limit of values and once to the last byte."""
    file = tmp_path / "config.json"
    for count in (MAX_VALUES // (1 + sum(map(unit.count, "[{,"))), 2**22 // len(unit.encode()) - 8):
        file.write_text('{"a":[' + unit * count + "1]}")
        code = (
            "import sys\nfrom pathlib import Path\nfrom inference.engine.model_json import read_object\n"
            "from inference.engine.peak_memory import peak_bytes\nfrom inference.errors import InvalidModel\n"
            "before = peak_bytes()\n"
            "try: read_object(Path(sys.argv[1]))\nexcept InvalidModel: pass\n"
            "print(peak_bytes() - before)"
        )
        run = subprocess.run([sys.executable, "-P", "-c", code, str(file)], capture_output=True, text=True, check=True)
        assert int(run.stdout) < 50 << 20


def test_real_configs_are_far_from_the_limit(tmp_path: Path) -> None:
    """A quantisation for each of 5,000 modules, and what a mixture of recurrent and attention layers writes."""
    module = {"group_size": 64, "bits": 4, "mode": "affine"}
    large = {"quantization": {f"model.layers.{at}.mlp.gate": module for at in range(5000)}, "layer_types": ["a"] * 128}
    (tmp_path / "config.json").write_text(json.dumps({**large, "time_step_limit": [0.0, float("inf")]}))
    assert len(read_object(tmp_path / "config.json")["quantization"]) == 5000


OPTIMISED = """
import shutil, sys
from pathlib import Path
if __debug__:
    raise SystemExit("not run under -O")
from inference.engine.loader import MlxLoader
from inference.engine.settings import EngineSettings
from inference.engine.text import load_text
from inference.errors import ModelError
from inference.ports import ModelRef
from tests.engine.spoiled import CORRUPTIONS
from tests.hostile_models import HOSTILE, plant_canaries
sound, room = Path(sys.argv[1]), Path(sys.argv[2])
loader = MlxLoader(EngineSettings())
def of_file(spoil):
    return lambda at: spoil(at / "model.safetensors")
files = {name: (of_file(spoil), "invalid_model") for name, spoil in CORRUPTIONS.items()}
for number, (name, (spoil, code)) in enumerate((HOSTILE | files).items()):
    path = room / str(number)
    shutil.copytree(sound, path)
    spoil(path)
    try:
        load_text(path)
        loader.load(ModelRef("m", path))
        print(name, "was loaded")
    except ModelError as error:
        if error.code != code:
            print(name, error.code)
plant_canaries(sound, room / "witness")
load_text(sound)
loader.load(ModelRef("m", sound)).close()
print("sang" if (room / "witness").exists() else "fine")
"""


@pytest.mark.timeout(1200)  # 30 s where nothing else runs
def test_refusals_stand_without_asserts(model: Path, tmp_path: Path) -> None:
    """`python -O` leaves asserts out; each hostile model is refused all the same, and no canary sings."""
    (tmp_path / "room").mkdir()
    root = Path(__file__).parents[2]
    command = [sys.executable, "-O", "-c", OPTIMISED, str(model), str(tmp_path / "room")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
