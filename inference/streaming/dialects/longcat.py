"""Calls of LongCat: pairs of tags with its name before theirs, or a JSON object.

<longcat_tool_call>NAME
<longcat_arg_key>KEY</longcat_arg_key>
<longcat_arg_value>VALUE</longcat_arg_value>
</longcat_tool_call>

<longcat_tool_call>{"name": NAME, "arguments": {...}}</longcat_tool_call>
"""

from __future__ import annotations

from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.dialects.json_calls import read_call_object
from inference.streaming.parameters import Parameters
from inference.streaming.reading import MAX_KEY_CHARS, Reading, Source

_OPENER, _CLOSER = "<longcat_tool_call>", "</longcat_tool_call>"
_KEY, _KEY_END = "<longcat_arg_key>", "</longcat_arg_key>"
_VALUE, _VALUE_END = "<longcat_arg_value>", "</longcat_arg_value>"
_ENDS: Final = {_VALUE_END: (_KEY, _CLOSER)}
_BREAKS: Final = {_CLOSER: (_OPENER,)}


def _read(source: Source) -> Reading[None]:
    source.claim()
    yield from source.space()
    if (yield from source.take("{")):
        yield from read_call_object(source)
        yield from source.close(_CLOSER)
    else:
        yield from _tagged(source)
    source.end()


def _tagged(source: Source) -> Reading[None]:
    parameters = Parameters(source, source.begin((yield from source.name())))
    while True:
        yield from source.space()
        if (yield from source.expect(_KEY, _CLOSER)) == _CLOSER:
            break
        key, _ = yield from source.until(_KEY_END, limit=MAX_KEY_CHARS)
        yield from source.space()
        yield from source.expect(_VALUE)
        yield from parameters.read(key.strip(), lambda sink: source.value(sink, _ENDS, _BREAKS))
    parameters.end()


LONGCAT: Final = Dialect(
    "longcat", _read, openers=(_OPENER,), markers=(_OPENER, _CLOSER, _KEY, _KEY_END, _VALUE, _VALUE_END)
)
