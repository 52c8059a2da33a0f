"""Laws of looking a piece at a time: it finds what `str` finds, and no step is longer than it may be."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.conversation import patient_search
from inference.conversation.patient_search import Searched, as_json

few = st.text("ab", max_size=40)
wanted = st.one_of(st.text("ab", max_size=9), st.integers(0, 12).map(lambda count: "a" * count + "b"))
places = st.one_of(st.none(), st.integers(0, 45))


@given(few, wanted, st.integers(0, 45), places, st.integers(1, 5), st.integers(0, 3), st.integers(1, 5))
def test_it_finds_what_str_finds(
    text: str, one: str, start: int, stop: int | None, window_chars: int, tries: int, head_chars: int
) -> None:
    searched = Searched(text, window_chars=window_chars)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patient_search, "MAX_TRIES", tries)
        patch.setattr(patient_search, "HEAD_CHARS", head_chars)
        assert searched.find(one, start, stop) == text.find(one, start, stop)
        for times in range(1, 5):
            assert searched.holds(one, times, start, stop) == (text.count(one, start, stop) >= times or not one)


@given(st.text(max_size=30), st.booleans(), st.integers(1, 4))
def test_json_in_pieces_is_json(text: str, ascii_only: bool, window_chars: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patient_search, "WINDOW_CHARS", window_chars)
        assert as_json(text, ascii_only=ascii_only) == json.dumps(text, ensure_ascii=ascii_only)[1:-1]


@pytest.mark.parametrize("one", ["b", "b" + "a" * 500, "b" + "a" * 2500])
def test_others_have_their_turn_at_each_window(one: str) -> None:
    pauses = []
    text = "a" * 100_000
    assert Searched(text, lambda: pauses.append(1), 1000).find(one) == -1
    assert len(pauses) >= 95
