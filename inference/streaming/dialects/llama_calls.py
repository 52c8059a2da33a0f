"""Llama's JSON calls behind a special token: `<|python_tag|>{"name": NAME, "parameters": {...}}`, several with `;`."""

from __future__ import annotations

from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.dialects.json_calls import read_call_object
from inference.streaming.reading import Reading, Source

_OPENER: Final = "<|python_tag|>"


def _read(source: Source) -> Reading[None]:
    yield from source.space()
    yield from source.expect("{")
    source.claim()
    yield from read_call_object(source)
    source.end()
    while (yield from source.close(";")):
        yield from source.space()
        yield from source.expect("{")
        yield from read_call_object(source)
        source.end()


LLAMA: Final = Dialect("llama_json", _read, openers=(_OPENER,), markers=(_OPENER,))
