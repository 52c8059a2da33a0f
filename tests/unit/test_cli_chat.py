"""The chat's parts: events in, pieces out, nothing dangerous on the screen."""

import io
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.cli.chat_screen import Answer, Screen, ThinkSplitter, strip_controls, wants_colour
from mlxd.cli.chat_stream import ChatError, Piece, Usage, complete_base_url, read_events, request_body

TEXT = st.lists(st.sampled_from(["<think>", "</think>", "<", "think", ">", "a", "\n", "</", "<th"]), max_size=12).map(
    "".join
)
CUTS = st.lists(st.integers(0, 60), max_size=8)


def cut(text, cuts):
    edges = [0, *sorted(min(at, len(text)) for at in cuts), len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(edges)]


def split(chunks):
    splitter = ThinkSplitter()
    pieces = [piece for chunk in chunks for piece in splitter.push(chunk)] + splitter.finish()
    return {kind: "".join(piece.text for piece in pieces if piece.kind == kind) for kind in ("reasoning", "content")}


@given(TEXT, CUTS)
def test_thinking_does_not_depend_on_how_the_text_was_cut(text, cuts):
    assert split(cut(text, cuts)) == split([text])


def test_thinking_is_what_stands_between_the_tags():
    assert split(["a<think>b</think>c"]) == {"content": "ac", "reasoning": "b"}
    assert split(["x < y and <thin"]) == {"content": "x < y and <thin", "reasoning": ""}


@given(st.text(), CUTS)
def test_a_model_cannot_drive_the_terminal(text, cuts):
    out = io.StringIO()
    screen = Screen(out, colour=False, show_thinking=True)
    screen.show([Piece("content", part) for part in cut(text, cuts)], Answer())
    shown = out.getvalue()
    assert not any((ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 for char in shown)
    assert strip_controls(shown) == shown


def test_known_attacks_are_disarmed():
    attack = "a\x1b]0;title\x07\x1b[2J\x9b31m\rb\x08"
    assert strip_controls(attack) == "a]0;title[2J31mb"


def show(parts, **options):
    out, answer = io.StringIO(), Answer()
    times = iter(range(100))
    screen = Screen(out, **({"colour": False, "show_thinking": True, "clock": lambda: float(next(times))} | options))
    screen.show(parts, answer)
    return out.getvalue(), answer


PARTS = [
    Piece("reasoning", "hm"),
    Piece("content", "4"),
    Piece("content", "2"),
    Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=2),
]


def test_thinking_is_dimmed_marked_or_left_out():
    assert show(PARTS, colour=True)[0] == "\x1b[2mhm\n\x1b[22m42\n"
    assert show(PARTS)[0] == "[thinking]\nhm\n[answer]\n42\n"
    assert show(PARTS, show_thinking=False)[0] == "42\n"


def test_literal_think_blocks_are_treated_the_same():
    literal = [Piece("content", "<thi"), Piece("content", "nk>hm</think>42")]
    assert show(literal, colour=True)[0] == "\x1b[2mhm\n\x1b[22m42\n"
    assert show(literal)[1].content == "42"


def test_the_summary_counts_what_the_server_says():
    _, answer = show(PARTS)
    assert (answer.first_s, answer.total_s) == (1.0, 5.0)
    assert answer.summary() == "1.00 s to the first token · 0.5 tok/s · 3 tokens for 5 of prompt, 2 cached · 5.00 s"
    assert "~3 tokens" in show(PARTS[:3])[1].summary()
    assert show([])[1].summary().startswith("no tokens")


def event(delta, **choice):
    return ["data: " + json.dumps({"choices": [{"delta": delta, **choice}]}), ""]


def test_events_become_pieces():
    lines = [
        ": ping",
        "",
        *event({"role": "assistant", "content": ""}),
        *event({"reasoning_content": "hm"}),
        *event({"content": "4"}),
        *event({"tool_calls": [{"index": 0, "function": {"name": "read", "arguments": ""}}]}),
        *event({}, finish_reason="length"),
        "data:" + json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
        "",
        "data: [DONE]",
        "",
        *event({"content": "never read"}),
    ]
    kinds = [part.kind if isinstance(part, Piece) else "usage" for part in read_events(lines)]
    assert kinds == ["reasoning", "content", "note", "note", "usage"]


def test_a_call_in_pieces_is_told_once():
    """Some servers write the name into every piece, some give no number."""
    pieces = [
        [{"index": 0, "id": "a", "function": {"name": "read", "arguments": "{"}}],
        [{"index": 0, "function": {"name": "read", "arguments": "}"}}],
        [{"index": 0, "function": {"arguments": ""}}, {"index": 1, "function": {"name": "read"}}],
        [{"id": "c", "function": {"name": "write"}}, {"id": "d", "function": {"name": "write"}}],
    ]
    lines = [line for calls in pieces for line in event({"tool_calls": calls}, index=0)]
    told = [piece.text for piece in read_events([*lines, *event({}, finish_reason="tool_calls")])]
    assert told == [f"the model called the tool {name}" for name in ("read", "read", "write", "write")]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (event({"content": "4"}), "broke off"),
        ([], "broke off"),
        (['data: {"error": {"message": "the engine failed", "code": "x"}}', ""], "the engine failed"),
        (["data: {", ""], "not JSON"),
        (["data: 7", ""], "no object"),
    ],
)
def test_what_goes_wrong_in_a_stream_is_said(lines, says):
    with pytest.raises(ChatError, match=says):
        list(read_events(lines))


def test_a_finished_stream_without_done_is_complete():
    assert list(read_events(event({"content": "4"}, finish_reason="stop"))) == [Piece("content", "4")]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080", "ftp://host", "http://"])
def test_what_is_no_base_url_is_refused(url):
    with pytest.raises(ChatError, match="no base URL"):
        complete_base_url(url)


def test_max_tokens_is_sent_only_when_asked_for():
    assert "max_tokens" not in request_body("m", [], None)
    assert request_body("m", [], 5)["max_tokens"] == 5


def test_colour_is_for_terminals_that_want_it():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert wants_colour(Terminal(), {"TERM": "xterm"})
    assert not wants_colour(Terminal(), {"TERM": "xterm", "NO_COLOR": "1"})
    assert not wants_colour(Terminal(), {"TERM": "dumb"})
    assert not wants_colour(io.StringIO(), {"TERM": "xterm"})
