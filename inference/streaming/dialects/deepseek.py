"""Calls of DeepSeek V3, R1 and V3.1: markers with full-width bars, JSON between them.

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME
    ```json
    {...}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>                                                    V3, R1
    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜><｜tool▁calls▁end｜>       V3.1

Which of the two it is shows behind the separator. The section's markers may be missing.
"""

from __future__ import annotations

from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.dialects.sections import calls
from inference.streaming.json_text import json_object
from inference.streaming.reading import MAX_NAME_CHARS, Reading, Source

SECTION, SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_FENCE: Final = "```"


def _read(source: Source) -> Reading[None]:
    yield from calls(source, _call, CALL, SECTION_END)


def _call(source: Source) -> Reading[None]:
    source.claim()
    name, _ = yield from source.until(SEPARATOR, limit=MAX_NAME_CHARS)
    yield from source.space()
    plain = yield from source.at("{", CALL_END)
    if not plain:
        name = yield from source.name()
        yield from source.space()
        if (yield from source.take(_FENCE)):
            yield from source.take("json")
        yield from source.space()
    source.begin(name)
    if plain == CALL_END:
        source.arguments("{}")
    else:
        yield from json_object(source, source.arguments)
        yield from source.close(_FENCE)
    yield from source.close(CALL_END)
    source.end()


DEEPSEEK: Final = Dialect(
    "deepseek", _read, openers=(SECTION, CALL), markers=(SECTION, SECTION_END, CALL, SEPARATOR, CALL_END)
)
