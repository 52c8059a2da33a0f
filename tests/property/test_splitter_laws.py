"""Laws of the splitter, held against a regular expression over the whole text."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from itertools import chain, cycle, groupby, pairwise

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from inference.events import Channel
from inference.streaming import splitter as room
from inference.streaming.splitter import Piece, ReasoningMode, Splitter

MARKERS = [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<<t>", "</<t>"), ("aab", "ba")]
AUTO, PREFILLED = ReasoningMode.AUTO, ReasoningMode.PREFILLED
Case = tuple[str, tuple[str, str], ReasoningMode]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A text of markers, beginnings of markers, line feeds and letters, so that near misses are common."""
    markers = draw(st.sampled_from(MARKERS))
    parts = [*markers * 3, *(marker[:size] for marker in markers for size in range(1, len(marker))), *"\n\n\nx< "]
    text = "".join(draw(st.lists(st.sampled_from(parts), max_size=14)))
    return text, markers, draw(st.sampled_from([AUTO, PREFILLED]))


def runs(pieces: Iterable[Piece]) -> list[Piece]:
    spoken = (piece for piece in pieces if piece[1])
    return [(channel, "".join(text for _, text in run)) for channel, run in groupby(spoken, key=lambda piece: piece[0])]


def whole(case: Case) -> list[Piece]:
    """The definition. An answer that begins mid-thought is one whose opener stands in the prompt."""
    text, markers, mode = case
    opener, closer = map(re.escape, markers)
    thought = rf"(?:\A\n*)?{opener}(?:\n|{opener})*(.*?)(?:\n*{closer}\n*|\Z)"
    parts = re.split(thought, markers[0] * (mode is PREFILLED) + text, flags=re.DOTALL)
    return runs(zip(cycle([Channel.CONTENT, Channel.REASONING]), parts, strict=False))


def split(case: Case, pieces: Iterable[str]) -> list[Piece]:
    _, markers, mode = case
    machine = Splitter(*markers, mode)
    said = list(chain.from_iterable(map(machine.push, pieces)))
    return runs([*said, *machine.finish()])


def cut(text: str, cuts: Iterable[int]) -> list[str]:
    places = sorted({0, len(text), *(place % (len(text) + 1) for place in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


def the_cuts_do_not_matter(case: Case, cuts: list[int]) -> None:
    wanted = whole(case)
    assert split(case, cut(case[0], cuts)) == wanted
    assert split(case, case[0]) == wanted  # at every character


cut_cases = given(cases(), st.lists(st.integers(0, 90), max_size=12))
test_the_cuts_do_not_matter = settings(max_examples=500, deadline=None)(cut_cases(the_cuts_do_not_matter))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_nothing_waits_but_the_beginning_of_a_marker_and_its_line_feeds(case: Case) -> None:
    text, markers, mode = case
    for end in range(len(text) + 1):
        machine = Splitter(*markers, mode)
        machine.push(text[:end])
        waiting = "".join(piece for _, piece in machine.finish())
        begun = waiting.lstrip("\n")
        assert any(marker.startswith(begun) and marker != begun for marker in markers)
        if not machine.thinking and waiting != begun:
            assert text[:end] == waiting  # in content only the line feeds that begin the answer


@pytest.mark.parametrize("markers", MARKERS)
def test_ten_thousand_random_cuts_give_one_answer(markers: tuple[str, str]) -> None:
    opener, closer = markers
    first = f"\n{opener}\nwhy {opener[:2]}\n\nnot\n{closer}\n\nso {opener[:-1]}"
    text = f"{first}\n{opener}x{closer}{closer}y\n{opener}\n\nz"
    case = (text, markers, AUTO)
    wanted = whole(case)
    draw = random.Random(7)
    for _ in range(10_000):
        assert split(case, cut(text, draw.choices(range(len(text)), k=draw.randrange(12)))) == wanted


FAULTS = {
    "holds_nothing": ("_open_chars", lambda self, text: 0),
    "forgets_repeated_openers": ("_behind_marker", lambda self, text: text.lstrip("\n")),
    "keeps_line_feeds": ("_behind_marker", lambda self, text: text),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_laws_catch_planted_faults(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.Splitter, *FAULTS[fault])
    unshrunk = settings(max_examples=500, deadline=None, phases=[Phase.generate], database=None)
    with pytest.raises((AssertionError, ExceptionGroup)):
        unshrunk(cut_cases(the_cuts_do_not_matter))()
