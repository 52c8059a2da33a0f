"""How often something may be done: so many times in any minute."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_S: Final = 60.0


class Pace:
    """`per_minute` at once, and no more until the first of them is a minute old."""

    def __init__(self, per_minute: int) -> None:
        self._taken: deque[float] = deque(maxlen=per_minute)

    def take(self, now_s: float) -> float:
        """0 and it counts, or the seconds until one more is allowed. `now_s` never goes back."""
        wait_s = self.wait_s(now_s)
        if not wait_s:
            self._taken.append(now_s)
        return wait_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until one more is allowed, 0 for now."""
        if len(self._taken) < (self._taken.maxlen or 0):
            return 0.0
        return max(0.0, self._taken[0] + WINDOW_S - now_s)
