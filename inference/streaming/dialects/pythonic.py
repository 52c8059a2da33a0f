"""Calls as a list of Python calls: `[look(place="Paris", days=3), stop()]`.

    <|tool_call_start|>[...]<|tool_call_end|>      LFM2
    <|python_start|>[...]<|python_end|>            Llama 4
    [...]                                          Llama 3.2 and others, only as the whole content

A list without markers may be an example, so nothing of it is certain before the end of the answer.
"""

from __future__ import annotations

from typing import Final

from inference.streaming.call_values import written
from inference.streaming.dialect import Dialect
from inference.streaming.dialects.python_values import python_value
from inference.streaming.reading import MAX_KEY_CHARS, Broken, Reading, Source

_CLOSERS: Final = {"<|tool_call_start|>": "<|tool_call_end|>", "<|python_start|>": "<|python_end|>"}
_TAG, _LIST = "<|python_tag|>", "["


def _read(source: Source) -> Reading[None]:
    if source.opener == _LIST:
        source.hold()
        yield from _calls(source)
        yield from source.space()
        if (yield from source.peek()):
            raise Broken("text behind the calls")
        return
    yield from source.space()
    yield from source.expect(_LIST)
    source.claim()
    yield from _calls(source)
    yield from source.close(*_CLOSERS.values())


def _calls(source: Source) -> Reading[None]:
    """`NAME(...), NAME(...)]`."""
    mark = ","
    while mark == ",":
        yield from _call(source)
        yield from source.space()
        mark = yield from source.expect(",", "]")


def _call(source: Source) -> Reading[None]:
    name = yield from source.name()
    source.tool(name)
    yield from source.space()
    yield from source.expect("(")
    source.begin(name)
    yield from _arguments(source)
    source.end()


def _arguments(source: Source) -> Reading[None]:
    """`KEY=VALUE, ...)`; a comma may stand before the end."""
    mark, opening = ",", "{"
    while mark == ",":
        yield from source.space()
        if (yield from source.take(")")):
            break
        key, _ = yield from source.until("=", limit=MAX_KEY_CHARS)
        if not key.strip().isidentifier():
            raise Broken("an argument without a name")
        source.arguments(f"{opening}{written(key.strip())}: ")
        opening = ", "
        yield from source.space()
        yield from python_value(source, source.arguments)
        yield from source.space()
        mark = yield from source.expect(",", ")")
    source.arguments("{}" if opening == "{" else "}")


PYTHONIC: Final = Dialect(
    "pythonic",
    _read,
    openers=(*_CLOSERS, _TAG),
    starts=(_LIST,),
    markers=(*_CLOSERS, *_CLOSERS.values(), _TAG),
)
