"""Calls as functions of parameters, inside of a wrapper or without one.

    <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>

A value ends at a closing tag behind which the next parameter or the function's end stands; one line feed at each of
its edges is markup.
"""

from __future__ import annotations

from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.parameters import Parameters
from inference.streaming.reading import MAX_KEY_CHARS, Broken, Reading, Source

WRAPPER, WRAPPER_END = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_ENDS: Final = {_PARAMETER_END: (_PARAMETER, FUNCTION_END)}
_BREAKS: Final = {
    WRAPPER: {FUNCTION_END: (WRAPPER_END,), WRAPPER_END: (WRAPPER,)},
    FUNCTION: {FUNCTION_END: (FUNCTION,)},
}
"""Where a closing tag was forgotten, what follows the call must not become part of its value."""


def _read(source: Source) -> Reading[None]:
    if source.opener == WRAPPER:
        yield from source.space()
        yield from source.expect(FUNCTION)
        source.claim()
    name = yield from source.name()
    yield from source.space()
    yield from source.expect(">")
    yield from source.space()
    if not (yield from source.at(_PARAMETER, FUNCTION_END)):
        raise Broken("not what the dialect wants")
    source.claim()
    parameters = Parameters(source, source.begin(name), trim=True)
    while not (yield from source.take(FUNCTION_END)):
        yield from source.expect(_PARAMETER)
        key, mark = yield from source.until(">", "<", "\n", limit=MAX_KEY_CHARS)
        if mark != ">":
            raise Broken("no name")
        yield from parameters.read(key.strip(), lambda sink: source.value(sink, _ENDS, _BREAKS[source.opener]))
    parameters.end()
    yield from source.close(WRAPPER_END)
    source.end()


XML: Final = Dialect("xml", _read, openers=(WRAPPER, FUNCTION), markers=(WRAPPER, WRAPPER_END))
