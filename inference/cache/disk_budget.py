"""How much may be written in a day: flash wears out by what is written to it.

What was granted is on the disk before it is used, in steps, so that a killed process has never written more than the
file says and a day's budget holds across restarts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from inference.cache.disk_files import Files

STEP_BYTES: Final = 64 * 1024 * 1024
"""Lost to the budget, at most, by each kill."""


class WriteBudget:
    """`day_bytes` for each day that `today` names; 0 is no limit. Used by one thread."""

    def __init__(self, path: Path, day_bytes: int, files: Files, today: Callable[[], int]) -> None:
        self._path = path
        self._day_bytes = day_bytes
        self._files = files
        self._today = today
        self._day = -1
        self._granted_bytes = 0
        self.used_bytes = 0

    def open(self) -> None:
        """Reads what was granted today. A file that cannot be read counts as none."""
        self._day = self._today()
        try:
            kept = json.loads(self._files.read(self._path, 1024))
            if kept["day"] == self._day:
                self._granted_bytes = self.used_bytes = max(0, int(kept["granted_bytes"]))
        except (OSError, ValueError, KeyError, TypeError):
            self._granted_bytes = self.used_bytes = 0

    def limit(self, day_bytes: int) -> None:
        """Another limit, from now on; what was written today counts."""
        self._day_bytes = day_bytes

    def allows(self, nbytes: int) -> bool:
        """Whether so much may be written now."""
        self._turn_day()
        return not self._day_bytes or self.used_bytes + nbytes <= self._day_bytes

    def take(self, nbytes: int) -> None:
        """Counts what is allowed as written. Raises `OSError` when it cannot be noted."""
        self._turn_day()
        if self._day_bytes and self.used_bytes + nbytes > self._granted_bytes:
            self._grant(min(self._day_bytes, self.used_bytes + max(nbytes, STEP_BYTES)))
        self.used_bytes += nbytes

    def close(self) -> None:
        """Gives back what was granted and not used. Raises `OSError`."""
        if self._day_bytes and self._granted_bytes != self.used_bytes:
            self._grant(self.used_bytes)

    def _turn_day(self) -> None:
        if (day := self._today()) != self._day:
            self._day, self._granted_bytes, self.used_bytes = day, 0, 0

    def _grant(self, nbytes: int) -> None:
        self._files.write(self._path, [json.dumps({"day": self._day, "granted_bytes": nbytes}).encode()])
        self._granted_bytes = nbytes
