"""What ails a disk, in a word, and for how long nothing is tried on it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from inference.prefix_store import DiskState

PAUSE_S: Final = 60.0
"""How long nothing is written after the disk refused something."""
DISK_FULL: Final = "disk_full"
DISK_GUARD: Final = "disk_guard"
THREAD_ENDED: Final = "thread_ended"
_NAMES: Final = {
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DISK_FULL,
    errno.EROFS: "read_only",
    errno.EACCES: "no_permission",
    errno.EPERM: "no_permission",
    errno.EMFILE: "too_many_open_files",
    errno.ENFILE: "too_many_open_files",
}
_STATES: Final = {
    "": DiskState.OK,
    DISK_FULL: DiskState.FULL,
    DISK_GUARD: DiskState.FULL,
    "read_only": DiskState.READ_ONLY,
    "no_permission": DiskState.READ_ONLY,
    THREAD_ENDED: DiskState.OFF,
}
_PASSING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def outage_name(error: OSError) -> str:
    number = error.errno or 0
    return _NAMES.get(number, errno.errorcode.get(number, "error").lower())


def state_of(reason: str) -> DiskState:
    """What a reason for not writing means to whoever looks after the machine."""
    return _STATES.get(reason, DiskState.FAILING)


def is_passing(error: OSError) -> bool:
    """Whether an error says nothing of the file that was to be opened: the process can open none just now."""
    return error.errno in _PASSING


class Outage:
    """Begins with an error and ends with a write that succeeds; in between, one is tried every `PAUSE_S`."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.reason = ""
        self._now_s = now_s
        self._until_s = 0.0

    @property
    def pauses(self) -> bool:
        """Whether nothing is to be tried now. A clock that was put back ends the pause."""
        return 0 < self._until_s - self._now_s() <= PAUSE_S

    def begin(self, error: OSError) -> None:
        self.reason = outage_name(error)
        self._until_s = self._now_s() + PAUSE_S

    def end(self) -> None:
        self.reason = ""
