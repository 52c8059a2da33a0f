"""Attributes of a tag, up to its end: ` name="look" string='true'>`."""

from __future__ import annotations

import html
import re
from typing import Final

from inference.streaming.reading import MAX_KEY_CHARS, Broken, Reading, Source

_MAX_ATTRIBUTES: Final = 8
_NAME: Final = re.compile(r"[\w:-]*")
_BARE: Final = re.compile(r"""[^\s<>"'|=]*""")


def attributes(source: Source, end: str) -> Reading[dict[str, str]]:
    """Takes a tag's attributes and its `end`. Values in either quotes or none; `&quot;` and its like are read."""
    found: dict[str, str] = {}
    while True:
        yield from source.space()
        if (yield from source.take(end)):
            return found
        name = yield from source.match(_NAME, limit=MAX_KEY_CHARS)
        if not name or len(found) == _MAX_ATTRIBUTES:
            raise Broken("not what the dialect wants")
        yield from source.space()
        yield from source.expect("=")
        yield from source.space()
        found[name] = html.unescape((yield from _value(source)))


def _value(source: Source) -> Reading[str]:
    quote = yield from source.take('"', "'")
    if not quote:
        return (yield from source.match(_BARE, limit=MAX_KEY_CHARS))
    value, _ = yield from source.until(quote, limit=MAX_KEY_CHARS)
    return value
