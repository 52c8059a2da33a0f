"""Mistral's calls: `[TOOL_CALLS]`, then a list of JSON objects, or NAME[ARGS]{...} once or several times.

[TOOL_CALLS] [{"name": NAME, "arguments": {...}}, ...]
[TOOL_CALLS]NAME[ARGS]{...}         also NAME[CALL_ID]ID[ARGS]{...}
"""

from __future__ import annotations

import re
from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.dialects.json_calls import read_call_object
from inference.streaming.json_text import json_object
from inference.streaming.reading import MAX_NAME_CHARS, Reading, Source

_OPENER, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_ID_CHARS: Final = re.compile(r"[A-Za-z0-9_-]*")


def _read(source: Source) -> Reading[None]:
    yield from source.space()
    if (yield from source.take("[")):
        source.claim()
        yield from _listed(source)
        return
    while True:  # ends by what is no name with arguments: that is content
        yield from _named(source)


def _listed(source: Source) -> Reading[None]:
    separator = ","
    while separator == ",":
        yield from source.space()
        yield from source.expect("{")
        yield from read_call_object(source)
        source.end()
        yield from source.space()
        separator = yield from source.expect(",", "]")


def _named(source: Source) -> Reading[None]:
    name = yield from source.name()
    if (yield from source.take(_ID)):
        yield from source.match(_ID_CHARS, limit=MAX_NAME_CHARS)
    yield from source.expect(_ARGUMENTS)
    source.begin(name)
    yield from source.space()
    yield from json_object(source, source.arguments)
    source.end()


MISTRAL: Final = Dialect("mistral", _read, openers=(_OPENER,), markers=(_OPENER, _ID, _ARGUMENTS))
