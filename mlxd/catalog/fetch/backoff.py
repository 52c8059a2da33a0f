"""How long to wait for a hub that is busy: longer each time, never in step with others, never less than it asks for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from mlxd.catalog.fetch.failures import DownloadFailed, Transient

TRIES: Final = 6
"""In a row, without progress. With the waits between them about half a minute."""
FIRST_S: Final = 1.0
LONGEST_S: Final = 30.0
LONGEST_ASKED_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing comes for `wait_s` seconds, because of `cause`."""

    cause: str
    wait_s: float


@dataclass(slots=True)
class Backoff:
    """The waits of one thing that is tried again. `told` learns of each before it begins."""

    told: Callable[[Waiting], None]
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[float, float], float] = random.uniform
    _failures: int = field(default=0, init=False)

    def progressed(self) -> None:
        """What comes next is a first failure again."""
        self._failures = 0

    def wait(self, failure: Transient) -> None:
        """Raises `DownloadFailed` after the last try, and where the hub asks for more patience than a person has."""
        self._failures += 1
        asked_s = failure.retry_after_s or 0.0
        if asked_s > LONGEST_ASKED_S:
            raise DownloadFailed(f"{failure.cause}, and asks to come back in {asked_s / 60:.0f} minutes.")
        if self._failures >= TRIES:
            raise DownloadFailed(f"{failure.cause}, {TRIES} times in a row. Start again to go on where this ended.")
        step_s = min(LONGEST_S, FIRST_S * 2 ** (self._failures - 1))
        wait_s = max(self.draw(step_s / 2, step_s), asked_s + self.draw(0, FIRST_S) if asked_s else 0.0)
        self.told(Waiting(failure.cause, wait_s))
        self.sleep(wait_s)


def retry_after_s(headers: Mapping[str, str], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """What `Retry-After` asks for, in seconds or as a date; None where it is absent or nonsense."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - now()).total_seconds())
