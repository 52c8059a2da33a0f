"""Calls without any marker: the whole content is `{"name": NAME, "arguments": {...}}`, several of them, or a list.

A fence (three backticks, with or without `json`) may stand around them. Content that says anything else besides is
content: such an object may be an example, so nothing is certain before the end of the answer.
"""

from __future__ import annotations

from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.dialects.json_calls import read_call_object
from inference.streaming.reading import Broken, Reading, Source

_FENCE: Final = "```"


def _read(source: Source) -> Reading[None]:
    source.hold()
    opened = source.opener
    if fenced := opened == _FENCE:
        yield from source.take("json")
        yield from source.space()
        opened = yield from source.expect("{", "[")
    if opened == "[":
        yield from source.space()
        yield from source.expect("{")
    yield from _objects(source, listed=opened == "[")
    if fenced:
        yield from source.space()
        yield from source.expect(_FENCE)
    yield from source.space()
    if (yield from source.peek()):
        raise Broken("text behind the calls")


def _objects(source: Source, *, listed: bool) -> Reading[None]:
    """Call after call, the first one's brace behind it."""
    while True:
        yield from read_call_object(source)
        source.end()
        yield from source.space()
        if listed and (yield from source.expect(",", "]")) == "]":
            return
        yield from source.space()
        if not listed and not (yield from source.at("{")):
            return
        yield from source.expect("{")


UNWRAPPED: Final = Dialect("unwrapped", _read, starts=("{", "[", _FENCE))
