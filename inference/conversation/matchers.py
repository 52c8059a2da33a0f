"""How volatile text is found: line by line, never by a pattern that could run on into what follows.

A matcher takes a text and gives the ranges it finds, in order. Those of lines cover whole lines, their line feed too,
so that taking them out leaves nothing behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Range = tuple[int, int]
Matcher = Callable[[str], Iterator[Range]]


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines that match a pattern from end to end. `hint` is a text that each of them holds: it is searched first.

    `last`: only the last line of the text that says anything.
    """

    hint: str
    pattern: re.Pattern[str]
    last: bool = False

    def __call__(self, text: str) -> Iterator[Range]:
        at = text.rfind(self.hint) if self.last else text.find(self.hint)
        while at >= 0:
            start, stop = line_at(text, at)
            if self.pattern.fullmatch(text[start:stop].removesuffix("\n")) and not (self.last and text[stop:].strip()):
                yield start, stop
            at = -1 if self.last else text.find(self.hint, stop)


@dataclass(frozen=True, slots=True)
class Whole:
    """The text as a whole, between two marks. Blanks around it do not count."""

    opening: str
    closing: str

    def __call__(self, text: str) -> Iterator[Range]:
        bare = text.strip()
        if bare.startswith(self.opening) and bare.endswith(self.closing) and bare.count(self.opening) == 1:
            yield 0, len(text)


@dataclass(frozen=True, slots=True)
class WholeLines:
    """The text as a whole, when each of its lines matches its own pattern and there is no other."""

    patterns: tuple[re.Pattern[str], ...]

    def __call__(self, text: str) -> Iterator[Range]:
        lines = text.strip().split("\n", len(self.patterns))
        if len(lines) == len(self.patterns) and all(
            pattern.fullmatch(line) for pattern, line in zip(self.patterns, lines, strict=True)
        ):
            yield 0, len(text)


@dataclass(frozen=True, slots=True)
class Fenced:
    """Under a heading of its own: the fenced JSON that follows within `reach` lines. With `field`: only those lines of
    it; else all from the heading to the closing fence."""

    heading: str
    field: re.Pattern[str] | None = None
    reach: int = 6

    def __call__(self, text: str) -> Iterator[Range]:
        at = text.find(self.heading)
        closes = len(text) if text.endswith("\n```") else text.rfind("\n```\n")
        while 0 <= at < closes:  # else each heading would have all of the text searched
            start, after = line_at(text, at)
            block = self._block(text, after) if text[start:after].rstrip("\n") == self.heading else None
            if block is not None and self.field is None:
                yield start, block[1]
            elif block is not None and self.field is not None:
                inner = lines_of(text, *block)
                yield from ((one, end) for one, end in inner if self.field.fullmatch(text[one:end].rstrip("\n")))
            at = text.find(self.heading, block[1] if block else after)

    def _block(self, text: str, start: int) -> Range | None:
        """From the opening fence to behind the closing one."""
        opened = None
        for number, (one, end) in enumerate(lines_of(text, start, len(text))):
            line = text[one:end].rstrip("\n")
            if opened is None and line == "```json":
                opened = one
            elif opened is not None and line == "```":
                return opened, end
            elif opened is None and number >= self.reach:
                return None
        return None


_BRANCH = re.compile(r"Current branch: [^\n]*")
_ABOUT = re.compile(r"Main branch \([^\n]*\): [^\n]*|Git user: [^\n]*")
_SECTIONS = {
    "Status:": re.compile(r"\(clean\)|[ MTADRCU?!]{2} [^\n]+|[MTADRCU?!] [^\n]+|\.\.\. [^\n]*"),
    "Recent commits:": re.compile(r"[0-9a-f]{7,40} [^\n]+"),
}


@dataclass(frozen=True, slots=True)
class GitStatus:
    """A git status as agents write it: a line that announces it, perhaps a sentence, the branch, and sections of
    git's own lines. It ends behind the last of these, so nothing that only stands below is taken for it."""

    announced: re.Pattern[str] = re.compile(r"# gitStatus|gitStatus: [^\n]*")
    hint: str = "gitStatus"

    def __call__(self, text: str) -> Iterator[Range]:
        at = text.find(self.hint)
        while at >= 0:
            start, after = line_at(text, at)
            stop = self._end(text, after) if self.announced.fullmatch(text[start:after].rstrip("\n")) else None
            if stop is not None:
                yield start, stop
            at = text.find(self.hint, stop or after)

    def _end(self, text: str, start: int) -> int | None:
        """Behind the last line of the block; None without a branch, which makes it no block."""
        stop, sentences, section = None, 1, None
        for one, end in lines_of(text, start, len(text)):
            line = text[one:end].rstrip("\n")
            if not line:
                section = None
                continue
            if stop is None and not _BRANCH.fullmatch(line):
                sentences -= 1
                if sentences < 0:
                    return None
                continue
            if line in _SECTIONS:
                section = _SECTIONS[line]
            elif stop is not None and not (section or _ABOUT).fullmatch(line):
                return stop
            stop = end
        return stop


def line_at(text: str, at: int) -> Range:
    """The line that holds a position, with its line feed."""
    stop = text.find("\n", at)
    return text.rfind("\n", 0, at) + 1, (len(text) if stop < 0 else stop + 1)


def lines_of(text: str, start: int, stop: int) -> Iterator[Range]:
    while start < stop:
        end = line_at(text, start)[1]
        yield start, end
        start = end
