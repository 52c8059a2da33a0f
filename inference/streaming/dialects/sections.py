"""Calls one after the other in a section: what stands between them and behind the last is markup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from inference.streaming.reading import Reading, Source

MAX_ATTRIBUTE_CHARS: Final = 256


def calls(source: Source, read: Callable[[Source], Reading[None]], opener: str, *closers: str) -> Reading[None]:
    """Reads calls, each behind an `opener` (the first one's is taken), up to one of `closers`.

    Where neither comes the section ends with its last call: models forget to close what they opened.
    """
    while True:
        yield from read(source)
        if (yield from source.close(opener, *closers)) != opener:
            return
