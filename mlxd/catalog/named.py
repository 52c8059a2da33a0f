"""From what the user wrote after `--model` to directories with names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from inference.engine.demo import DEMO_MODEL_ID, demo_model_dir
from inference.errors import InvalidModel, ModelNotFound
from mlxd.catalog.local import find_local, is_directory, is_whole, local_models, read_model
from mlxd.config import model_argument


def named_models(
    specs: Iterable[str], *, demo: bool = False, fetch: Callable[[str], Path] | None = None
) -> tuple[tuple[str, Path], ...]:
    """(id, directory) of each `DIRECTORY`, `REPO` or `NAME=either`, in order; the demo model last.

    With no spec and no demo: every model in the Hugging Face cache. `fetch` brings a repository that is not on this
    machine, or not wholly; without it the first is `ModelNotFound`. Raises `InvalidModel` for a directory without a
    model and for two models of one name.
    """
    named = [_named(spec, fetch) for spec in specs]
    if demo:
        named.append((DEMO_MODEL_ID, demo_model_dir()))
    if not named:
        named = [(model.id, model.path) for model in local_models()]
    ids = [model_id for model_id, _ in named]
    for model_id in ids:
        if ids.count(model_id) > 1:
            raise InvalidModel(f"Two models are called {model_id}; name one of them with --model NAME=PATH.")
    return tuple(named)


def _named(spec: str, fetch: Callable[[str], Path] | None) -> tuple[str, Path]:
    argument = model_argument(spec)
    path = find_local(argument.source)
    model_id = argument.name or _own_name(argument.source, path)
    if fetch is not None and (path is None or not (is_directory(argument.source) or is_whole(path))):
        path = fetch(argument.source)
    if path is None:
        raise ModelNotFound(f"{argument.source[:200]} is neither a directory nor a repository on this machine.")
    if read_model(model_id, path) is None:
        raise InvalidModel(f"{path} holds no model: it needs config.json and *.safetensors files.")
    return model_id, path


def _own_name(where: str, path: Path | None) -> str:
    """A repository keeps its id; a directory is called by its last part."""
    if path is not None and is_directory(where):
        return re.sub(r"[^A-Za-z0-9._:-]", "-", path.name).lstrip("-._:") or "model"
    return where
