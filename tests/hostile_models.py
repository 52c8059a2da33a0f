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


def template_of(source: str) -> Callable[[Path], None]:
    return lambda directory: bool((directory / "chat_template.jinja").write_text(source)) and None


def endless_pattern(directory: Path) -> None:
    """Nobody knows what it costs, and on an ordinary text the library gives up on it."""
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, tokenizer["pre_tokenizer"]]}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))


def swollen_text(directory: Path) -> None:
    """A thousand characters would become a million."""
    merge(
        directory / "tokenizer.json",
        normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000},
    )


LATER_HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a power as text": "{{ (10 ** 10000000) | string }}",
    "memory": (
        "{% set n = namespace(x='a' * 4000) %}{% for i in range(13) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
        + "".join(f"{{% set x{at} = n.x[1:] %}}" for at in range(12))
    ),
    "output": "{% for i in range(99999) %}{{ 'x' * 4000 }}{% endfor %}",
    "recursion": "{% macro f(n) %}{% for i in range(9) %}{{ f(n) }}{% endfor %}{% endmacro %}{{ f(1) }}",
    "long steps": (
        "{% set n = namespace(x='a' * 4000) %}{% for i in range(10) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
        "{% for i in range(30) %}{{ n.x.split('a') | map('upper') | sort | length }}{% endfor %}"
    ),
}
"""What a template can do that behaves as long as it is tried."""


def later_hostile(directory: Path) -> Callable[[str], int]:
    """A template that turns on a request by the number of its messages; gives the number for a kind of hostility."""
    source = (directory / "chat_template.jinja").read_text()
    for at, hostility in enumerate(LATER_HOSTILE.values(), 20):
        source += f"{{% if messages | length == {at} %}}{hostility}{{% endif %}}"
    (directory / "chat_template.jinja").write_text(source)
    return lambda kind: 20 + list(LATER_HOSTILE).index(kind)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "only pickled weights": (only_pickled, "unsafe_model"),
    "code of its own": (own_code, "unsafe_model"),
    "a module to run": (edit_config(model_file="modeling_evil.py"), "unsafe_model"),
    "an index that leads away": (edit_index("../../secret"), "unsafe_model"),
    "a header beyond the file": (longer_than_it_is, "invalid_model"),
    "a billion layers": (edit_config(num_hidden_layers=10**9), "invalid_model"),
    "layers by a list": (edit_config(layer_types=["full_attention"] * 100_000), "invalid_model"),
    "a hundred megabytes of lists": (many_values, "invalid_model"),
    "a template that is none": (template_of("{% for %}"), "invalid_model"),
    "a template without end": (template_of(LATER_HOSTILE["nested loops"]), "invalid_model"),
    "a text that swells": (swollen_text, "invalid_model"),
}
