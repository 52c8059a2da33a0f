"""What one answer consists of: the ids that were drawn, and what the client was told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.events import Channel, Delta, Event, ToolCallDelta
from inference.messages import ToolCall
from inference.tokens import TokenIds


@dataclass(frozen=True, slots=True)
class Spoken:
    """A finished answer. `ids` lack the one that ended it; the rest is what the client got, to the letter."""

    ids: TokenIds
    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]


class Transcript:
    """Written along with one answer."""

    __slots__ = ("_calls", "_ids", "_said")

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._said: dict[Channel, list[str]] = {Channel.CONTENT: [], Channel.REASONING: []}
        self._calls: list[tuple[str, str, list[str]]] = []  # id, name, pieces of the arguments

    def drew(self, tokens: Sequence[int]) -> None:
        self._ids += tokens

    def told(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Delta(text=text, channel=channel):
                    self._said[channel].append(text)
                case ToolCallDelta(index=index):
                    if index == len(self._calls):
                        self._calls.append((event.id, event.name, []))
                    self._calls[index][2].append(event.arguments)

    def spoken(self) -> Spoken:
        text, reasoning = ("".join(self._said[channel]) for channel in (Channel.CONTENT, Channel.REASONING))
        calls = (ToolCall(id_, name, "".join(arguments)) for id_, name, arguments in self._calls)
        return Spoken(tuple(self._ids), text, reasoning, tuple(calls))
