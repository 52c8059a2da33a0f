"""Answers that are made of messages, each with a header that says what it is.

    <|channel|>analysis<|message|>THOUGHT<|end|><|start|>assistant<|channel|>final<|message|>TEXT<|return|>     harmony
    to=self<|message|>THOUGHT<|eom|><|start|>assistant to=user<|message|>TEXT<|eot|>                         Muse Spark
    <|open|>think<|sep|>THOUGHT<|close|>think<|sep|><|open|>response<|sep|>TEXT<|close|>response<|sep|>        Kimi K3

- Headers and markers are markup. A line feed parts two messages of one channel.
- A message to a recipient that is no call (those are read before the text comes here) is content, its markers too.
- Text where a header should stand is content: the prompt may have ended in the middle of a message.
- A message ends at its marker, or where the next one starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from inference.events import Channel
from inference.streaming.markers import any_of, open_chars
from inference.streaming.splitter import Piece

MAX_HEADER_CHARS: Final = 512
MAX_GAP_CHARS: Final = 256
_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT: Final = re.compile(r"\bto=([^\s<]+)")


@dataclass(frozen=True, slots=True)
class MessageFormat:
    """`headers` are texts that a header can begin with, the first of them also ends the message before it.

    `channel` gives what a header announces; None: the message is to be shown as it is. The model's turn is over behind
    `last`: what came then would be the result of a call, invented.
    """

    headers: tuple[str, ...]
    body: str
    ends: tuple[str, ...]
    channel: Callable[[str], Channel | None]
    last: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        """All texts that are markup, which may be special tokens."""
        return (*self.headers, self.body, *self.ends)


def recipient(header: str) -> str:
    """Whom a header addresses, "" for nobody in particular."""
    found = _RECIPIENT.search(header)
    return found[1] if found else ""


def _harmony_channel(header: str) -> Channel | None:
    if recipient(header):
        return None
    found = _CHANNEL.search(header)
    return Channel.REASONING if found is not None and found[1] == "analysis" else Channel.CONTENT


def _kimi_channel(header: str) -> Channel:
    return Channel.REASONING if header.removeprefix("<|open|>").strip() == "think" else Channel.CONTENT


def _muse_channel(header: str) -> Channel:
    return Channel.REASONING if recipient(header) == "self" else Channel.CONTENT


HARMONY: Final = MessageFormat(
    ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"),
    "<|message|>",
    ("<|end|>", "<|return|>", "<|call|>"),
    _harmony_channel,
    last=("<|return|>", "<|call|>"),
)
KIMI_K3: Final = MessageFormat(
    ("<|open|>",),
    "<|sep|>",
    tuple(f"<|close|>{name}<|sep|>" for name in ("think", "response", "message")),
    _kimi_channel,
)
MUSE_SPARK: Final = MessageFormat(("<|start|>", "to="), "<|message|>", ("<|eom|>", "<|eot|>"), _muse_channel)


class _Place(Enum):
    BETWEEN = "between"
    HEADER = "header"
    BODY = "body"
    TO_THE_LETTER = "to the letter"


class ChannelSplitter:
    """Splits one answer (`TextSplitter`). `thinking`: what comes before any header is one."""

    __slots__ = (
        "_begun", "_ends", "_format", "_held", "_parted", "_pieces", "_place", "_said", "_unannounced", "channel",
    )  # fmt: skip

    def __init__(self, format_: MessageFormat, *, thinking: bool = False) -> None:
        self.channel = Channel.CONTENT
        self._format = format_
        self._ends = (*format_.ends, format_.headers[0])
        self._place = _Place.BETWEEN
        self._held = ""  # white space between messages, a header, or the beginning of a marker
        self._begun = False  # there was a header
        self._said: set[Channel] = set()
        self._parted = True  # nothing is to be put before the next text
        self._pieces: list[Piece] = []
        self._unannounced = Channel.REASONING if thinking else Channel.CONTENT

    @property
    def thinking(self) -> bool:
        channel = self.channel if self._place is _Place.BODY else self._unannounced
        return self._place in (_Place.BODY, _Place.BETWEEN) and channel is Channel.REASONING

    @property
    def holds(self) -> bool:
        """The text so far ends in what may be the beginning of a marker."""
        return bool(self._held.strip())

    @property
    def marker_ends(self) -> re.Pattern[str]:
        """The characters that the markers end with."""
        return re.compile("[>=]")

    def push(self, text: str) -> tuple[Piece, ...]:
        """What is certain now, in order; no piece is empty."""
        text, self._held = self._held + text, ""
        while text:
            match self._place:
                case _Place.BETWEEN:
                    text = self._between(text)
                case _Place.HEADER:
                    text = self._header(text)
                case _:
                    text = self._body(text)
        return self._taken()

    def finish(self) -> tuple[Piece, ...]:
        """What was held back. Of a header that was cut off nothing is shown."""
        held, self._held = self._held, ""
        if self._place is _Place.HEADER:
            self._place = _Place.BETWEEN
        elif self._place is not _Place.BETWEEN or not self._begun:
            self._say(held)
        return self._taken()

    def pass_by(self) -> tuple[Piece, ...]:
        """A call stands here: what was held back is said."""
        return self.finish()

    def _between(self, text: str) -> str:
        """Deals with the next thing between messages; the text behind it."""
        bare = text.lstrip()
        if not self._begun and len(text) - len(bare) > MAX_GAP_CHARS:
            self._open(self._unannounced)
            return text
        if any(bare.startswith(one) for one in self._format.headers):
            self._place, self._begun, self._unannounced = _Place.HEADER, True, Channel.CONTENT
            return bare
        end = next((one for one in self._format.ends if bare.startswith(one)), "")
        if end:
            self._unannounced = Channel.CONTENT
            return bare[len(end) :]
        if any(one.startswith(bare) for one in (*self._format.headers, *self._format.ends)):
            self._held = bare if self._begun else text  # also where there is nothing but white space
            return ""
        self._open(self._unannounced)
        return bare if self._begun else text

    def _header(self, text: str) -> str:
        head, found, rest = text.partition(self._format.body)
        if len(head) > MAX_HEADER_CHARS or any(one in head for one in self._format.ends):
            self._open(Channel.CONTENT)
            return self._spoken(text)
        if not found:
            self._held = text
            return ""
        channel = self._format.channel(head)
        self._open(channel or Channel.CONTENT)
        if channel is None:
            self._place = _Place.TO_THE_LETTER
            self._say(head + found)
        return rest

    def _spoken(self, text: str) -> str:
        """Shows what began like a header and is none; the text behind it."""
        first = next(one for one in self._format.headers if text.startswith(one))
        self._say(first)
        return text[len(first) :]

    def _body(self, text: str) -> str:
        found = any_of(self._ends).search(text)
        if found is None:
            shown = len(text) - open_chars(text, self._ends)
            self._say(text[:shown])
            self._held = text[shown:]
            return ""
        self._say(text[: found.start()])
        starts = found[0] == self._format.headers[0]
        if self._place is _Place.TO_THE_LETTER and not starts:
            self._say(found[0])
        self._place, self._unannounced = _Place.BETWEEN, Channel.CONTENT
        return text[found.start() if starts else found.end() :]

    def _open(self, channel: Channel) -> None:
        self._place, self.channel = _Place.BODY, channel
        self._parted = channel not in self._said

    def _say(self, text: str) -> None:
        if not text:
            return
        if not self._parted:
            text = f"\n{text}"
        self._parted = True
        self._said.add(self.channel)
        self._pieces.append((self.channel, text))

    def _taken(self) -> tuple[Piece, ...]:
        pieces, self._pieces = self._pieces, []
        return tuple(pieces)
