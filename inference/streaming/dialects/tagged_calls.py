"""Calls as pairs of tags: <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>.

A value ends at a closing tag behind which the next key or the end of the call stands, so it may hold the tag itself.
"""

from __future__ import annotations

from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.parameters import Parameters
from inference.streaming.reading import MAX_KEY_CHARS, Broken, Reading, Source

OPENER: Final = "<tool_call>"
CLOSER: Final = "</tool_call>"
_KEY, _KEY_END, _VALUE, _VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_ENDS: Final = {_VALUE_END: (_KEY, CLOSER)}
_BREAKS: Final = {CLOSER: (OPENER,)}
"""Where a closing tag was forgotten, the next call must not become part of this one's value."""


def _read(source: Source) -> Reading[None]:
    name = yield from source.name()
    yield from source.space()
    if not (yield from source.at(_KEY, CLOSER)):
        raise Broken("not what the dialect wants")
    source.claim()
    parameters = Parameters(source, source.begin(name))
    while not (yield from source.take(CLOSER)):
        yield from source.expect(_KEY)
        key, _ = yield from source.until(_KEY_END, limit=MAX_KEY_CHARS)
        yield from source.space()
        yield from source.expect(_VALUE)
        yield from parameters.read(key.strip(), lambda sink: source.value(sink, _ENDS, _BREAKS))
    parameters.end()
    source.end()


TAGGED: Final = Dialect(
    "tagged", _read, openers=(OPENER,), markers=(OPENER, CLOSER, _KEY, _KEY_END, _VALUE, _VALUE_END)
)
