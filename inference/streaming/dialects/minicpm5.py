"""Calls of MiniCPM 5, one after the other without a section around them.

    <function name="NAME"><param name="KEY">VALUE</param><param name="KEY"><![CDATA[VALUE]]></param></function>

Values are text, typed by the schema. What holds `<`, `&` or a line feed stands in CDATA.
"""

from __future__ import annotations

from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.dialects.attributes import attributes
from inference.streaming.parameters import Parameters
from inference.streaming.reading import Broken, Reading, Source

_OPENER, _CLOSER = "<function ", "</function>"
_PARAM, _PARAM_END = "<param", "</param>"
_CDATA: Final = "<![CDATA["
_ENDS: Final = {_PARAM_END: (_PARAM, _CLOSER)}
_CDATA_ENDS: Final = {"]]>": (_PARAM_END,)}
_BREAKS: Final = {_CLOSER: (_OPENER,)}


def _read(source: Source) -> Reading[None]:
    named = yield from attributes(source, ">")
    parameters = Parameters(source, source.begin(named.get("name", "")))
    while True:
        yield from source.space()
        if (yield from source.expect(_PARAM, _CLOSER)) == _CLOSER:
            break
        key = (yield from attributes(source, ">")).get("name", "")
        if not key:
            raise Broken("no key")
        if (yield from source.take(_CDATA)):
            yield from parameters.read(key, lambda sink: source.value(sink, _CDATA_ENDS, {}))
            yield from source.expect(_PARAM_END)
        else:
            yield from parameters.read(key, lambda sink: source.value(sink, _ENDS, _BREAKS))
    parameters.end()
    source.end()


MINICPM5: Final = Dialect(
    "minicpm5", _read, openers=(_OPENER,), markers=("<function", _CLOSER, _PARAM, _PARAM_END, _CDATA, "]]>")
)
