"""What an answer's text turns out to be, and the machine that says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Protocol

from inference.events import Channel
from inference.streaming.reading import Arguments, Begun, Ended

MAX_BROKEN_CALLS: Final = 8
MAX_RAW_CHARS: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the reasoning or of the content; not empty."""

    channel: Channel
    text: str


Piece = Said | Begun | Arguments | Ended
"""Of a call its `Begun` comes first, then its `Arguments`, then its `Ended`; nothing of another call in between."""


@dataclass(frozen=True, slots=True)
class BrokenCall:
    """What began like a call and could not be read: in which dialect, why, and its text up to where it broke.

    `raw` is the first of that text, `chars` the length of all of it. `shown`: a part of it was shown as a call, which
    stays unfinished.
    """

    dialect: str
    reason: str
    raw: str
    chars: int
    shown: bool = False


class AnswerMachine(Protocol):
    """Reads one answer. `thinking`: the text now stands in a thought."""

    @property
    def thinking(self) -> bool: ...

    @property
    def malformed(self) -> int:
        """How often something began like a call and could not be read."""

    @property
    def broken_calls(self) -> Sequence[BrokenCall]:
        """The first of them."""

    def push(self, text: str) -> Sequence[Piece]:
        """What is certain now, in order."""

    def finish(self) -> Sequence[Piece]:
        """What was held back."""


def joined(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """The same in as few pieces as say it."""
    runs: list[Piece] = []
    for kind, run in groupby(pieces, key=lambda piece: piece.channel if isinstance(piece, Said) else type(piece)):
        together = list(run)
        if isinstance(kind, Channel):
            runs.append(Said(kind, "".join(one.text for one in together if isinstance(one, Said))))
        elif kind is Arguments:
            runs.append(Arguments("".join(one.json for one in together if isinstance(one, Arguments))))
        else:
            runs += together
    return tuple(runs)
