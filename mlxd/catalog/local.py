"""Finds model directories: a path the user names, or a repository in the Hugging Face cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inference.engine.model_files import weight_files
from inference.engine.model_json import read_object
from inference.errors import InvalidModel, ModelError
from mlxd.catalog.names import REPO_ID, REVISION


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A directory that looks like a model. `id` is its repository id or its folder name; `size_bytes` its weights."""

    id: str
    path: Path
    size_bytes: int

    @property
    def created_s(self) -> int:
        """When the model came to this machine (Unix seconds); constant over restarts."""
        return int((self.path / "config.json").stat().st_mtime)


def read_model(model_id: str, path: Path) -> LocalModel | None:
    """The model in a directory, or None where there is no config or no safetensors weights."""
    weights = [file for file in path.glob("*.safetensors") if file.is_file()]  # not a link to what is gone
    if not weights or not (path / "config.json").is_file():
        return None
    return LocalModel(model_id, path, sum(file.stat().st_size for file in weights))


def is_whole(path: Path) -> bool:
    """Whether every weight file is there that the index names or a link promises. What is in them the loader says."""
    try:
        names = {"config.json", *weight_files(path), *(file.name for file in path.glob("*.safetensors"))}
    except ModelError:
        return False
    return len(names) > 1 and all((path / name).is_file() for name in names)


def find_local(name: str) -> Path | None:
    """The directory of a model named by path or by repository id; None where this machine has none.

    A repository id is looked up in the cache only; nothing is fetched.
    """
    if is_directory(name):
        return Path(name).expanduser().resolve()
    return find_cached(name)


def find_cached(repo_id: str) -> Path | None:
    """The directory of a repository in the cache; None where it has none."""
    return _snapshot(repo_folder(repo_id)) if REPO_ID.fullmatch(repo_id) else None


def is_directory(name: str) -> bool:
    """Whether a name is a directory; False for what no file system could hold."""
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a home that is nobody's
        return False


def local_models() -> Iterator[LocalModel]:
    """Every language model in the Hugging Face cache that has weights and a config, by id."""
    root = cache_root()
    for folder in sorted(root.glob("models--*--*")) if root.is_dir() else ():
        repo_id, snapshot = cached_id(folder), _snapshot(folder)
        found = repo_id and snapshot and read_model(repo_id, snapshot)
        if found and _generates_text(found.path):
            yield found


def cache_root() -> Path:
    """Where the Hugging Face cache lies, whether or not there is one."""
    from huggingface_hub import constants  # costs 0.2 s, so only when the cache is looked at

    return Path(constants.HF_HUB_CACHE)


def cached_id(folder: Path) -> str:
    """The repository that a folder of the cache is of; "" for what is no such folder."""
    repo_id = folder.name.removeprefix("models--").replace("--", "/", 1)
    return repo_id if folder.name.startswith("models--") and REPO_ID.fullmatch(repo_id) else ""


def repo_folder(repo_id: str) -> Path:
    """Where the cache keeps a repository of a checked name, whether or not it is there."""
    return cache_root() / ("models--" + repo_id.replace("/", "--"))


def _snapshot(folder: Path) -> Path | None:
    """The newest complete snapshot of a cached repository: the one `refs/main` names."""
    ref = folder / "refs" / "main"
    if not ref.is_file():
        return None
    try:
        name = ref.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    snapshot = folder / "snapshots" / name
    return snapshot if REVISION.fullmatch(name) and (snapshot / "config.json").is_file() else None


def _generates_text(path: Path) -> bool:
    """Embedding and audio models share the cache; a model that writes text names a causal or conditional head."""
    try:
        heads = read_object(path / "config.json").get("architectures")
    except InvalidModel:
        return False
    named = heads if isinstance(heads, list) else []
    return any(str(head).endswith(("ForCausalLM", "ForConditionalGeneration")) for head in named)
