"""Looks for long texts in a longer one, a piece at a time.

`str.find` and `str.count` hold Python's lock until they are done, and with it every stream: 7 ms in a prompt of 8 MB.
Here nobody waits for longer than a window takes, less than a millisecond.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

WINDOW_CHARS: Final = 1 << 17
HEAD_CHARS: Final = 256
"""A long text is looked for by its beginning: to search 8 MB for all of a longer one took three times as long."""
MAX_TRIES: Final = 1000
"""Where a beginning goes on differently so often, the whole is looked for: the time must not grow with a square."""


@dataclass(frozen=True, slots=True)
class Searched:
    """A text to look in. `pause` is called between two steps, `window_chars` bound one."""

    text: str
    pause: Callable[[], None] = lambda: None
    window_chars: int = WINDOW_CHARS

    def find(self, wanted: str, start: int = 0, stop: int | None = None) -> int:
        """As `str.find`."""
        stop = len(self.text) if stop is None else min(stop, len(self.text))
        head = wanted[:HEAD_CHARS]
        for _ in range(MAX_TRIES):
            start = self._found(head, start, stop)
            if start < 0 or start + len(wanted) > stop:
                return -1
            if self._goes_on(wanted, start):
                return start
            start += 1
        short = len(wanted) <= self.window_chars
        return self._found(wanted, start, stop) if short else self.text.find(wanted, start, stop)

    def holds(self, wanted: str, times: int, start: int = 0, stop: int | None = None) -> bool:
        """Whether `str.count` would find it so often."""
        if not wanted:
            return True
        for _ in range(times):
            start = self.find(wanted, start, stop)
            if start < 0:
                return False
            start += len(wanted)
        return True

    def _found(self, wanted: str, start: int, stop: int) -> int:
        """A window after the other."""
        while start + len(wanted) <= stop:
            end = min(stop, start + self.window_chars + len(wanted) - 1)
            found = self.text.find(wanted, start, end)
            if found >= 0 or end == stop:
                return found
            start += self.window_chars
            self.pause()
        return -1

    def _goes_on(self, wanted: str, start: int) -> bool:
        for at in range(HEAD_CHARS, len(wanted), self.window_chars):
            if not self.text.startswith(wanted[at : at + self.window_chars], start + at):
                return False
        return True


def as_json(text: str, *, ascii_only: bool) -> str:
    """A text as it stands between the quotes of a JSON string."""
    pieces = (text[at : at + WINDOW_CHARS] for at in range(0, len(text), WINDOW_CHARS))
    return "".join([json.dumps(piece, ensure_ascii=ascii_only)[1:-1] for piece in pieces])
