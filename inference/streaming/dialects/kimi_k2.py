"""Calls of Kimi K2, whose ids name the function; the arguments are JSON.

    <|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}<|tool_call_end|>
    <|tool_calls_section_end|>

The section's markers may be missing. A client never sees the model's ids: some clients and templates take none with
punctuation.
"""

from __future__ import annotations

import re
from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.dialects.sections import calls
from inference.streaming.json_text import json_object
from inference.streaming.reading import MAX_NAME_CHARS, Reading, Source

SECTION, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, ARGUMENTS, CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_ID: Final = re.compile(r"(?:functions\.)?(?P<name>.*?)(?::\d+)?", re.DOTALL)


def _read(source: Source) -> Reading[None]:
    yield from calls(source, _call, CALL, SECTION_END)


def _call(source: Source) -> Reading[None]:
    source.claim()
    written, _ = yield from source.until(ARGUMENTS, limit=MAX_NAME_CHARS + 32)
    named = _ID.fullmatch(written.strip())
    source.begin(named["name"] if named else "")
    yield from source.space()
    yield from json_object(source, source.arguments)
    yield from source.close(CALL_END)
    source.end()


KIMI_K2: Final = Dialect(
    "kimi_k2", _read, openers=(SECTION, CALL), markers=(SECTION, SECTION_END, CALL, ARGUMENTS, CALL_END)
)
