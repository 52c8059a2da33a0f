"""Brings a repository from a hub into the Hugging Face cache: a commit, measured first, verified to the byte."""

from mlxd.catalog.fetch.backoff import Waiting
from mlxd.catalog.fetch.failures import DownloadFailed
from mlxd.catalog.fetch.hub import Hub
from mlxd.catalog.fetch.repository import Progress, fetch

__all__ = ["DownloadFailed", "Hub", "Progress", "Waiting", "fetch"]
