"""Answers read by the machine and added up as a client does, in whatever pieces they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

from inference.events import Channel
from inference.messages import Tool
from inference.streaming.answer_reader import AnswerReader
from inference.streaming.dialects.table import ALWAYS, DIALECTS
from inference.streaming.pieces import AnswerMachine, Piece, Said
from inference.streaming.reading import Arguments, Begun, Ended
from inference.streaming.splitter import ReasoningMode, Splitter


@dataclass(frozen=True, slots=True)
class Call:
    """A call as a client adds it up. `whole` as the machine tells it."""

    name: str
    arguments: str
    raw: str
    whole: bool = True


Text = tuple[Channel, str]
Sum = list[Text | Call]


def machine(
    tools: Sequence[Tool],
    dialects: Sequence[str] = ALWAYS,
    mode: ReasoningMode = ReasoningMode.OFF,
    markers: tuple[str, str] = ("<think>", "</think>"),
) -> AnswerReader:
    return AnswerReader(Splitter(*markers, mode), [DIALECTS[name] for name in dialects], tools)


def pushed(reader: AnswerMachine, pieces: Iterable[str]) -> list[Piece]:
    said = [piece for text in pieces for piece in reader.push(text)]
    return [*said, *reader.finish()]


def added(pieces: Iterable[Piece]) -> Sum:
    """The sum of a stream, which must be in order: of one call after the other first its name, at last its end."""
    total: Sum = []
    call: SimpleNamespace | None = None
    for piece in pieces:
        match piece:
            case Said(channel, text):
                assert text and call is None
                if total and isinstance(last := total[-1], tuple) and last[0] is channel:
                    total[-1] = (channel, last[1] + text)
                else:
                    total.append((channel, text))
            case Begun(name):
                assert call is None
                call = SimpleNamespace(name=name, arguments="")
            case Arguments(json):
                assert json and call is not None
                call.arguments += json
            case Ended(raw, whole):
                assert call is not None
                total.append(Call(call.name, call.arguments, raw, whole))
                call = None
    assert call is None
    return total


def content(total: Sum) -> list[str | Call]:
    """The same of an answer without thoughts."""
    assert all(isinstance(one, Call) or one[0] is Channel.CONTENT for one in total)
    return [one if isinstance(one, Call) else one[1] for one in total]


def cut(text: str, cuts: Iterable[int]) -> list[str]:
    places = sorted({0, len(text), *(place % (len(text) + 1) for place in cuts)})
    return [text[start:end] for start, end in pairwise(places)]
