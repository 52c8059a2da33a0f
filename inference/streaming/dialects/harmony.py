"""Calls of gpt-oss: messages of its harmony format that are addressed to a function, with JSON in them.

    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
    <|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>{...}<|call|>

The prompt has written `<|start|>assistant` already when an answer begins. The model stops with `<|call|>`, so the
marker may be missing. All other messages are read by `channels.ChannelSplitter`.
"""

from __future__ import annotations

from typing import Final

from inference.streaming.channels import HARMONY as FORMAT
from inference.streaming.channels import MAX_HEADER_CHARS, recipient
from inference.streaming.dialect import Dialect
from inference.streaming.json_text import json_object
from inference.streaming.reading import Broken, Reading, Source

_START, _CHANNEL, _CONSTRAIN, _MESSAGE = FORMAT.headers
_TO, _NAMESPACE = "to=", "functions."


def _read(source: Source) -> Reading[None]:
    header, marker = yield from source.until(_MESSAGE, _START, *FORMAT.ends, limit=MAX_HEADER_CHARS)
    to = recipient(source.opener + header)
    if marker != _MESSAGE or not to:
        raise Broken("no call")
    source.claim()
    source.begin(to if to in source.tools else to.removeprefix(_NAMESPACE))
    yield from source.space()
    if (yield from source.at(*FORMAT.ends)) or not (yield from source.peek()):
        source.arguments("{}")
    else:
        yield from json_object(source, source.arguments)
    yield from source.close(*FORMAT.ends)
    source.end()


HARMONY: Final = Dialect(
    "harmony",
    _read,
    openers=(_START, _CHANNEL),
    starts=(_TO,),
    markers=(_START, _CHANNEL, _CONSTRAIN, _MESSAGE, *FORMAT.ends),
)
