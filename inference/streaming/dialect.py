"""A dialect of tool calls: the texts a call begins with, and the reader of what follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inference.streaming.reading import Reading, Source


@dataclass(frozen=True, slots=True)
class Dialect:
    """`openers` begin a call wherever they stand, `starts` only as the first thing of the content.

    Several dialects may share an opener: the text behind it is then given to each in turn, until one can read it.
    `markers` are texts that may be special tokens of a model, which are silent unless they are asked for.
    """

    name: str
    read: Callable[[Source], Reading[None]]
    openers: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
