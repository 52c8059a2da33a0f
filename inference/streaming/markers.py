"""Markers in a text that is still coming: where one stands, and where one may have begun."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=256)
def any_of(markers: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the first of `markers`, the longest where several begin at one place; without any it finds nothing."""
    return re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))) or r"(?!)")


def open_chars(text: str, markers: tuple[str, ...], at: int = 0) -> int:
    """How many characters at the end of `text[at:]` may be the beginning of a marker."""
    longest, first = _edges(markers)
    found = first.search(text, max(at, len(text) - longest + 1))
    while found is not None:
        start = found.start()
        tail = text[start:]
        for marker in markers:
            if marker.startswith(tail):
                return len(tail)
        found = first.search(text, start + 1)
    return 0


@lru_cache(maxsize=256)
def _edges(markers: tuple[str, ...]) -> tuple[int, re.Pattern[str]]:
    """The length of the longest of `markers`, and what finds the first character of any that is longer than one."""
    firsts = {re.escape(one[0]) for one in markers if len(one) > 1}
    return max(map(len, markers)), re.compile(f"[{''.join(sorted(firsts))}]" if firsts else r"(?!)")
