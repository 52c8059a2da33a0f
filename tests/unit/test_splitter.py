"""Reasoning and content: which text goes where, what is held back, and what it costs."""

from __future__ import annotations

import time

import pytest

from inference.events import Channel
from inference.streaming.splitter import Piece, ReasoningMode, Splitter


def split(*pieces: str, mode: str = "auto", markers: tuple[str, str] = ("<think>", "</think>")) -> list[str]:
    """The answer as clients add it up; reasoning is marked with a `~`."""
    splitter = Splitter(*markers, ReasoningMode(mode))
    said = [piece for text in pieces for piece in splitter.push(text)]
    runs: list[Piece] = []
    for channel, text in (*said, *splitter.finish()):
        assert text
        if runs and runs[-1][0] is channel:
            text = runs.pop()[1] + text
        runs.append((channel, text))
    return [("~" if channel is Channel.REASONING else "") + text for channel, text in runs]


ROWS = [
    ("plain text", ["plain text"]),
    ("<think>why</think>so", ["~why", "so"]),
    ("<think>\n\nwhy\nnot\n</think>\n\nso\n", ["~why\nnot", "so\n"]),
    ("\n<think>why</think>so", ["~why", "so"]),
    ("\n\nso", ["\n\nso"]),
    ("\n\n", ["\n\n"]),
    ("", []),
    ("<think>\n\n</think>\n\nso", ["so"]),
    ("<think>a</think>\nb\n<think>c</think>\nd", ["~a", "b\n", "~c", "d"]),
    ("<think>a</think>\n<think>b</think>c", ["~ab", "c"]),
    ("<think>never\nclosed\n", ["~never\nclosed\n"]),
    ("<think>cut </thi", ["~cut </thi"]),
    ("cut <thi", ["cut <thi"]),
    ("an orphan</think>\nstays", ["an orphan</think>\nstays"]),
    ("<think>\n<think>twice</think>so", ["~twice", "so"]),
    ("<think>a <think> b</think>c", ["~a <think> b", "c"]),
    ("```\n<think>x</think>\n```", ["```\n", "~x", "```"]),
    ("a < b <<think>c</think>d", ["a < b <", "~c", "d"]),
    ("<think> a </think> b", ["~ a ", " b"]),
]
PREFILLED_ROWS = [
    ("why</think>so", ["~why", "so"]),
    ("\nwhy\n</think>\n\nso", ["~why", "so"]),
    ("<think>\nwhy</think>so", ["~why", "so"]),
    ("</think>so", ["so"]),
    ("no end\n", ["~no end\n"]),
    ("a</think>b<think>c</think>d", ["~a", "b", "~c", "d"]),
]


@pytest.mark.parametrize(("text", "runs"), ROWS)
def test_an_answer_that_begins_outside_of_a_thought(text: str, runs: list[str]) -> None:
    assert split(text) == split(*text) == runs


@pytest.mark.parametrize(("text", "runs"), PREFILLED_ROWS)
def test_an_answer_that_begins_mid_thought(text: str, runs: list[str]) -> None:
    assert split(text, mode="prefilled") == split(*text, mode="prefilled") == runs


@pytest.mark.parametrize("text", [text for text, _ in (*ROWS, *PREFILLED_ROWS)])
def test_off_leaves_every_character_where_it_is(text: str) -> None:
    assert "".join(split(*text, mode="off")) == text


@pytest.mark.parametrize("marker", ["<think>", "</think>"])
def test_a_marker_may_be_cut_at_any_place(marker: str) -> None:
    text = "<think>why</think>so"
    start = text.index(marker)
    for cut in range(start, start + len(marker) + 1):
        assert split(text[:cut], text[cut:]) == ["~why", "so"]


def test_only_what_may_become_a_marker_is_held_back() -> None:
    splitter = Splitter()
    content, reasoning = Channel.CONTENT, Channel.REASONING
    texts = ("a<", "b\n", "<thin", "k>", "\n", "why", "\n", "?\n", "</", "think>", "so")
    assert [splitter.push(text) for text in texts] == [
        ((content, "a"),),
        ((content, "<b\n"),),  # line feeds of the content do not wait
        (),
        (),
        (),
        ((reasoning, "why"),),
        (),
        ((reasoning, "\n?"),),
        (),
        (),
        ((content, "so"),),
    ]


def test_thinking_tells_where_the_text_stands() -> None:
    splitter = Splitter()
    assert [(splitter.push(text), splitter.thinking)[1] for text in ("a", "<think>", "b", "</think>", "c")] == [
        False, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("markers", [("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"), ("aab", "ba")])
def test_other_markers(markers: tuple[str, str]) -> None:
    opener, closer = markers
    text = f"x{opener[0]}{opener}why{closer}so"
    assert split(text, markers=markers) == split(*text, markers=markers) == [f"x{opener[0]}", "~why", "so"]


@pytest.mark.parametrize("markers", [("", "</t>"), ("<t>", ""), ("<t>", "<t>"), ("<t>", "<<t>")])
def test_markers_that_cannot_be_told_apart_are_an_error(markers: tuple[str, str]) -> None:
    with pytest.raises(ValueError):
        Splitter(*markers)


def each_us(pieces: list[str], mode: ReasoningMode) -> float:
    splitter = Splitter(mode=mode)
    began_s = time.thread_time()
    for piece in pieces:
        splitter.push(piece)
    return (time.thread_time() - began_s) / len(pieces) * 1e6


@pytest.mark.parametrize("mode", list(ReasoningMode))
def test_a_token_costs_microseconds(mode: ReasoningMode) -> None:
    pieces = ["The", " quick", " brown", " fox\n", "\n", " jumps <|", "im", "<think>", "hm", "</", "think>"] * 2000
    assert each_us(pieces, mode) < 50  # 1 us on the machine it was written on


def test_a_long_run_of_line_feeds_costs_no_more() -> None:
    assert each_us(["\n"] * 100_000, ReasoningMode.PREFILLED) < 50
    assert split(*["a", *["\n"] * 5000, "b"], mode="prefilled") == ["~a" + "\n" * 5000 + "b"]
