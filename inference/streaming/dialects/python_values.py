"""Python literals read as they come and passed on as JSON. Also the words of JSON, which templates mix in."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from inference.streaming.call_values import written
from inference.streaming.json_text import MAX_DEPTH, Sink
from inference.streaming.reading import Broken, Reading, Source

_CLOSERS: Final = {"{": "}", "[": "]", "(": ")"}
_QUOTES: Final = ('"""', "'''", '"', "'")
_WORDS: Final[dict[str, Any]] = {
    "True": True, "False": False, "None": None, "true": True, "false": False, "null": None,
}  # fmt: skip
_SCALAR: Final = re.compile(r"[-+.\w]*")
_NUMBER: Final = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")
_INTEGER: Final = re.compile(r"[-+]?(?:[0-9][0-9_]*|0[xX][0-9a-fA-F]+)")
_MAX_SCALAR_CHARS: Final = 512
_PLAIN_ESCAPES: Final = {
    "\n": "", "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
    "v": "\v", "0": "\0",
}  # fmt: skip
_CODE_CHARS: Final = {"x": 2, "u": 4, "U": 8}
_HEX: Final = re.compile(r"[0-9a-fA-F]*")


def python_value(source: Source, sink: Sink, depth: int = 0) -> Reading[None]:
    """Passes one value on."""
    opened = yield from source.take(*_CLOSERS, *_QUOTES)
    if opened in _QUOTES:
        yield from _string(source, sink, opened)
    elif opened:
        yield from _listed(source, sink, opened, depth + 1)
    else:
        sink(_scalar((yield from source.match(_SCALAR, limit=_MAX_SCALAR_CHARS))))


def _listed(source: Source, sink: Sink, opener: str, depth: int) -> Reading[None]:
    """A dict, a list or a tuple; a comma may stand before its end."""
    if depth > MAX_DEPTH:
        raise Broken("nested too deeply")
    closer, mark, first = _CLOSERS[opener], ",", True
    sink("{" if opener == "{" else "[")
    while mark == ",":
        yield from source.space()
        if (yield from source.take(closer)):
            break
        sink("" if first else ", ")
        first = False
        if opener == "{":
            yield from _key(source, sink)
        yield from python_value(source, sink, depth)
        yield from source.space()
        mark = yield from source.expect(",", closer)
    sink("}" if opener == "{" else "]")


def _key(source: Source, sink: Sink) -> Reading[None]:
    """A key of a dict; JSON knows only texts."""
    quote = yield from source.take('"', "'")
    if quote:
        yield from _string(source, sink, quote)
    else:
        key = _scalar((yield from source.match(_SCALAR, limit=_MAX_SCALAR_CHARS)))
        sink(f'"{key}"')
    yield from source.space()
    yield from source.expect(":")
    sink(": ")
    yield from source.space()


def _string(source: Source, sink: Sink, quote: str) -> Reading[None]:
    """A string whose opening quote is taken; a line feed may stand in any."""
    sink('"')
    while True:
        text, mark = yield from source.run(quote, "\\")
        if mark == quote:
            sink('"')
            return
        sink(written((yield from _escape(source)) if mark else text)[1:-1])


def _escape(source: Source) -> Reading[str]:
    """What a backslash and what follows it say. Without a meaning it stands for itself, as in Python."""
    char = yield from source.char()
    if char in _PLAIN_ESCAPES:
        return _PLAIN_ESCAPES[char]
    size = _CODE_CHARS.get(char, 0)
    code = (yield from source.peek(size)) if size else ""
    if not size or not _HEX.fullmatch(code) or len(code) < size or int(code, 16) > 0x10FFFF:
        return f"\\{char}"
    yield from source.expect(code)
    return chr(int(code, 16))  # half a surrogate pair is written as JSON's escape, beside its other half


def _scalar(text: str) -> str:
    """JSON of a number or a word."""
    if text in _WORDS:
        return written(_WORDS[text])
    try:
        if _INTEGER.fullmatch(text):
            return written(int(text, 0))
        number = float(text) if _NUMBER.fullmatch(text) else math.inf
    except ValueError:  # `007`, `1__0`
        number = math.inf
    if not math.isfinite(number):
        raise Broken("no value")
    return written(number)
