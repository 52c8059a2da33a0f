"""How a reader of tool calls is written: straight down the text, as if all of it were there.

A reader is a generator. It asks its `Source` for what comes next with `yield from`; where the text so far does not
settle the question it sleeps until more comes. So no reader can depend on how the text was cut, and each character is
looked at a bounded number of times. For a made-up dialect that writes `<call NAME>{...}</call>`:

    def read(source: Source) -> Reading[None]:              # the opener `<call ` is behind it
        name, _ = yield from source.until(">", limit=MAX_NAME_CHARS)
        source.claim()                                      # from here on it is a call, or a malformed one
        source.begin(name)                                  # raises `Broken` when it was not offered
        yield from json_object(source, source.arguments)    # streams the JSON as it comes
        yield from source.space()
        yield from source.expect("</call>")
        source.end()

A reader ends by returning, with the text behind the call untouched, or by raising `Broken`. It may read several calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Final

from inference.messages import Tool
from inference.streaming.markers import any_of, open_chars

type Reading[T] = Generator[None, None, T]
"""A piece of reading that gives a T; it yields where it needs more text."""

MAX_NAME_CHARS: Final = 128
MAX_KEY_CHARS: Final = 256
_MAX_GAP_CHARS: Final = 256
_SPACE: Final = re.compile(r"\s*")
_NAME: Final = re.compile(r"""[^\s<>{}"'=()\[\]]*""")


class Broken(Exception):
    """What was read is no call of this dialect. `reason` is a few fixed words, never text of the answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Begun:
    """A call of the tool `name`; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A piece of the JSON text of the arguments. All pieces of a call together are one object."""

    json: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The call is over. `raw` is what the model wrote for it, since its opener or the call before it.

    `whole`: its arguments are complete; the others were cut off or broke, and are no JSON.
    """

    raw: str
    whole: bool = True


Found = Begun | Arguments | Ended


