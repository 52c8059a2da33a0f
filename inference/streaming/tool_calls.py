"""Tool calls apart from content, across any cut of the text.

- Text before, between and after calls is content, in order. White space that stands only beside calls belongs to
  them, as chat templates write it.
- What was begun like a call and cannot be read, or calls what was not offered, is content exactly as generated; the
  text behind its opener is looked at anew, so a good call that follows is not lost with it.
- Text is held back from a possible opener on, and no longer than the opener can still begin a call.
- After `MAX_MISSES` closers that ended no call everything is content: the cost stays linear whatever is generated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from inference.messages import Tool
from inference.streaming.call_dialects import BARE, CLOSERS, WRAPPER, Unread, begins, read, skip_space, starts

MAX_MISSES: Final = 64

_OPENER: Final = re.compile("|".join(map(re.escape, CLOSERS)))
_LONGEST: Final = max(map(len, CLOSERS))


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A complete call. `arguments` is the JSON text of an object; `raw` what the model wrote, space around it too."""

    name: str
    arguments: str
    raw: str


class ToolCallParser:
    """Reads one answer's content. Without tools all of it passes through.

    `calls` counts what was read, `malformed` the openers of what began like a call and could not be.
    """

    __slots__ = (
        "_closer", "_edge", "_found", "_gap", "_held", "_misses", "_offered", "_opener", "_searched", "_tail",
        "calls", "malformed",
    )  # fmt: skip

    def __init__(self, tools: Sequence[Tool] = ()) -> None:
        self._offered = {tool.name: tool for tool in tools}
        self._held: list[str] = []  # from a possible opener on; a list, because a call's text can be long
        self._opener = self._closer = ""  # of the call that has begun
        self._searched = 0  # how far into the held text closers were looked at
        self._tail = ""  # the end of the held text, in which a closer may have begun
        self._gap = ""  # white space beside a call, or before the first text
        self._edge = True  # nothing but white space since the last call
        self._misses = 0
        self._found: list[str | ParsedCall] = []
        self.calls = self.malformed = 0

    def push(self, text: str) -> tuple[str | ParsedCall, ...]:
        """Content and calls that are certain now, in order; no piece is empty."""
        if not text or self._off:
            return (text,) if text else ()
        self._held.append(text)
        if self._closer:
            window = self._tail + text
            if self._closer not in window:
                self._tail = window[1 - len(self._closer) :]
                return ()
        return self._read(final=False)

    def finish(self) -> tuple[str | ParsedCall, ...]:
        """What was held back. White space behind the last call is dropped with it."""
        found = self._read(final=True)
        gap, self._gap = self._gap, ""
        return (*found, gap) if gap and not self.calls else found

    @property
    def _off(self) -> bool:
        return not self._offered or self._misses >= MAX_MISSES

    def _read(self, final: bool) -> tuple[str | ParsedCall, ...]:
        text, self._found = "".join(self._held), []
        at = 0
        while (moved := self._step(text, at, final)) is not None:
            at = moved
        self._held = [text[at:]] if at < len(text) else []
        if self._closer and self._tail != self._closer:
            self._tail = text[1 - len(self._closer) :]
        return tuple(self._found)

    def _step(self, text: str, at: int, final: bool) -> int | None:
        """Handles the next thing at `at` and says how far the text is dealt with; None: more text is needed."""
        if at == len(text):
            return None
        if self._off:
            self._opener = self._closer = ""
            self._say(text[at:])
            return len(text)
        if self._closer:
            return self._end(text, at, final)
        opener = _OPENER.search(text, at)
        start = opener.start() if opener else len(text) - (0 if final else _open_chars(text, at))
        if start > at:
            self._say(text[at:start])
            return start
        return self._begin(opener[0], text, at, final) if opener else None

    def _begin(self, opener: str, text: str, at: int, final: bool) -> int | None:
        begun = begins(opener, text, at + len(opener))
        if begun is None and not final:
            return None
        if not begun:
            self._say(opener)
            return at + len(opener)
        self._opener, self._closer, self._searched, self._tail = opener, CLOSERS[opener], len(opener), ""
        return at

    def _end(self, text: str, at: int, final: bool) -> int | None:
        """Looks at the next closer of the call that begins at `at`."""
        opener, closer = self._opener, self._closer
        start = text.find(closer, at + self._searched)
        if start < 0 and not final:
            self._tail = ""
            return None
        verdict = read(opener, text[at + len(opener) : start], self._offered) if start >= 0 else Unread.BROKEN
        end = start + len(closer)
        if verdict is Unread.OPEN:
            self._misses += 1
            self._searched = end - at
            return at
        if verdict is Unread.BROKEN:
            self._misses += 1
            self.malformed += 1
            self._opener = self._closer = ""
            self._say(opener)
            return at + len(opener)
        if opener == BARE:  # some models close a wrapper that they did not open
            behind = skip_space(text, end)
            orphan = starts(text, behind, CLOSERS[WRAPPER])
            if orphan is None and not final:
                self._tail = closer  # has the next push look again
                return None
            end = behind + len(CLOSERS[WRAPPER]) if orphan else end
        self._found.append(ParsedCall(*verdict, self._gap + text[at:end]))
        self._opener = self._closer = self._gap = ""
        self.calls += 1
        self._edge = True
        return end

    def _say(self, text: str) -> None:
        """Adds content; white space waits until it is known what it stands beside."""
        if self._edge:
            text, self._gap = self._gap + text, ""
            if text.isspace():
                self._gap = text
                return
            self._edge = False
        self._found.append(text)


def _open_chars(text: str, at: int) -> int:
    """How many characters at the end of `text` may be the beginning of an opener."""
    start = text.rfind("<", max(at, len(text) - _LONGEST + 1))
    return len(text) - start if start >= 0 and any(one.startswith(text[start:]) for one in CLOSERS) else 0
