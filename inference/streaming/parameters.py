"""Arguments that are written one by one, made into the JSON text of one object while they come.

Strings are passed on as they come; a value that may be of another type waits for its end, where the tool's schema
says which it is.
"""

from __future__ import annotations

from collections.abc import Callable

from inference.messages import Tool
from inference.streaming.call_values import is_text, parsed, typed, written
from inference.streaming.json_text import Sink
from inference.streaming.reading import Broken, Reading, Source


class Parameters:
    """The arguments of one call. `trim`: one line feed right behind a value's opening and one at its end are markup."""

    __slots__ = ("_empty", "_source", "_tool", "_trim")

    def __init__(self, source: Source, tool: Tool, *, trim: bool = False) -> None:
        self._source, self._tool, self._trim = source, tool, trim
        self._empty = True

    def add(self, key: str, json: str) -> None:
        """A whole argument as JSON text."""
        self._key(key)
        self._source.arguments(json)

    def add_text(self, key: str, text: str) -> None:
        """A whole argument as text, typed by the schema."""
        try:
            self.add(key, written(typed(text, self._tool, key)))
        except ValueError:
            raise Broken("a value that JSON cannot hold") from None

    def read(self, key: str, read: Callable[[Sink], Reading[None]]) -> Reading[None]:
        """An argument whose text `read` passes on: as it comes where it is text whatever it says, else typed."""
        if is_text(self._tool, key):
            yield from self.read_text(key, read)
            return
        text = yield from _held(read)
        self.add_text(key, text.removeprefix("\n").removesuffix("\n") if self._trim else text)

    def read_json(self, key: str, read: Callable[[Sink], Reading[None]]) -> Reading[None]:
        """An argument that the model calls JSON; text that is none is typed by the schema."""
        text = yield from _held(read)
        try:
            self.add(key, written(parsed(text)))
        except ValueError:
            self.add_text(key, text)

    def read_text(self, key: str, read: Callable[[Sink], Reading[None]]) -> Reading[None]:
        """An argument that is a string whatever the schema says, as it comes."""
        self._key(key)
        self._source.arguments('"')
        fresh, feed = self._trim, ""

        def say(piece: str) -> None:
            nonlocal fresh, feed
            if fresh and piece:
                piece, fresh = piece.removeprefix("\n"), False
            piece = feed + piece
            feed = "\n" if self._trim and piece.endswith("\n") else ""
            self._source.arguments(written(piece[: len(piece) - len(feed)])[1:-1])

        yield from read(say)
        self._source.arguments('"')

    def end(self) -> None:
        """Closes the object."""
        self._source.arguments("{}" if self._empty else "}")

    def _key(self, key: str) -> None:
        self._source.arguments(f"{'{' if self._empty else ', '}{written(key)}: ")
        self._empty = False


def _held(read: Callable[[Sink], Reading[None]]) -> Reading[str]:
    """What `read` passes on, in one piece."""
    held: list[str] = []
    yield from read(held.append)
    return "".join(held)
