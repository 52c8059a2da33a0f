"""Fetches a model's files into the Hugging Face cache. Only ever called by a person's command, never by a request."""

from __future__ import annotations

import os
from pathlib import Path

from inference.errors import InvalidModel, ModelNotFound
from mlxd.catalog.local import REPO_ID

ALLOWED_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""Weights, configs, templates and vocabularies. Code and pickles stay where they are."""


def download(repo_id: str, *, endpoint: str | None = None) -> Path:
    """Fetches a repository, with a progress bar on a terminal, and returns its directory.

    Files already there are not fetched again. Raises `ModelNotFound` or `InvalidModel` with a message for a person.
    """
    if not REPO_ID.fullmatch(repo_id):
        raise ModelNotFound(f"{repo_id!r} is neither a directory nor a repository id (owner/name).")
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # progress and Ctrl-C stay with us
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        path = Path(snapshot_download(repo_id, allow_patterns=list(ALLOWED_FILES), endpoint=endpoint))
    except GatedRepoError as error:
        raise ModelNotFound(f"{repo_id} is gated: accept its licence and run `hf auth login` first.") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(f"There is no repository {repo_id} that this machine may read.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelNotFound(f"{repo_id} could not be downloaded: {type(error).__name__}.") from error
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        raise InvalidModel(f"{repo_id} has no config.json with safetensors weights, so it is not an MLX model.")
    return path
