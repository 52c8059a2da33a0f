"""One attempt to read calls in one dialect: the text goes in as it comes, what was found comes out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from inference.messages import Tool
from inference.streaming.dialect import Dialect
from inference.streaming.reading import Broken, Ended, Found, Source


class State(Enum):
    """READ: the calls are complete, `rest` follows. BROKEN: it is no call of this dialect, or not to its end."""

    READING = "reading"
    READ = "read"
    BROKEN = "broken"


class Attempt:
    """Drives a dialect's reader. `state` tells how far it came, `reason` why it broke, `calls` how many are out."""

    __slots__ = ("_reader", "_source", "calls", "dialect", "reason", "state")

    def __init__(self, dialect: Dialect, opener: str, tools: Mapping[str, Tool]) -> None:
        self.dialect = dialect
        self.state = State.READING
        self.reason = ""
        self.calls = 0
        self._source = Source(opener, tools)
        self._reader = dialect.read(self._source)

    def push(self, text: str) -> list[Found]:
        """What is found now. Only while it is reading."""
        self._source.push(text)
        return self._resume()

    def finish(self) -> list[Found]:
        """The text has ended; after this it is read or broken."""
        self._source.ended = True
        found = self._resume()
        if self.state is State.READING:
            raise RuntimeError(f"the reader of {self.dialect.name} waits behind the end of the text")
        return found

    @property
    def opener(self) -> str:
        return self._source.opener

    @property
    def claimed(self) -> bool:
        """What was read since the last call began like a call of this dialect."""
        return self._source.claimed

    @property
    def read(self) -> str:
        """What was read since the last call that is out, the opener with it if there was none."""
        held = (one.raw for one in self._source.found if isinstance(one, Ended))
        return "".join(held) + self._source.read

    @property
    def rest(self) -> str:
        """The text that was not read."""
        return self._source.unread

    def _resume(self) -> list[Found]:
        try:
            next(self._reader)
        except StopIteration:
            self.state = State.READ
        except Broken as broken:
            self.state, self.reason = State.BROKEN, broken.reason
        if self._source.holding and self.state is not State.READ:
            return []
        found, self._source.found = self._source.found, []
        self.calls += sum(isinstance(one, Ended) for one in found)
        return found
