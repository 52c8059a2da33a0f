"""Why a repository did not come: for a person, or for whoever tries again."""

from __future__ import annotations

from inference.errors import InferenceError


class DownloadFailed(InferenceError):
    """The hub cannot be reached, refuses, or sends what it did not promise. What has arrived is kept if it is sound."""

    code = "download_failed"


class Transient(Exception):
    """A hub that is busy or a connection that broke. `retry_after_s` is what the hub asks for, None if nothing."""

    def __init__(self, cause: str, retry_after_s: float | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.retry_after_s = retry_after_s
