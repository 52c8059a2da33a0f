"""Calls of Cohere's Command models: a list of objects, or one, that name the tool in `tool_name`.

<|START_ACTION|>[{"tool_call_id": "0", "tool_name": NAME, "parameters": {...}}]<|END_ACTION|>
"""

from __future__ import annotations

from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.dialects.json_calls import read_call_object
from inference.streaming.reading import Reading, Source

_OPENER, _CLOSER = "<|START_ACTION|>", "<|END_ACTION|>"


def _read(source: Source) -> Reading[None]:
    source.claim()
    yield from source.space()
    listed = yield from source.take("[")
    while True:
        yield from source.space()
        yield from source.expect("{")
        yield from read_call_object(source)
        source.end()
        if not listed or (yield from source.close(",", "]")) != ",":
            break
    yield from source.close(_CLOSER)


COHERE: Final = Dialect("cohere", _read, openers=(_OPENER,), markers=(_OPENER, _CLOSER))
