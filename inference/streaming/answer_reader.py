"""Reasoning, content and tool calls of one answer, across any cut of its text.

- Calls are looked for everywhere, in thoughts too; while one is open no think marker is. A thought goes on behind it.
- Behind an opener the dialects that have it are tried in turn. What none of them can read is text exactly as it was
  generated; the text behind the opener is looked at anew, so a good call that follows is not lost with it.
- A call that breaks after it was shown cannot be taken back. Where only something behind its arguments broke, it is a
  call. Otherwise its arguments stay as they are, unfinished and so no JSON: completed, half a command would run. The
  text that was not read is content.
- After `MAX_MISSES` things that began like calls and were none nothing more is looked for: the cost stays linear
  whatever is generated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from inference.messages import Tool
from inference.streaming.attempt import Attempt, State
from inference.streaming.dialect import Dialect
from inference.streaming.openers import openers
from inference.streaming.pieces import MAX_BROKEN_CALLS, MAX_RAW_CHARS, BrokenCall, Piece
from inference.streaming.showing import Showing
from inference.streaming.splitter import TextSplitter

MAX_MISSES: Final = 64
_LONG_CHARS: Final = 1024
"""Text of this length that must be read again is a miss, even when it did not begin like a call."""
_INK: Final = re.compile(r"\S")


class AnswerReader:
    """Reads one answer (`AnswerMachine`). Without tools or dialects all of it is reasoning and content."""

    __slots__ = (
        "_attempt", "_claimed", "_held", "_marker_ends", "_misses", "_openers", "_others", "_showing", "_tools",
        "broken_calls", "malformed",
    )  # fmt: skip

    def __init__(self, splitter: TextSplitter, dialects: Sequence[Dialect] = (), tools: Sequence[Tool] = ()) -> None:
        self.malformed = 0
        self.broken_calls: list[BrokenCall] = []
        self._tools = {tool.name: tool for tool in tools}
        self._openers = openers(tuple(dialects))
        self._showing = Showing(splitter)
        self._marker_ends = splitter.marker_ends
        self._held = ""  # what may be the beginning of an opener
        self._attempt: Attempt | None = None
        self._others: tuple[Dialect, ...] = ()  # that may read what `_attempt` cannot
        self._claimed: Attempt | None = None  # the first attempt at this opener for which it began like a call
        self._misses = 0

    @property
    def thinking(self) -> bool:
        return self._showing.splitter.thinking

    def push(self, text: str) -> tuple[Piece, ...]:
        """What is certain now, in order."""
        if text:
            self._read(text, final=False)
        return self._showing.take()

    def finish(self) -> tuple[Piece, ...]:
        """What was held back."""
        self._read("", final=True)
        self._showing.finish()
        return self._showing.take()

    def _read(self, text: str, final: bool) -> None:
        if self._attempt is None:
            text, self._held, at = self._held + text, "", 0
        else:
            text, at = self._go_on(text, final), 0
        while at < len(text) or (final and self._attempt is not None):
            if self._attempt is not None:
                text, at = self._go_on(text[at:], final), 0
                continue
            moved = self._look(text, at, final)
            if moved is None:
                self._held = text[at:]
                return
            at = moved

    # --- outside of calls ---------------------------------------------------------------------------------------

    def _look(self, text: str, at: int, final: bool) -> int | None:
        """Deals with the text up to the next opener and with that; how far it came, None: more text is needed."""
        if not self._tools or self._misses >= MAX_MISSES:
            self._showing.text(text[at:])
            return len(text)
        if self._showing.at_start:
            ink = _INK.search(text, at)
            inked = ink.start() if ink else len(text)
            if inked > at:
                self._showing.text(text[at:inked])
                return inked
            start = self._openers.start(text, at)
            if start is None and not final:
                return None
            if start:
                return self._begin(start, at)
        end, opener = self._openers.find(text, at, self._segment_end(text, at))
        if end > at:
            self._showing.text(text[at:end])
            return end
        if opener:
            return self._begin(opener, at)
        if not final:
            return None
        self._showing.text(text[at])
        return at + 1

    def _segment_end(self, text: str, at: int) -> int:
        """Before the first text of the content each end of a marker must be passed alone: a call may follow it."""
        if not self._showing.blank:
            return len(text)
        found = self._marker_ends.search(text, at)
        return found.end() if found else len(text)

    def _begin(self, opener: str, at: int) -> int:
        first, *others = self._openers.dialects(opener)
        self._others = tuple(others)
        self._claimed = None
        self._attempt = Attempt(first, opener, self._tools)
        return at + len(opener)

    # --- inside of calls ----------------------------------------------------------------------------------------

    def _go_on(self, text: str, final: bool) -> str:
        """Gives the text to the attempt; what is to be looked at behind it, "" while it is reading."""
        attempt = self._attempt
        assert attempt is not None
        found = attempt.push(text)
        if final and attempt.state is State.READING:
            found += attempt.finish()
        for one in found:
            self._showing.found(one)
        if attempt.state is State.READING:
            return ""
        self._attempt = None
        return attempt.rest if attempt.state is State.READ else self._broken(attempt)

    def _broken(self, attempt: Attempt) -> str:
        """The text to look at anew."""
        if self._showing.in_call:
            if not self._showing.break_off(attempt.read):
                self._misses += 1
                self._note(attempt, shown=True)
            return attempt.rest
        self._showing.take_back()
        text, opener = attempt.read + attempt.rest, "" if attempt.calls else attempt.opener
        if attempt.calls or self._claimed is None:
            self._claimed = attempt if attempt.claimed else None
        if opener and self._others:
            first, *others = self._others
            self._others = tuple(others)
            self._attempt = Attempt(first, opener, self._tools)
            return text[len(opener) :]
        if self._claimed is not None:
            self._note(self._claimed)
        self._misses += self._claimed is not None or len(text) > _LONG_CHARS
        if opener:
            self._showing.text(opener)
        return text[len(opener) :]

    def _note(self, attempt: Attempt, *, shown: bool = False) -> None:
        self.malformed += 1
        if len(self.broken_calls) < MAX_BROKEN_CALLS:
            raw = attempt.read
            broken = BrokenCall(attempt.dialect.name, attempt.reason, raw[:MAX_RAW_CHARS], len(raw), shown)
            self.broken_calls.append(broken)
