"""The pieces of one answer in order: what is shown of a call and when, and the white space beside calls.

A call is shown when its arguments are complete or longer than `SHOWN_AFTER_CHARS`; until then it can be taken back.
White space that stands only beside calls belongs to them, as chat templates write it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from inference.events import Channel
from inference.streaming.call_values import parsed
from inference.streaming.pieces import Piece, Said, joined
from inference.streaming.reading import Arguments, Begun, Ended, Found
from inference.streaming.splitter import Piece as Split
from inference.streaming.splitter import TextSplitter

SHOWN_AFTER_CHARS: Final = 128
"""About thirty tokens. Almost every malformed call is shorter, and no client can use a call before its end."""


class Showing:
    """Takes the text outside of calls, and what is found in them; `take` gives the pieces that are certain."""

    __slots__ = ("_arguments", "_chars", "_edge", "_gap", "_held", "_pieces", "_shown", "calls", "splitter")

    def __init__(self, splitter: TextSplitter) -> None:
        self.splitter = splitter
        self.calls = 0
        self._pieces: list[Piece] = []
        self._gap = ""  # white space beside a call, or before the first text
        self._edge = True  # nothing but white space of the content since the last call
        self._held: list[Piece] = []  # of the open call, while it can be taken back
        self._arguments: list[str] = []  # of the open call
        self._chars = 0
        self._shown = False

    @property
    def blank(self) -> bool:
        """Nothing was shown but thoughts and white space."""
        return self._edge and not self.calls

    @property
    def at_start(self) -> bool:
        """The next text, if it is no white space and no marker, is the first of the content."""
        return self.blank and not self.splitter.thinking and not self.splitter.holds

    @property
    def in_call(self) -> bool:
        """Of a call that is not over something was shown."""
        return self._shown

    def text(self, text: str) -> None:
        self._say(self.splitter.push(text))

    def found(self, found: Found) -> None:
        match found:
            case Begun():
                self._held = [found]
            case Arguments(json):
                self._arguments.append(json)
                (self._pieces if self._shown else self._held).append(found)
                self._chars += len(json)
                if self._chars > SHOWN_AFTER_CHARS:
                    self._show()
            case Ended(raw):
                self._show()
                self._end(raw, whole=True)

    def take_back(self) -> None:
        """The open call, of which nothing was shown, is none."""
        self._held, self._arguments, self._chars = [], [], 0

    def break_off(self, raw: str) -> bool:
        """The call that is shown goes no further; whether its arguments were complete all the same."""
        try:
            whole = isinstance(parsed("".join(self._arguments)), dict)
        except ValueError:
            whole = False
        self._end(raw, whole)
        return whole

    def finish(self) -> None:
        """Shows what was held back. White space behind the last call is dropped with it."""
        self._say(self.splitter.finish())
        if self._gap and not self.calls:
            self._pieces.append(Said(Channel.CONTENT, self._gap))
        self._gap = ""

    def take(self) -> tuple[Piece, ...]:
        """The pieces since the last time."""
        if not self._pieces:
            return ()
        pieces, self._pieces = self._pieces, []
        return joined(pieces) if len(pieces) > 1 else (pieces[0],)

    def _show(self) -> None:
        if not self._shown:
            self._say(self.splitter.pass_by())
            self._pieces += self._held
            self._held = []
            self._shown = True

    def _end(self, raw: str, whole: bool) -> None:
        self._pieces.append(Ended(self._gap + raw, whole))
        self._arguments, self._chars, self._shown = [], 0, False
        self._gap, self._edge = "", True
        self.calls += 1

    def _say(self, pieces: Iterable[Split]) -> None:
        """Adds text; white space of the content waits until it is known what it stands beside."""
        for channel, text in pieces:
            if channel is Channel.CONTENT and self._edge:
                text, self._gap = self._gap + text, ""
                if text.isspace():
                    self._gap = text
                    continue
                self._edge = False
            self._pieces.append(Said(channel, text))
