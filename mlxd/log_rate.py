"""So many lines a second of one kind: a fault that comes ten thousand times is told as a count."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Final

LINES_PER_S: Final = 10
TOLD_AFTER_S: Final = 1.0


class LineRate:
    """`admits` is for any thread. `left_out` hears of each kind how many lines it did not admit, a second later."""

    def __init__(
        self,
        left_out: Callable[[Hashable, int], None],
        *,
        lines_per_s: int = LINES_PER_S,
        told_after_s: float = TOLD_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._told = left_out
        self._lines_per_s = lines_per_s
        self._told_after_s = told_after_s
        self._clock = clock
        self._lock = threading.Lock()
        self._second = -1
        self._lines: Counter[Hashable] = Counter()
        self._left_out: Counter[Hashable] = Counter()

    def admits(self, kind: Hashable) -> bool:
        """Whether one more line of this kind may be written now."""
        second = int(self._clock())
        with self._lock:
            if second != self._second:
                self._second = second
                self._lines.clear()
            self._lines[kind] += 1
            if self._lines[kind] <= self._lines_per_s:
                return True
            first = not self._left_out
            self._left_out[kind] += 1
        if first:
            self._tell_later()
        return False

    def _tell_later(self) -> None:
        timer = threading.Timer(self._told_after_s, self.tell)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # there are too many threads, or the interpreter ends: then it is not counted
            with self._lock:
                self._left_out.clear()

    def tell(self) -> None:
        """Says what was left out since the last time."""
        with self._lock:
            left_out, self._left_out = self._left_out, Counter()
        for kind, count in left_out.items():
            self._told(kind, count)
