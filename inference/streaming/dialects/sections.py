"""Calls one after the other in a section: what stands between them and behind the last is markup."""

from __future__ import annotations

from collections.abc import Callable

from inference.streaming.reading import Reading, Source


def calls(source: Source, read: Callable[[Source], Reading[None]], opener: str, *closers: str) -> Reading[None]:
    """Reads calls, each behind an `opener`, up to one of `closers`. What was found may be the section's own opener.

    Where neither comes the section ends with its last call: models forget to close what they opened.
    """
    if source.opener != opener:
        yield from source.space()
        yield from source.expect(opener)
    while True:
        yield from read(source)
        if (yield from source.close(opener, *closers)) != opener:
            return