class Source:
    """The text behind one opener as it comes, and what a reader found in it.

    Questions wait until the text settles them. Where the text has ended they are answered by what is there; only
    `until`, `run`, `flow`, `expect` and `char` raise `Broken` then.
    """

    __slots__ = ("_at", "_past", "_start", "_text", "claimed", "ended", "found", "holding", "opener", "tools")

    def __init__(self, opener: str, tools: Mapping[str, Tool]) -> None:
        self.opener = opener
        self.tools = tools
        self.claimed = False
        self.ended = False
        self.holding = False
        self.found: list[Found] = []
        self._text = opener  # what came last; all before `_at` is read
        self._start = 0  # where in `_text` the call began, what was read of it before is `_past`
        self._at = len(opener)
        self._past: list[str] = []

    # --- for readers: the text ---------------------------------------------------------------------------------

    def peek(self, chars: int = 1) -> Reading[str]:
        """The next few characters, fewer only at the end of the text. Takes nothing."""
        while len(self._text) - self._at < chars and not self.ended:
            yield
        return self._text[self._at : self._at + chars]

    def char(self) -> Reading[str]:
        """Takes the next character."""
        while self._at == len(self._text):
            yield from self._wait()
        self._at += 1
        return self._text[self._at - 1]

    def space(self) -> Reading[str]:
        """Takes white space, all there is."""
        return (yield from self.match(_SPACE))

    def match(self, pattern: re.Pattern[str], limit: int | None = None) -> Reading[str]:
        """Takes the longest run that matches a pattern of the form `[...]*`; more than `limit` is `Broken`."""
        runs: list[str] = []
        chars = 0
        while True:
            found = pattern.match(self._text, self._at)
            if found is None:
                return "".join(runs)
            runs.append(found[0])
            self._at = found.end()
            chars += len(found[0])
            if limit is not None and chars > limit:
                self._at -= chars - limit
                raise Broken("longer than it may be")
            if self._at < len(self._text) or self.ended:
                return "".join(runs)
            yield

    def flow(self, pattern: re.Pattern[str]) -> Reading[str]:
        """`match` for what is passed on as it comes: what there is now, "" where the next character does not match."""
        while self._at == len(self._text):
            yield from self._wait()
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return found[0] if found else ""

    def name(self) -> Reading[str]:
        """Takes white space and what may be a tool's name; anything else, or too much of it, is `Broken`."""
        yield from self.space()
        name = yield from self.match(_NAME, limit=MAX_NAME_CHARS)
        if not name:
            raise Broken("no name")
        return name

    def at(self, *literals: str) -> Reading[str]:
        """Which of `literals` stands next, the longest where there are several; "" for none. Takes nothing."""
        while True:
            here = [one for one in literals if self._text.startswith(one, self._at)]
            best = max(here, key=len, default="")
            rest = len(self._text) - self._at
            if self.ended or not any(
                len(best) < len(one) and rest < len(one) and one.startswith(self._text[self._at :]) for one in literals
            ):
                return best
            yield

    def take(self, *literals: str) -> Reading[str]:
        """`at`, and takes it."""
        found = yield from self.at(*literals)
        self._at += len(found)
        return found

    def expect(self, *literals: str) -> Reading[str]:
        """`take`, where nothing else may stand."""
        found = yield from self.take(*literals)
        if not found:
            raise Broken("cut off" if self.ended and self._at == len(self._text) else "not what the dialect wants")
        return found

    def close(self, *closers: str) -> Reading[str]:
        """Takes white space and one of `closers` if both come, "" and nothing if not.

        For what closes a call that is complete already: a model that forgets it has called all the same. At the end of
        the text the beginning of a closer is enough.
        """
        while True:
            space = _SPACE.match(self._text, self._at)
            behind = space.end() if space else self._at
            rest = self._text[behind:]
            for closer in closers:
                if rest.startswith(closer) or (self.ended and rest and closer.startswith(rest)):
                    self._at = min(behind + len(closer), len(self._text))
                    return closer
            if (
                self.ended
                or behind - self._at > _MAX_GAP_CHARS
                or not any(closer.startswith(rest) for closer in closers)
            ):
                return ""
            yield

    def run(self, *markers: str) -> Reading[tuple[str, str]]:
        """Takes text that is certainly before any marker, as much as there is now, or else the marker, one of both.

        For values that are passed on as they come. No marker may be the beginning of another.
        """
        while True:
            found = any_of(markers).search(self._text, self._at)
            if found is not None and found.start() == self._at:
                self._at = found.end()
                return "", found[0]
            end = found.start() if found is not None else len(self._text) - open_chars(self._text, markers, self._at)
            if end > self._at:
                text = self._text[self._at : end]
                self._at = end
                return text, ""
            yield from self._wait()

    def until(self, *markers: str, limit: int | None = None) -> Reading[tuple[str, str]]:
        """Takes the text before the next marker and the marker; more than `limit` characters are `Broken`."""
        parts: list[str] = []
        chars = 0
        while True:
            text, marker = yield from self.run(*markers)
            if marker:
                return "".join(parts), marker
            parts.append(text)
            chars += len(text)
            if limit is not None and chars > limit:
                self._at -= chars - limit
                raise Broken("longer than it may be")

    def value(
        self, sink: Callable[[str], None], ends: Mapping[str, tuple[str, ...]], breaks: Mapping[str, tuple[str, ...]]
    ) -> Reading[None]:
        """Passes a value's text on up to one of `ends` (taken), which counts only before one of its followers.

        Between a marker and its follower white space may stand; it is taken. Without its follower a marker is text.
        A marker of `breaks` before one of its followers is `Broken`. An empty follower is the end of the text.
        """
        while True:
            text, marker = yield from self.run(*ends, *breaks)
            if text:
                sink(text)
                continue
            space = yield from self.space()
            if (yield from self._followed(ends.get(marker, ()))):
                return
            if (yield from self._followed(breaks.get(marker, ()))):
                raise Broken("a closing tag is missing")
            sink(marker + space)

    def _followed(self, followers: tuple[str, ...]) -> Reading[bool]:
        if (yield from self.at(*followers)):
            return True
        return "" in followers and not (yield from self.peek())

    def _wait(self) -> Reading[None]:
        if self.ended:
            raise Broken("cut off")
        yield

    # --- for readers: what it says ------------------------------------------------------------------------------

    def claim(self) -> None:
        """This began like a call: when it breaks before its end it is counted as malformed."""
        self.claimed = True

    def hold(self) -> None:
        """Nothing that is found is certain before the reader returns: shows it only then."""
        self.holding = True

    def tool(self, name: str) -> Tool:
        """The tool of that name. Raises `Broken` when it was not offered."""
        tool = self.tools.get(name.strip())
        if tool is None:
            raise Broken("a tool that was not offered")
        return tool

    def begin(self, name: str) -> Tool:
        """A call of `name`, whose arguments come now. Raises `Broken` when it was not offered."""
        tool = self.tool(name)
        self.claimed = True
        self.found.append(Begun(tool.name))
        return tool

    def arguments(self, json: str) -> None:
        """The next piece of the JSON text of the call's arguments; certain, it is not taken back."""
        if json:
            self.found.append(Arguments(json))

    def end(self) -> None:
        """The call is complete. What was read since the call before it is its raw text."""
        self.claimed = False
        self.found.append(Ended("".join(self._past) + self._text[self._start : self._at]))
        self._past.clear()
        self._start = self._at

    # --- for the machine ----------------------------------------------------------------------------------------

    def push(self, text: str) -> None:
        self._past.append(self._text[self._start : self._at])
        self._text = self._text[self._at :] + text
        self._start = self._at = 0

    @property
    def read(self) -> str:
        """What was read since the last call that is complete."""
        return "".join(self._past) + self._text[self._start : self._at]

    @property
    def unread(self) -> str:
        return self._text[self._at :]
