"""Stop strings: what is shown, what is held back, and what it costs."""

from __future__ import annotations

import time

import pytest

from inference.streaming.stop import StopMatcher


def run(strings: tuple[str, ...], *pieces: str) -> tuple[list[str], bool]:
    matcher = StopMatcher(strings)
    shown = [matcher.push(piece)[0] for piece in pieces]
    return [*shown, matcher.finish()], matcher.stopped


def test_without_stop_strings_text_passes_at_once() -> None:
    assert run((), "abc", "", "d") == (["abc", "", "d", ""], False)


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    assert run(("END",), "xE", "N", "x", "E") == (["x", "", "ENx", "", "E"], False)


def test_the_answer_ends_before_the_stop_string_and_nothing_comes_after() -> None:
    assert run(("END",), "ab E", "ND cd", "more") == (["ab ", "", "", ""], True)


@pytest.mark.parametrize(
    ("strings", "text", "shown"),
    [
        (("abcX", "b"), "abcX", "a"),  # complete first wins, though the other began earlier
        (("c", "abc"), "zabc", "z"),  # of two that end together, the longest
        (("ab", "abcd"), "abcd", ""),
        (("aab",), "aaab", "a"),  # a failure link inside one string
        (("\n\nHuman:", "\n"), "hi\n\nHuman:", "hi"),
        (("é🙂",), "xé🙂y", "x"),
    ],
)
def test_which_match_wins(strings: tuple[str, ...], text: str, shown: str) -> None:
    assert "".join(run(strings, text)[0]) == "".join(run(strings, *text)[0]) == shown


def test_an_empty_stop_string_is_an_error() -> None:
    with pytest.raises(ValueError):
        StopMatcher(("a", ""))


def test_a_token_costs_microseconds() -> None:
    matcher = StopMatcher(("\n\nUser:", "<|im_end|>", "Observation:", "```\n"))
    pieces = ["The", " quick", " brown", " fox\n", "\n", " jumps <|", "im"] * 3000
    began_s = time.thread_time()
    for piece in pieces:
        matcher.push(piece)
    each_us = (time.thread_time() - began_s) / len(pieces) * 1e6
    assert each_us < 50, each_us  # 1.1 us on the machine it was written on
