"""Calls of Kimi K3: tags of its own, arguments typed one by one or all in one JSON object.

<|open|>tools<|sep|><|open|>call tool="NAME" index="1"<|sep|>
<|open|>argument key="KEY" type="string"<|sep|>VALUE<|close|>argument<|sep|>
<|close|>call<|sep|><|close|>tools<|sep|>

... <|open|>json type="object"<|sep|>{...}<|close|>json<|sep|> ...
"""

from __future__ import annotations

from typing import Final

from inference.messages import Tool
from inference.streaming.dialect import Dialect
from inference.streaming.dialects.attributes import attributes
from inference.streaming.dialects.sections import calls
from inference.streaming.json_text import json_object
from inference.streaming.parameters import Parameters
from inference.streaming.reading import Broken, Reading, Source

_OPEN, _CLOSE, _SEP = "<|open|>", "<|close|>", "<|sep|>"
_TOOLS, _TOOLS_END = f"{_OPEN}tools{_SEP}", f"{_CLOSE}tools{_SEP}"
_CALL, _CALL_END = f"{_OPEN}call", f"{_CLOSE}call{_SEP}"
_ARGUMENT, _ARGUMENT_END = f"{_OPEN}argument", f"{_CLOSE}argument{_SEP}"
_JSON, _JSON_END = f"{_OPEN}json", f"{_CLOSE}json{_SEP}"
_ENDS: Final = {_ARGUMENT_END: (_ARGUMENT, _CALL_END)}
_BREAKS: Final = {_CALL_END: (_CALL,)}


def _read(source: Source) -> Reading[None]:
    yield from calls(source, _call, _CALL, _TOOLS_END)


def _call(source: Source) -> Reading[None]:
    source.claim()
    tool = source.begin((yield from attributes(source, _SEP)).get("tool", ""))
    yield from source.space()
    if (yield from source.take(_JSON)):
        yield from attributes(source, _SEP)
        yield from source.space()
        yield from json_object(source, source.arguments)
        yield from source.close(_JSON_END)
        yield from source.close(_CALL_END)
    else:
        yield from _arguments(source, tool)
    source.end()


def _arguments(source: Source, tool: Tool) -> Reading[None]:
    parameters = Parameters(source, tool)
    while (yield from source.expect(_ARGUMENT, _CALL_END)) == _ARGUMENT:
        about = yield from attributes(source, _SEP)
        key = about.get("key", "")
        if not key:
            raise Broken("no key")
        read = parameters.read_text if about.get("type", "string") == "string" else parameters.read_json
        yield from read(key, lambda sink: source.value(sink, _ENDS, _BREAKS))
        yield from source.space()
    parameters.end()


KIMI_K3: Final = Dialect("kimi_k3", _read, openers=(_TOOLS,), markers=(_OPEN, _CLOSE, _SEP))
