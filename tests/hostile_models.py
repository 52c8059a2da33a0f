"""Model directories as an enemy would write them: canaries that sing when they are run or unpickled, and what to spoil.

No asserts in here: it is used under `python -O` as well.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MODULES = (
    "modeling_evil",
    "tokenization_evil",
    "configuration_evil",
    "sitecustomize",
    "json",
    "numpy",
    "jinja2",
    "mlx",
)
"""The code a config points at, and names that an interpreter started in this directory might import by mistake."""
PICKLES = ("pytorch_model.bin", "tokenizer.pkl", "vocab.pkl", "consolidated.pth", "training_args.bin", "weights.pt")


class Singing:
    """Unpickled, it writes a file."""

    def __init__(self, song: str) -> None:
        self.song = song

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.song,)


def plant_canaries(directory: Path, witness: Path) -> None:
    """Every kind of file that runs when somebody is careless. Whatever runs adds a line to `witness`."""
    song = f"with open({str(witness)!r}, 'a') as file: file.write('sung\\n')"
    for name in MODULES:
        (directory / f"{name}.py").write_text(song)
    for name in PICKLES:
        (directory / name).write_bytes(pickle.dumps(Singing(song)))
    np.savez(directory / "model.npz", weights=np.array([Singing(song)], dtype=object), allow_pickle=True)
    maps = {"AutoConfig": "configuration_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"}
    merge(directory / "config.json", auto_map=maps, custom_pipelines={"text": {"impl": "modeling_evil.Pipeline"}})
    tokenizer = {"AutoTokenizer": ["tokenization_evil.Tokenizer", None]}
    merge(directory / "tokenizer_config.json", auto_map=tokenizer, trust_remote_code=True)


def merge(file: Path, **changes: Any) -> None:
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | changes))


def only_pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def longer_than_it_is(directory: Path) -> None:
    with (directory / "model.safetensors").open("r+b") as file:
        file.write(struct.pack("<Q", 2**62))


def edit_config(**changes: Any) -> Callable[[Path], None]:
    return lambda directory: merge(directory / "config.json", **changes)


def edit_index(target: str) -> Callable[[Path], None]:
    text = json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": target}})
    return lambda directory: bool((directory / "model.safetensors.index.json").write_text(text)) and None


def own_code(directory: Path) -> None:
    """An architecture that only the code beside it knows."""
    merge(directory / "config.json", model_type="evil", auto_map={"AutoModelForCausalLM": "modeling_evil.Model"})


def many_values(directory: Path) -> None:
    """Four megabytes that would become a hundred."""
    (directory / "config.json").write_text('{"model_type": "qwen3", "a": [' + "[]," * 1_300_000 + "1]}")


def no_template(source: str) -> Callable[[Path], None]:
    return lambda directory: bool((directory / "chat_template.jinja").write_text(source)) and None


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "only pickled weights": (only_pickled, "unsafe_model"),
    "code of its own": (own_code, "unsafe_model"),
    "a module to run": (edit_config(model_file="modeling_evil.py"), "unsafe_model"),
    "an index that leads away": (edit_index("../../secret"), "unsafe_model"),
    "a header beyond the file": (longer_than_it_is, "invalid_model"),
    "a billion layers": (edit_config(num_hidden_layers=10**9), "invalid_model"),
    "layers by a list": (edit_config(layer_types=["full_attention"] * 100_000), "invalid_model"),
    "a hundred megabytes of lists": (many_values, "invalid_model"),
    "a template that is none": (no_template("{% for %}"), "invalid_model"),
}
