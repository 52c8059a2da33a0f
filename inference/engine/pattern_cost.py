"""What a pattern of a tokenizer can cost for each character of a text, told by its form.

The library's engine backtracks and holds the interpreter meanwhile. A pattern is cheap when an alternative can only
fail before its first repeat without end: what follows that may be left out, so there is nothing to go back for
(`q+q+!` took 3.5 s for a thousand characters, `(q+)+z` gave up after 24). Published patterns are like that but for a
few forms, which other alternatives of theirs make cheap; texts that they would find hard are tried besides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from typing import Final

_MAX_CHARS: Final = 4096
_MAX_TIMES: Final = 16
_LETTERS: Final = r"\\p\{Lm\}\\p\{Lo\}\\p\{M\}(?:&&\[\^\\p\{Han\}\])?\]"
_KNOWN: Final = re.compile(
    r"(?<!\\)(?:\\s[*+]\+?(?:\[\\[rn]\\[rn]\]|\\[rn])\+{0,2}"
    r"|\\s\+{1,2}(?:\(\?!\\S\)|\$)"
    rf"|\[\\p\{{Lu\}}\\p\{{Lt\}}{_LETTERS}\*\[\\p\{{Ll\}}{_LETTERS}\+)"
)
"""`\\s*[\\r\\n]+`, `\\s+(?!\\S)`, `\\s+$`, and the words of o200k."""
_CHOICE: Final = re.compile(r"(?<!\\)\(\?i?:([^()\[\]\\*+?{}]*)\)(\??)")
"""A group of plain texts."""
_ATOM: Final = re.compile(r"\\[pP]\{[^}]*\}|\\x\{[^}]*\}|\\.|\[(?:[^\]\[\\]|\\.|\[(?:[^\]\\]|\\.)*\])*\]|.", re.DOTALL)
_REPEAT: Final = re.compile(r"([*+?]|\{(\d{1,6})(,?)(\d{0,6})\}|\{,(\d{1,6})\})([?+]?)")
_ESCAPE: Final = re.compile(r"\\(?:[bdDfhnrsStuvwWx]|[pP]\{|[^A-Za-z0-9])")
_GROUP: Final = re.compile(r"\((?:\?(?:i?:|[=!])|(?![?*]))")
"""No looking behind, no condition, no call, no comment, and no mode in which blanks mean nothing."""


def cost_of(pattern: str) -> float:
    """Steps for each character at most, about; infinite where its form does not tell."""
    if len(pattern) > _MAX_CHARS:
        return inf
    return _Walk(_CHOICE.sub(_counted, _KNOWN.sub("a+", pattern))).cost()


def _counted(choice: re.Match[str]) -> str:
    """As many choices in another form."""
    return f"c{{{0 if choice[2] else 1},{choice[1].count('|') + 1}}}"


@dataclass(slots=True)
class _Walk:
    """Once through a pattern. `ways` are those to read the atoms of the alternative so far, `endless`: it has had a
    repeat without end."""

    pattern: str
    total: int = 0
    atoms: int = 0
    ways: int = 1
    depth: int = 0
    endless: bool = False

    def cost(self) -> float:
        at = 0
        while at < len(self.pattern):
            atom = _ATOM.match(self.pattern, at)
            if atom is None:
                return inf
            group = _GROUP.match(self.pattern, at) if atom[0] == "(" else None
            end = atom.end() if group is None else group.end()
            repeat = None if group else _REPEAT.match(self.pattern, end)
            if not self._takes(atom[0], repeat, is_group=group is not None):
                return inf
            at = end if repeat is None else repeat.end()
        self._end_alternative()
        return self.total

    def _takes(self, atom: str, repeat: re.Match[str] | None, *, is_group: bool) -> bool:
        """Whether the form still tells the cost."""
        match atom:
            case "|" if self.depth == 0:
                self._end_alternative()
                return repeat is None
            case "|":
                self.ways *= 2
                return repeat is None
            case "(":
                self.depth += 1
                return is_group
            case ")":
                self.depth -= 1
                return self.depth >= 0 and self._repeats(repeat, is_whole_group=True)
            case "*" | "+" | "?" | "{" | "[":  # a repeat of a repeat, or what only looks like one
                return False
        self.atoms += 1
        return (atom[0] != "\\" or _ESCAPE.match(atom) is not None) and self._repeats(repeat)

    def _repeats(self, repeat: re.Match[str] | None, *, is_whole_group: bool = False) -> bool:
        least, most = _times(repeat)
        if is_whole_group:
            self.ways *= 2 - least
            return most == 1
        if self.endless and least:
            return False
        self.endless |= most > _MAX_TIMES
        self.ways *= 1 if most > _MAX_TIMES else int(most) - least + 1
        return least <= most

    def _end_alternative(self) -> None:
        self.total += self.atoms * self.ways
        self.atoms, self.ways, self.endless = 0, 1, False


def _times(repeat: re.Match[str] | None) -> tuple[int, float]:
    """How often at least and at most. `{1,3}+` repeats the repeat: it is not the possessive form it is meant to be."""
    if repeat is None:
        return 1, 1
    whole, least, comma, most, alone, behind = repeat.groups()
    if whole in "*+?":
        return int(whole == "+"), 1 if whole == "?" else inf
    if behind == "+":
        return int(least or 0), inf
    if alone:
        return 0, int(alone)
    return int(least), int(most) if most else inf if comma else int(least)
