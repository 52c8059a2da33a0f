"""Laws of every dialect: any cut gives what the whole text means, broken calls raise nothing, and no text is lost."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest

from inference.streaming.dialects.table import DIALECTS
from inference.streaming.pieces import Piece, Said
from inference.streaming.reading import Arguments, Begun, Ended, Source
from tests.dialects import writers
from tests.dialects.calls import PLAIN, random_calls, word
from tests.dialects.table import WAYS, Way, parts, read

CHUNKINGS = 10_000
MUTATIONS = 500


def cut(text: str, places: Sequence[int]) -> list[str]:
    return [text[start:end] for start, end in pairwise(sorted({0, len(text), *places}))]


def random_cut(text: str, chance: random.Random) -> list[str]:
    return cut(text, [chance.randrange(len(text)) for _ in range(chance.randint(0, 6))])


def answer(way: Way, chance: random.Random) -> tuple[str, list[object]]:
    """An answer with random calls, and what it says."""
    calls = random_calls(chance, way.avoid)
    if way.nasty and calls[0][1].get("text") is not None:
        calls[0][1]["text"] = word(chance, way.avoid) + chance.choice(way.nasty) + word(chance, way.avoid)
    if way.alone:
        return way.write(calls), list(calls)
    return f"one {way.write(calls)}\ntwo", ["one ", *calls, "\ntwo"]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_is_written_is_read_whatever_the_cut(way: Way) -> None:
    chance = random.Random(way.name)
    for _ in range(60):
        text, wanted = answer(way, chance)
        assert way.oracle(text) == wanted, "the oracle"
        for pieces in ([text], list(text), random_cut(text, chance)):
            assert parts(read(pieces, [way.dialect])) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_ten_thousand_chunkings_say_the_same(way: Way) -> None:
    chance = random.Random(1)
    text = way.write(PLAIN[1])
    wanted = read([text], [way.dialect])
    assert len(wanted) == 3
    for _ in range(CHUNKINGS):
        assert read(random_cut(text, chance), [way.dialect]) == wanted


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_any_one_cut(way: Way) -> None:
    text = way.write(PLAIN[4]) + ("" if way.alone else f" and {way.write(PLAIN[3])[:-3]}")
    wanted = read([text], [way.dialect])
    for place in range(len(text)):
        assert read([text[:place], text[place:]], [way.dialect]) == wanted


# --- what is broken -------------------------------------------------------------------------------------------------


def mutated(text: str, chance: random.Random) -> str:
    """The text with one to three small faults."""
    for _ in range(chance.randint(1, 3)):
        start, size = chance.randrange(len(text)), chance.choice([1, 1, 2, 5, 20])
        piece = text[start : start + size]
        match chance.randrange(5):
            case 0:
                text = text[:start] + text[start + size :] or "x"
            case 1:
                text = text[:start] + chance.choice(['"', "{", "}", "<", ">", "\\", "|", "x", "\n", "]"]) + text[start:]
            case 2:
                text = text[:start] + piece + text[start:]
            case 3:
                text = text[:start] or "x"
            case 4:
                other = chance.randrange(len(text))
                text = text[:other] + piece + text[other:]
    return text


def check_nothing_is_lost(text: str, said: Sequence[Piece], dropped: Sequence[str]) -> None:
    """Texts and raw calls stand in the answer, in order; between them only white space and what closes a section."""
    gap = re.compile("|".join([r"\s", *map(re.escape, dropped)]))
    at = 0
    for piece in said:
        if isinstance(piece, Said | Ended):
            raw = piece.text if isinstance(piece, Said) else piece.raw
            while not text.startswith(raw, at):
                skipped = gap.match(text, at)
                assert skipped, (text[at : at + 40], raw[:40])
                at = skipped.end()
            at += len(raw)
    rest = gap.sub("", text[at:])
    assert not rest or any(one.startswith(rest) for one in dropped)  # the answer was cut off in a closer


def check_calls(said: Sequence[Piece]) -> None:
    """Each call is begun, given arguments and ended, in that order; a whole one has an object of arguments."""
    begun, given = False, ""
    for piece in said:
        match piece:
            case Begun():
                assert not begun
                begun, given = True, ""
            case Arguments(text):
                assert begun
                given += text
            case Ended(_, whole):
                assert begun
                begun = False
                assert not whole or isinstance(json.loads(given), dict)
            case Said():
                assert not begun
    assert not begun


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_mutations_raise_nothing_and_lose_nothing(way: Way) -> None:
    chance = random.Random(way.name)
    for _ in range(MUTATIONS):
        text = mutated(answer(way, chance)[0], chance)
        said = read([text], [way.dialect])
        check_nothing_is_lost(text, said, way.dropped)
        check_calls(said)
        assert read(random_cut(text, chance), [way.dialect]) == said
        check_calls(read([text], [], every=True))


@pytest.mark.parametrize("fault", ["a lost piece", "a closer in a value", "no wait for more text"])
def test_planted_faults_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self, *markers):  # type: ignore[no-untyped-def]  # forgets that a marker may be cut
        found = min((p for one in markers if (p := self._text.find(one, self._at)) >= 0), default=len(self._text))
        if found == self._at and self._at < len(self._text):
            marker = next(one for one in markers if self._text.startswith(one, self._at))
            self._at += len(marker)
            return "", marker
        while self._at == len(self._text):
            yield from self._wait()
        text, self._at = self._text[self._at : found], found
        return text, ""

    def value(self, sink, ends, breaks):  # type: ignore[no-untyped-def]  # takes the first closer there is
        text, _ = yield from self.until(*ends)
        sink(text)

    names = {"a lost piece": "longcat", "a closer in a value": "minimax_m2", "no wait for more text": "gemma4"}
    if fault == "no wait for more text":
        monkeypatch.setattr(Source, "run", run)
    elif fault == "a closer in a value":
        monkeypatch.setattr(Source, "value", value)
    else:
        monkeypatch.setattr(Source, "arguments", lambda self, json: self.found.append(Arguments(json[:40])))
    way = next(way for way in WAYS if way.name == names[fault])
    with pytest.raises((AssertionError, json.JSONDecodeError)):
        test_what_is_written_is_read_whatever_the_cut(way)


def test_every_dialect_ends_early_on_text_that_is_none() -> None:
    """Whatever its opener, prose behind it is not held to the end."""
    for dialect in DIALECTS.values():
        for opener in dialect.openers:
            said = read([f"the text {opener}", " is written in books. " * 60], [dialect.name])
            assert "".join(piece.text for piece in said if isinstance(piece, Said)).startswith(f"the text {opener} is")


@pytest.mark.slow
def test_ten_thousand_chunkings_of_nested_elements_say_the_same() -> None:
    """MiniMax M3 writes leaves without types, so it stands beside the table of dialects that are read back whole."""
    chance = random.Random(2)
    text = f"so {writers.minimax_m3(PLAIN[1])} then"
    wanted = read([text], ["minimax_m3"])
    assert sum(isinstance(piece, Ended) for piece in wanted) == len(PLAIN[1])
    for _ in range(CHUNKINGS):
        assert read(random_cut(text, chance), ["minimax_m3"]) == wanted
    for _ in range(MUTATIONS):
        broken = mutated(text, chance)
        said = read([broken], ["minimax_m3"])
        check_calls(said)
        assert read(random_cut(broken, chance), ["minimax_m3"]) == said
