"""What lies in a model directory and is never opened, run or unpickled, so that people can be told of it.

Half of the hub's conversions carry the Python files of the repository they were made from. They do no harm where
nothing reads them; somebody else's tool may.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from inference.engine.model_json import read_object
from inference.errors import InvalidModel

PICKLES = frozenset((".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"))
CODE = frozenset((".dylib", ".py", ".pyc", ".so"))
_CODE_KEYS = ("auto_map", "custom_pipelines")
_CONFIGS = ("config.json", "tokenizer_config.json")
_MAX_ENTRIES = 10_000


def left_unread(directory: Path) -> tuple[str, ...]:
    """Names of files that hold code or pickled data, and `FILE: KEY` where a config points at code. Raises nothing."""
    return (*foreign_files(directory), *_keys(directory))


def foreign_files(directory: Path) -> tuple[str, ...]:
    """The files among them, sorted."""
    try:
        names = [entry.name for entry in islice(directory.iterdir(), _MAX_ENTRIES)]
    except OSError:
        return ()
    return tuple(sorted(name for name in names if Path(name).suffix.lower() in PICKLES | CODE))


def parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A config and the language model's own part of it, where they are two."""
    yield config
    for key in ("text_config", "llm_config", "language_config"):
        if isinstance(part := config.get(key), dict):
            yield part


def points_at_code(config: Mapping[str, Any]) -> str:
    """The key by which a config names code that came with it, "" where it names none."""
    return next((key for part in parts(config) for key in _CODE_KEYS if part.get(key)), "")


def _keys(directory: Path) -> Iterator[str]:
    for name in _CONFIGS:
        try:
            key = points_at_code(read_object(directory / name))
        except InvalidModel:
            continue
        if key:
            yield f"{name}: {key}"
