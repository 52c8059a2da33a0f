"""Calls as JSON objects: `{"name": NAME, "arguments": {...}}`, also with `tool_name` and `parameters`.

    <tool_call>{"name": NAME, "arguments": {...}}</tool_call>

The object decides where the call ends, so nothing inside of its strings can. Arguments are passed on as they come once
the name is known; those that stand before the name, or are a string that holds JSON, wait for the end.
"""

from __future__ import annotations

from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.json_text import json_held, json_text, json_value, object_in
from inference.streaming.reading import MAX_NAME_CHARS, Broken, Reading, Source

OPENER: Final = "<tool_call>"
CLOSER: Final = "</tool_call>"
_NAMES: Final = ("name", "tool_name")
_ARGUMENTS: Final = ("arguments", "parameters")


def read_call_object(source: Source) -> Reading[None]:
    """One object behind its opening brace; does not end the call. Raises `Broken` when it is no call."""
    name, arguments, streamed = "", None, False
    separator = ","
    while separator == ",":
        yield from source.space()
        key = yield from json_text(source)
        yield from source.space()
        yield from source.expect(":")
        yield from source.space()
        if key in _NAMES and not name:
            name = source.tool((yield from json_text(source, MAX_NAME_CHARS))).name
        elif key in _ARGUMENTS and arguments is None:
            streamed = bool(name) and (yield from source.at("{")) == "{"
            if streamed:
                source.begin(name)
            arguments = yield from _arguments(source, streamed)
        elif key in _NAMES or key in _ARGUMENTS:
            raise Broken("a key twice")
        else:
            yield from json_held(source, json_value)
        yield from source.space()
        separator = yield from source.expect(",", "}")
    if not streamed:
        source.begin(name)
        source.arguments("{}" if arguments is None else arguments)


def _arguments(source: Source, streamed: bool) -> Reading[str]:
    """The arguments' text; "" when it was passed on."""
    if streamed:
        yield from json_value(source, source.arguments)
        return ""
    found = object_in((yield from json_held(source, json_value)))
    if found is None:
        raise Broken("arguments that are no object")
    return found


def _read(source: Source) -> Reading[None]:
    yield from source.space()
    yield from source.expect("{")
    source.claim()
    yield from read_call_object(source)
    yield from source.close(CLOSER)
    source.end()


JSON: Final = Dialect("json", _read, openers=(OPENER,), markers=(OPENER, CLOSER))
