"""Reasoning apart from content, across any cut of the text.

Thoughts stand between two markers (`<think>`, `</think>`). What is shown in which channel:

- Any number of blocks, anywhere in the answer. A thought that is never closed stays reasoning to the end.
- A closer outside of a thought is text: what stood before it has been shown as content already. Models that close
  what they never opened begin mid-thought, which is the mode `prefilled`.
- An opener right at the beginning of a thought repeats what is open and is dropped; later in a thought it is text.
- Line feeds right behind a marker, and those before a closer, belong to the marker, as chat templates write them.
  So do those that come before an opener at the very start of an answer.
- A marker is a marker wherever it stands, also in a code block: nothing in the text tells the two apart.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Protocol

from inference.events import Channel
from inference.streaming.markers import open_chars

Piece = tuple[Channel, str]


class ReasoningMode(StrEnum):
    """Where an answer begins: outside of a thought, in the middle of one, or where its markers are mere text."""

    AUTO = "auto"
    PREFILLED = "prefilled"
    OFF = "off"


class TextSplitter(Protocol):
    """Splits one answer's text, the calls in it left out. `thinking`: the text now stands in a thought."""

    @property
    def thinking(self) -> bool: ...

    @property
    def holds(self) -> bool:
        """The text so far ends in what may be the beginning of a marker."""

    @property
    def marker_ends(self) -> re.Pattern[str]:
        """The characters that the markers end with."""

    def push(self, text: str) -> tuple[Piece, ...]:
        """What is certain now, in order; no piece is empty."""

    def finish(self) -> tuple[Piece, ...]:
        """What was held back for a marker that did not come."""

    def pass_by(self) -> tuple[Piece, ...]:
        """Something that is no text stands here: what was held back is said."""


class Splitter:
    """Splits one answer. Holds back what may become a marker, and the line feeds that would go with it.

    `thinking`: the text now stands in a thought. Raises `ValueError` for markers that cannot be told apart.
    """

    __slots__ = ("_closer", "_edge", "_feeds", "_fresh", "_held", "_off", "_opener", "thinking")

    def __init__(
        self, opener: str = "<think>", closer: str = "</think>", mode: ReasoningMode = ReasoningMode.AUTO
    ) -> None:
        if opener in closer or closer in opener:
            raise ValueError("one think marker holds the other")
        self._opener, self._closer = opener, closer
        self._off = mode is ReasoningMode.OFF
        self.thinking = mode is ReasoningMode.PREFILLED
        self._edge = self.thinking  # right behind a marker: line feeds are dropped
        self._fresh = not self.thinking  # before the first text: line feeds wait for what follows
        self._feeds = 0  # line feeds held back, before `_held`; a number, because a run of them can be long
        self._held = ""  # the beginning of a marker

    def push(self, text: str) -> tuple[Piece, ...]:
        """What is certain now, in order; no piece is empty."""
        if self._off:
            return ((Channel.CONTENT, text),) if text else ()
        pieces: list[Piece] = []
        text = self._held + text
        while True:
            if self._edge:
                text = self._behind_marker(text)
            before, found, after = text.partition(self._closer if self.thinking else self._opener)
            if not found:
                break
            self._say(before, pieces)
            self._pass_marker()
            text = after
        shown = len(text) - self._open_chars(text)
        self._held = text[shown:]
        self._say(text[:shown], pieces)
        return tuple(pieces)

    def finish(self) -> tuple[Piece, ...]:
        """What was held back for a marker that did not come."""
        pieces: list[Piece] = []
        self._say(self._held, pieces)
        if self._feeds:
            pieces.append((self._channel, "\n" * self._feeds))
        self._held, self._feeds = "", 0
        return tuple(pieces)

    def pass_by(self) -> tuple[Piece, ...]:
        """Something that is no text stands here: what was held back is said, and what follows is a text's middle."""
        pieces = self.finish()
        self._edge = self._fresh = False
        return pieces

    @property
    def marker_ends(self) -> re.Pattern[str]:
        """The characters that the markers end with."""
        return re.compile(f"[{re.escape(self._opener[-1] + self._closer[-1])}]")

    @property
    def holds(self) -> bool:
        """The text so far ends in what may be the beginning of a marker."""
        return bool(self._held)

    @property
    def _channel(self) -> Channel:
        return Channel.REASONING if self.thinking else Channel.CONTENT

    def _behind_marker(self, text: str) -> str:
        text = text.lstrip("\n")
        while self.thinking and text.startswith(self._opener):
            text = text[len(self._opener) :].lstrip("\n")
        return text

    def _pass_marker(self) -> None:
        self.thinking = not self.thinking
        self._edge, self._fresh, self._feeds = True, False, 0

    def _open_chars(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a marker."""
        if self._edge and self.thinking and self._opener.startswith(text):
            return len(text)
        return open_chars(text, (self._closer if self.thinking else self._opener,))

    def _say(self, text: str, pieces: list[Piece]) -> None:
        """Adds text that is in no marker; at its end, line feeds wait where a marker would take them along."""
        if not text:
            return
        if self.thinking or self._fresh:
            inked = text.rstrip("\n")
            if not inked:
                self._feeds += len(text)
                return
            ready = inked if self.thinking else text
            waiting = len(text) - len(ready)
            text, self._feeds = "\n" * self._feeds + ready, waiting
            self._fresh = False
        self._edge = False
        pieces.append((self._channel, text))
