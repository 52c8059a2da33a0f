"""Calls of FunctionGemma and Gemma 4: objects with bare keys, strings between markers that no string can hold.

    <start_function_call>call:NAME{KEY:<escape>TEXT<escape>,KEY:3}<end_function_call>         FunctionGemma
    <|tool_call>call:NAME{KEY:<|"|>TEXT<|"|>,KEY:{KEY:[true,null]}}<tool_call|>               Gemma 4

A bare word that is no JSON is of the type the schema names (`True`), else text. JSON's own strings are read too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from inference.streaming.call_values import parsed, typed, written
from inference.streaming.dialect import Dialect
from inference.streaming.dialects.sections import calls
from inference.streaming.json_text import MAX_DEPTH, Sink, json_string
from inference.streaming.reading import MAX_KEY_CHARS, Broken, Reading, Source

CALL: Final = "call:"
_KEY: Final = re.compile(r'[^\s:{}\[\],<"]*')
_WORD: Final = re.compile(r"[^,{}\[\]<]*")
_MAX_WORD_CHARS: Final = 512
_CLOSERS: Final = {"{": "}", "[": "]"}

Word = Callable[[str, str], str]
"""Makes JSON of a bare word and the key it stands behind."""


class _Values:
    """Reads values whose strings stand between two `quote`s and passes them on as JSON."""

    __slots__ = ("_quote", "_sink", "_source")

    def __init__(self, source: Source, quote: str, sink: Sink) -> None:
        self._source, self._quote, self._sink = source, quote, sink

    def listed(self, opener: str, word: Word, depth: int = 1) -> Reading[None]:
        """An object or an array, whose `opener` is taken. `word` is for the values right in it."""
        if depth > MAX_DEPTH:
            raise Broken("nested too deeply")
        source, closer, mark = self._source, _CLOSERS[opener], opener
        self._sink(opener)
        yield from source.space()
        if (yield from source.take(closer)):
            mark = closer
        while mark != closer:
            yield from source.space()
            key = (yield from self._key()) if opener == "{" else ""
            yield from self._value(key, word, depth)
            yield from source.space()
            mark = yield from source.expect(",", closer)
            self._sink("," if mark == "," else "")
        self._sink(closer)

    def _key(self) -> Reading[str]:
        source = self._source
        if (yield from source.take(self._quote)):
            key, _ = yield from source.until(self._quote, limit=MAX_KEY_CHARS)
        else:
            key = yield from source.match(_KEY, limit=MAX_KEY_CHARS)
        yield from source.space()
        yield from source.expect(":")
        yield from source.space()
        if not key:
            raise Broken("no key")
        self._sink(f"{written(key)}:")
        return key

    def _value(self, key: str, word: Word, depth: int) -> Reading[None]:
        source = self._source
        opened = yield from source.take(self._quote, *_CLOSERS)
        if opened == self._quote:
            yield from self._string()
        elif opened:
            yield from self.listed(opened, _word, depth + 1)
        elif (yield from source.at('"')):
            yield from json_string(source, self._sink)
        else:
            text = yield from source.match(_WORD, limit=_MAX_WORD_CHARS)
            if not text.strip():
                raise Broken("no value")
            self._sink(word(key, text.strip()))

    def _string(self) -> Reading[None]:
        self._sink('"')
        while True:
            text, quote = yield from self._source.run(self._quote)
            self._sink('"' if quote else written(text)[1:-1])
            if quote:
                return


def _word(_: str, text: str) -> str:
    try:
        return written(parsed(text))
    except ValueError:
        return written(text)


def _reader(quote: str, closer: str) -> Callable[[Source], Reading[None]]:
    def call(source: Source) -> Reading[None]:
        source.claim()
        tool = source.begin((yield from source.name()))

        def word(key: str, text: str) -> str:
            try:
                return written(parsed(text))
            except ValueError:
                return written(typed(text, tool, key))

        yield from source.space()
        yield from source.expect("{")
        yield from _Values(source, quote, source.arguments).listed("{", word)
        source.end()

    def read(source: Source) -> Reading[None]:
        yield from calls(source, call, CALL, closer)

    return read


def _dialect(name: str, opener: str, closer: str, quote: str) -> Dialect:
    return Dialect(name, _reader(quote, closer), openers=(opener,), markers=(opener, closer, quote))


FUNCTION_GEMMA: Final = _dialect("function_gemma", "<start_function_call>", "<end_function_call>", "<escape>")
GEMMA4: Final = _dialect("gemma4", "<|tool_call>", "<tool_call|>", '<|"|>')
