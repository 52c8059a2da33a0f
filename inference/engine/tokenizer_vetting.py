"""What a tokenizer.json may do to a text before any of it is a token: its normalizer's growth and its patterns' cost.

The library's pattern engine backtracks and holds the interpreter meanwhile (measured: 0.6 s for `(a+)+$` on 25
characters, then it panics). Published patterns repeat single characters and classes, never groups.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from inference.errors import InferenceError, InvalidModel

_MAX_GROWTH: Final = 64
"""Characters that a normalizer may make of one. `▁` for a blank is what they are for."""
_MAX_REPEATS: Final = 2
_MAX_TIMES: Final = 16
_MAX_PATTERN_CHARS: Final = 4096
_ATOM: Final = re.compile(r"\\[pP]\{[^}]*\}|\\x\{[^}]*\}|\\.|\[(?:[^\]\[\\]|\\.|\[(?:[^\]\\]|\\.)*\])*\]|.", re.DOTALL)
_REPEAT: Final = re.compile(r"([*+]|\{(\d*),?(\d*)\}|\?)[?+]?")
_UNPLAIN: Final = re.compile(r"\\[1-9kgGKA-CQRX]|\(\?<[=!]|\(\?[(&RP0-9]")
"""References back, looking behind, conditions, calls."""
_RUNS: Final = ("a", "A", "1", " ", "\n", "é", "中", "-", "'", "\t", "a1", "a ")
_SHORT_CHARS, _LONG_CHARS = 1000, 8000
_SHORT_S, _LONG_S = 0.05, 0.1
"""Ordinary ones take 0.3 and 3 ms. `a+[bc]` takes 3 and 157 ms, and ten seconds for 64 KB."""


def patterns_are_plain(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the cost of every pattern is known by its form. `parts` are normalizer and pre-tokenizer as JSON objects.

    Raises `InvalidModel` when the normalizer makes much of little.
    """
    growth = 1
    plain = True
    for part in (inner for one in parts for inner in _inner(one)):
        pattern = part.get("pattern")
        if part.get("type") in {"Replace", "Prepend"}:
            text = str(part.get("content") or part.get("prepend") or "")
            growth *= max(1, len(text))
        if isinstance(pattern, Mapping) and "Regex" in pattern:
            plain = plain and is_plain(str(pattern["Regex"]))
    if growth > _MAX_GROWTH:
        raise InvalidModel("tokenizer.json: its normalizer makes a long text of a short one.")
    return plain


def _inner(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield part
    for name in ("normalizers", "pretokenizers"):
        for one in part.get(name) or ():
            yield from _inner(one)


def is_plain(pattern: str) -> bool:
    """No group is repeated without end, nothing refers back, and two repeats at most stand in one alternative."""
    if len(pattern) > _MAX_PATTERN_CHARS or _UNPLAIN.search(pattern):
        return False
    repeats, at, was_group = 0, 0, False
    while at < len(pattern):
        repeat = _REPEAT.match(pattern, at) if at else None
        if repeat is not None:
            if was_group and repeat[1] != "?":
                return False
            repeats += _is_endless(repeat)
            at = repeat.end()
            continue
        atom = _ATOM.match(pattern, at)
        if atom is None or repeats > _MAX_REPEATS:
            return False
        was_group, repeats = atom[0] == ")", 0 if atom[0] == "|" else repeats
        at = atom.end()
    return repeats <= _MAX_REPEATS


def _is_endless(repeat: re.Match[str]) -> bool:
    """`*`, `+`, `{3,}`, and `{1,99}`, which is as good."""
    if repeat[1][0] != "{":
        return repeat[1] != "?"
    return ("," in repeat[1] and not repeat[3]) or int(repeat[3] or repeat[2] or 0) > _MAX_TIMES


def runs_are_cheap(encode: Callable[[str], object], clock: Callable[[], float] = time.process_time) -> bool:
    """Whether texts that patterns find hard are read in no time. Raises `InvalidModel` when the tokenizer gives up.

    The library may read with threads of its own, so the clock is the process's.
    """
    for run in _RUNS:
        for chars, limit_s in ((_SHORT_CHARS, _SHORT_S), (_LONG_CHARS, _LONG_S)):
            began_s = clock()
            try:
                encode((run * chars)[:chars] + "!")
            except InferenceError as error:
                raise InvalidModel("tokenizer.json: its patterns give up on an ordinary text.") from error
            if clock() - began_s > limit_s:
                return False
    return True
