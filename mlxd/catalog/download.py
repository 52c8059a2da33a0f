"""Fetches a model's files into the Hugging Face cache. Only ever called by a person's command, never by a request."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from inference.errors import InferenceError, ModelNotFound
from mlxd.catalog.local import repo_folder
from mlxd.catalog.names import REPO_ID

if TYPE_CHECKING:
    from mlxd.catalog.fetch import Progress, Waiting


def download(
    repo_id: str,
    *,
    endpoint: str,
    progress: Callable[[Progress], None] = lambda _: None,
    waiting: Callable[[Waiting], None] = lambda _: None,
) -> Path:
    """Fetches a repository and returns its directory. What is here already is verified and not fetched again.

    Raises `ModelNotFound`, `InvalidModel`, `UnsafeModel` or `DownloadFailed`, each with a message for a person.
    """
    if not REPO_ID.fullmatch(repo_id):
        raise ModelNotFound(f"{repo_id[:200]!r} is neither a directory nor a repository id (owner/name).")
    from huggingface_hub import constants, get_token  # 1 s with what it imports, for those who download

    from mlxd.catalog.fetch import DownloadFailed, Hub, fetch

    if constants.HF_HUB_OFFLINE:
        raise DownloadFailed(f"{repo_id} is not on this machine, and HF_HUB_OFFLINE says to ask nobody for it.")
    try:
        with closing(Hub(endpoint, get_token(), waiting)) as hub:
            return fetch(hub, repo_id, repo_folder(repo_id), progress)
    except OSError as error:
        raise DownloadFailed(f"{repo_id} cannot be written to the cache: {error.strerror}.") from error
    except InferenceError as error:
        if repo_id in error.message:
            raise
        raise type(error)(f"{repo_id} could not be downloaded. {error.message}") from error
