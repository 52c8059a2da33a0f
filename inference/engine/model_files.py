"""Whether the weights of a model directory may be loaded: plain safetensors that stay inside it.

Pickled data and code are never opened. Where they are all a directory has, it is refused as unsafe; beside safetensors
they are left lying (`left_unread` names them).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from inference.engine.left_unread import PICKLES
from inference.engine.model_json import read_object
from inference.engine.safetensors_check import CorruptFileError, TensorFile, check_safetensors
from inference.errors import InvalidModel, UnsafeModel

MAX_INDEX_BYTES = 32 * 1024**2
MAX_INDEX_VALUES = 500_000
"""Counted before it is parsed, for `[],` is three bytes and its list 72. The largest models name 140,000 tensors."""
_MAX_ENTRIES = 10_000
_INDEX = "model.safetensors.index.json"
_TEXTS = frozenset((".jinja", ".json", ".model", ".txt"))
TOOL_TEMPLATE = "additional_chat_templates/tool_use.jinja"
_SIDES = ("generation_config.json", "hf_quant_config.json")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The weight files that will be read and their bytes, headers left out."""

    weights: tuple[Path, ...]
    weights_bytes: int


def check_model_files(directory: Path) -> ModelFiles:
    """Raises `InvalidModel` or `UnsafeModel`, naming the file."""
    entries = _entries(directory)
    refuse_links_away(directory)
    # mlx-lm reads every file of this pattern, listed in the index or not, so every one is checked.
    weights = tuple(entry for entry in entries if entry.match("model*.safetensors"))
    if not weights:
        _refuse(entries)
    _check_sides(directory)
    roots = _allowed_roots(directory)
    held = {path.name: _checked(path, roots) for path in weights}
    if (directory / _INDEX).exists():
        _check_index(directory / _INDEX, held)
    return ModelFiles(weights, sum(file.tensor_bytes for file in held.values()))


def weight_files(directory: Path) -> tuple[str, ...]:
    """Names the index of a directory gives; none where it has no index. Raises `InvalidModel`, `UnsafeModel`."""
    file = directory / _INDEX
    return tuple(sorted({_plain(name) for name in _weight_map(file).values()})) if file.exists() else ()


def _refuse(entries: list[Path]) -> NoReturn:
    for entry in entries:
        if entry.suffix.lower() in PICKLES:
            raise UnsafeModel(f"{entry.name}: pickled weights are never loaded; convert the model to safetensors.")
    raise InvalidModel("The directory holds no model*.safetensors file.")


def _check_sides(directory: Path) -> None:
    """What mlx-lm reads beside config.json, without a limit of its own."""
    for name in _SIDES:
        if (directory / name).exists():
            read_object(directory / name)


def _entries(directory: Path) -> list[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        raise InvalidModel("The model directory is missing or cannot be read.") from None
    if len(entries) > _MAX_ENTRIES:
        raise InvalidModel("The model directory holds too many files.")
    return entries


def refuse_links_away(directory: Path) -> None:
    """Raises `UnsafeModel` for a config, a template or a vocabulary that is a link to elsewhere.

    What some file of this machine says must not become a part of every prompt.
    """
    roots = _allowed_roots(directory)
    for entry in (*_entries(directory), directory / TOOL_TEMPLATE):
        if entry.suffix.lower() in _TEXTS and not _is_inside(entry, roots):
            raise UnsafeModel(f"{entry.name} leads outside the model directory.")


def _is_inside(path: Path, roots: tuple[Path, ...]) -> bool:
    try:
        return any(path.resolve().is_relative_to(root) for root in roots)
    except (OSError, RuntimeError):
        return False


def _allowed_roots(directory: Path) -> tuple[Path, ...]:
    """The directory, and the blob store beside it when it is a snapshot in a Hugging Face cache (links lead there)."""
    real = directory.resolve()
    return (real, real.parent.parent / "blobs") if real.parent.name == "snapshots" else (real,)


def _checked(path: Path, roots: tuple[Path, ...]) -> TensorFile:
    try:
        real = path.resolve(strict=True)
        if not real.is_file():
            raise InvalidModel(f"{path.name} is not a regular file.")
        if not _is_inside(real, roots):
            raise UnsafeModel(f"{path.name} leads outside the model directory.")
        return check_safetensors(real)
    except CorruptFileError as error:
        raise InvalidModel(f"{path.name} {error}.") from None
    except (OSError, RuntimeError):
        raise InvalidModel(f"{path.name} cannot be read.") from None


def _check_index(path: Path, held: dict[str, TensorFile]) -> None:
    for tensor, name in _weight_map(path).items():
        if _plain(name) not in held:
            raise InvalidModel(f"{_INDEX} names a weight file that is missing: {name[:100]}.")
        if tensor not in held[name].names:
            raise InvalidModel(f"{_INDEX} names a tensor that {name[:100]} does not hold.")


def _plain(name: object) -> str:
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UnsafeModel(f"{_INDEX} maps a tensor to something that is not a file of the directory.")
    return name


def _weight_map(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() or path.stat().st_size > MAX_INDEX_BYTES:
            raise InvalidModel(f"{_INDEX} is not a file of at most {MAX_INDEX_BYTES >> 20} MB.")
        raw = path.read_bytes()
        if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_INDEX_VALUES:
            raise InvalidModel(f"{_INDEX} holds more than {MAX_INDEX_VALUES} values.")
        index = json.loads(raw.decode())
    except (OSError, ValueError, RecursionError):
        raise InvalidModel(f"{_INDEX} is not JSON.") from None
    mapped = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(mapped, dict):
        raise InvalidModel(f"{_INDEX} holds no weight_map.")
    return mapped
