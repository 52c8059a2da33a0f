"""What a hostile text costs: everything that looks for volatile text is linear in it."""

from __future__ import annotations

import time

import pytest

from inference.conversation.volatile import RULES

WORDS = ("AM", "TZ", "Mon", "UTC", "12:00", "Europe/Zurich", "at", "May,")


@pytest.mark.parametrize("word", WORDS)
def test_a_line_of_nearly_right_words_is_read_at_once(word: str) -> None:
    """Each of them may be one word in several ways; all of these together would be tried."""
    line = f"Current time: 1:00 {f'{word} ' * 40}!"
    began_s = time.perf_counter()
    assert not [found for rule in RULES for found in rule.matcher(line)]
    assert time.perf_counter() - began_s < 1


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("end", ["", "."])
def test_a_line_of_right_words_is_found(word: str, end: str) -> None:
    (rule,) = (rule for rule in RULES if rule.name == "current_time")
    assert rule.covers(f"Current time: 1:00 {word} {word}{end}")
