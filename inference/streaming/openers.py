"""Where calls may begin in a text, for one choice of dialects."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from inference.streaming.dialect import Dialect
from inference.streaming.markers import any_of, open_chars

type Readers = dict[str, tuple[Dialect, ...]]


class Openers:
    """Finds what begins a call. Immutable: answers that are read in the same dialects share it."""

    __slots__ = ("_longest", "_openers", "_pattern", "_starts", "_texts")

    def __init__(self, dialects: tuple[Dialect, ...]) -> None:
        self._openers = _by_text((opener, one) for one in dialects for opener in one.openers)
        self._starts = _by_text((start, one) for one in dialects for start in one.starts)
        self._texts = tuple(self._openers)
        self._pattern = any_of(self._texts)
        self._longest = max(map(len, (*self._openers, *self._starts)), default=1)

    def find(self, text: str, at: int, before: int) -> tuple[int, str]:
        """Where the next opener stands that begins before `before`, and which.

        Without one "" and how far the text is certainly without: `before`, or where the end may be one's beginning.
        """
        found = self._pattern.search(text, at, min(len(text), before + self._longest - 1))
        if found is not None and found.start() < before:
            return found.start(), found[0]
        if not self._texts:
            return before, ""
        return min(before, len(text) - open_chars(text, self._texts, at)), ""

    def start(self, text: str, at: int) -> str | None:
        """Which start stands at `at`, "" for none; None: the text ends before that is certain."""
        rest = text[at : at + self._longest]
        if any(len(one) > len(rest) and one.startswith(rest) for one in (*self._openers, *self._starts)):
            return None
        if self._pattern.match(text, at):
            return ""
        return max((one for one in self._starts if text.startswith(one, at)), key=len, default="")

    def dialects(self, opener: str) -> tuple[Dialect, ...]:
        """Those that may read what follows an opener or a start, in the order to try them."""
        return self._openers.get(opener) or self._starts[opener]


@lru_cache(maxsize=32)
def openers(dialects: tuple[Dialect, ...]) -> Openers:
    return Openers(dialects)


def _by_text(pairs: Iterable[tuple[str, Dialect]]) -> Readers:
    found: Readers = {}
    for text, dialect in pairs:
        found[text] = (*found.get(text, ()), dialect)
    return found
