"""Laws of stop strings, held against a slow reading of the whole text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from inference.streaming import stop
from inference.streaming.stop import StopMatcher

LETTERS = "ab🙂"
strings = st.lists(st.text(LETTERS, min_size=1, max_size=6), min_size=1, max_size=4).map(tuple)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """A text made of stray letters and of beginnings of the stop strings, so that near misses are common."""
    wanted = draw(strings)
    beginnings = [string[:length] for string in wanted for length in range(1, len(string) + 1)]
    pieces = draw(st.lists(st.sampled_from([*LETTERS, *beginnings]), max_size=12))
    return "".join(pieces), wanted


def whole(text: str, wanted: tuple[str, ...]) -> tuple[str, bool]:
    """The definition: the first end at which any string is complete, and there the longest."""
    for end in range(len(text) + 1):
        found = [string for string in wanted if text[:end].endswith(string)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def cut(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(place % (len(text) + 1) for place in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


def shown(pieces: list[str], wanted: tuple[str, ...]) -> tuple[str, bool]:
    matcher = StopMatcher(wanted)
    out = []
    for piece in pieces:
        text, stopped = matcher.push(piece)
        out.append(text)
        if stopped:
            break
    return "".join(out) + matcher.finish(), matcher.stopped


def the_cuts_do_not_matter(case: tuple[str, tuple[str, ...]], cuts: list[int]) -> None:
    text, wanted = case
    assert shown(cut(text, cuts), wanted) == whole(text, wanted)


cut_cases = given(cases(), st.lists(st.integers(0, 70), max_size=12))
test_the_cuts_do_not_matter = settings(max_examples=400, deadline=None)(cut_cases(the_cuts_do_not_matter))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_nothing_is_held_back_that_cannot_become_a_stop_string(case: tuple[str, tuple[str, ...]]) -> None:
    text, wanted = case
    matcher = StopMatcher(wanted)
    seen = ""
    for index, char in enumerate(text, 1):
        out, stopped = matcher.push(char)
        seen += out
        if stopped:
            return
        held = text[len(seen) : index]
        longest = max(
            length for string in wanted for length in range(len(string)) if text[:index].endswith(string[:length])
        )
        assert text[:index] == seen + held and len(held) == longest


@pytest.mark.parametrize("fault", ["no_failure_links", "no_suffix_matches", "holds_nothing"])
def test_the_laws_catch_planted_faults(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = stop.automaton

    def broken(wanted: tuple[str, ...]) -> stop.Automaton:
        made = real(wanted)
        size = len(made.edges)
        match fault:
            case "no_failure_links":
                return stop.Automaton(made.edges, (0,) * size, made.depth, made.match)
            case "no_suffix_matches":
                own = tuple(m if m == d else 0 for m, d in zip(made.match, made.depth, strict=True))
                return stop.Automaton(made.edges, made.fail, made.depth, own)
            case _:
                return stop.Automaton(made.edges, made.fail, (0,) * size, made.match)

    monkeypatch.setattr(stop, "automaton", broken)
    unshrunk = settings(max_examples=400, deadline=None, phases=[Phase.generate], database=None)
    with pytest.raises((AssertionError, ExceptionGroup)):
        unshrunk(cut_cases(the_cuts_do_not_matter))()
