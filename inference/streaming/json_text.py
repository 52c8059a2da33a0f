"""JSON read as it comes: checked while it is passed on, so what was passed on is always the beginning of valid JSON.

The text stays as the model wrote it, with two repairs inside of strings: a control character (a line feed) is escaped,
and a backslash that escapes nothing stands for itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Final

from inference.streaming.call_values import parsed, written
from inference.streaming.reading import Broken, Reading, Source

MAX_DEPTH: Final = 64
_MAX_SCALAR_CHARS: Final = 512
_CLOSERS: Final = {"{": "}", "[": "]"}
_SCALAR: Final = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_HEX: Final = re.compile(r"[0-9a-fA-F]{4}")
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]*')
_ESCAPED: Final = '"\\/bfnrtu'

Sink = Callable[[str], None]


def json_object(source: Source, sink: Sink) -> Reading[None]:
    """Passes the text of one JSON object on. Anything else is `Broken`."""
    if (yield from source.peek()) != "{":
        raise Broken("no JSON object")
    yield from json_value(source, sink)


def json_value(source: Source, sink: Sink) -> Reading[None]:
    """Passes the text of one JSON value on, up to its last character; white space before it too."""
    closers: list[str] = []
    while True:
        sink((yield from source.space()))
        opened = yield from source.take(*_CLOSERS)
        if opened:
            sink(opened)
            closers.append(_CLOSERS[opened])
            if len(closers) > MAX_DEPTH:
                raise Broken("nested too deeply")
            sink((yield from source.space()))
            if not (yield from source.at(closers[-1])):
                if opened == "{":
                    yield from json_key(source, sink)
                continue
            sink((yield from source.take(closers.pop())))
        else:
            yield from _single(source, sink)
        while closers:
            sink((yield from source.space()))
            mark = yield from source.expect(",", closers[-1])
            sink(mark)
            if mark == ",":
                break
            closers.pop()
        else:
            return
        if closers[-1] == "}":
            yield from json_key(source, sink)


def json_key(source: Source, sink: Sink) -> Reading[None]:
    """Passes a key and its colon on, and the white space around them."""
    sink((yield from source.space()))
    yield from json_string(source, sink)
    sink((yield from source.space()))
    sink((yield from source.expect(":")))


def json_string(source: Source, sink: Sink) -> Reading[None]:
    """Passes a string on, its quotes included."""
    sink((yield from source.expect('"')))
    while True:
        text = yield from source.flow(_PLAIN)
        if text:
            sink(text)
            continue
        mark = yield from source.char()
        if mark == '"':
            sink(mark)
            return
        sink((yield from _escape(source)) if mark == "\\" else json.dumps(mark)[1:-1])


def json_text(source: Source, limit: int | None = None) -> Reading[str]:
    """Takes a string and gives what it says; more than `limit` characters of JSON text are `Broken`."""
    value = yield from json_held(source, json_string, limit)
    return str(parsed(value))


def json_held(source: Source, read: Callable[[Source, Sink], Reading[None]], limit: int | None = None) -> Reading[str]:
    """Takes what `read` passes on and gives it in one piece."""
    held: list[str] = []
    chars = 0

    def hold(piece: str) -> None:
        nonlocal chars
        chars += len(piece)
        if limit is not None and chars > limit:
            raise Broken("longer than it may be")
        held.append(piece)

    yield from read(source, hold)
    return "".join(held)


def object_in(text: str) -> str | None:
    """JSON text of the object that a JSON value is or, as a string, holds; that of no arguments for null and ""."""
    value: Any = parsed(text)
    try:
        if isinstance(value, str):
            text = value
            value = parsed(value) if value.strip() else None
            text = "" if value is None else written(value)
    except ValueError:
        return None
    return "{}" if value is None else text if isinstance(value, dict) else None


def _escape(source: Source) -> Reading[str]:
    """What follows a backslash, with it."""
    escaped = yield from source.peek()
    if not escaped or escaped not in _ESCAPED:
        return "\\\\"
    yield from source.char()
    if escaped != "u":
        return f"\\{escaped}"
    return "\\u" if _HEX.fullmatch((yield from source.peek(4))) else "\\\\u"


def _single(source: Source, sink: Sink) -> Reading[None]:
    """A string, a number, or one of the three words."""
    if (yield from source.at('"')):
        yield from json_string(source, sink)
        return
    scalar = yield from source.match(_SCALAR)
    if scalar not in ("true", "false", "null") and not _is_number(scalar):
        raise Broken("no JSON value")
    sink(scalar)


def _is_number(text: str) -> bool:
    """JSON's numbers, without those that no client could hold."""
    return len(text) <= _MAX_SCALAR_CHARS and bool(_NUMBER.fullmatch(text)) and math.isfinite(float(text))
