"""Laws of the tool call parser: any cut gives what the whole text means, and nothing that was said is lost."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from inference.messages import Tool
from inference.streaming import tool_calls as room
from inference.streaming.call_dialects import CLOSERS, Unread, begins, read
from inference.streaming.tool_calls import ParsedCall, ToolCallParser

SCHEMA = {"type": "object", "properties": {"s": {"type": "string"}, "v": {"type": ["integer", "array", "object"]}}}
TOOLS = (Tool("look", "", SCHEMA), Tool("a.b-c", "", SCHEMA))
OFFERED = {tool.name: tool for tool in TOOLS}
Said = list[str | ParsedCall]


def cut(text: str, cuts: Iterable[int]) -> list[str]:
    places = sorted({0, len(text), *(place % (len(text) + 1) for place in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


def runs(said: Iterable[str | ParsedCall]) -> Said:
    """The same with neighbouring texts joined."""
    joined: Said = []
    for piece in said:
        if isinstance(piece, str) and joined and isinstance(last := joined[-1], str):
            joined[-1] = last + piece
        elif piece:
            joined.append(piece)
    return joined


def parse(pieces: Iterable[str]) -> Said:
    parser = ToolCallParser(TOOLS)
    said = [found for piece in pieces for found in parser.push(piece)]
    return runs([*said, *parser.finish()])


def whole(text: str) -> Said:
    """The definition, over the whole text: no state, nothing held back."""
    said: Said = [""]
    at = misses = calls = 0
    while at < len(text):
        opener = next((one for one in CLOSERS if text.startswith(one, at)), "")
        found = None
        if opener and misses < room.MAX_MISSES and begins(opener, text, at + len(opener)):
            found, missed = call_at(text, at, opener, room.MAX_MISSES - misses)
            misses += missed
        if found is None:
            step = opener or text[at]
            said[-1] = f"{said[-1]}{step}"
            at += len(step)
            continue
        before = said.pop()
        assert isinstance(before, str)
        blank = not before.strip()
        said += [*([] if blank else [before]), ParsedCall(found.name, found.arguments, before * blank + found.raw), ""]
        at += len(found.raw)
        calls += 1
    last = said.pop()
    assert isinstance(last, str)
    return [*said, *([last] if last.strip() or (last and not calls) else [])]


def call_at(text: str, at: int, opener: str, patience: int) -> tuple[ParsedCall | None, int]:
    closer, start, missed = CLOSERS[opener], at + len(opener), 0
    for end in range(start, len(text)):
        if not text.startswith(closer, end):
            continue
        verdict = read(opener, text[start:end], OFFERED)
        if not isinstance(verdict, Unread):
            raw = text[at : end + len(closer)]
            rest = text[end + len(closer) :]
            orphan = rest.lstrip().startswith("</tool_call>") and opener == "<function="
            raw += rest[: len(rest) - len(rest.lstrip()) + len("</tool_call>")] if orphan else ""
            return ParsedCall(*verdict, raw), missed
        missed += 1
        if verdict is Unread.BROKEN or missed == patience:
            return None, missed
    return None, missed + 1


GOOD = [
    '<tool_call>\n{"name": "look", "arguments": {"s": "</tool_call> \\" {"}}\n</tool_call>',
    "<tool_call>\n<function=a.b-c>\n<parameter=s>\nx </tool_call> y\n</parameter>\n<parameter=v>[1, 2]</parameter>\n"
    "</function>\n</tool_call>",
    "<function=look><parameter=v>7</parameter></function>",
    "<tool_call>look\n<arg_key>v</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>",
    "<tool_call>look</tool_call>",
]
MARKS = [
    "<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=s>", "</parameter>", "<arg_key>s</arg_key>",
    "<arg_value>", "</arg_value>", "look", '{"name": "look"', '"', "}", "<", "\n", " ", "x", "</", "=look>",
]  # fmt: skip
texts = st.lists(
    st.sampled_from(GOOD) | st.sampled_from(MARKS) | st.builds(lambda one, n: one[:n], st.sampled_from(GOOD),
    st.integers(1, 60)), max_size=9,
).map("".join)  # fmt: skip
cuts = st.lists(st.integers(0, 2000), max_size=40)


def cuts_do_not_matter(text: str, places: list[int]) -> None:
    wanted = whole(text)
    assert parse(cut(text, places)) == wanted
    assert parse([text]) == wanted


@settings(max_examples=300, deadline=None)
@given(texts, cuts)
@example("<tool_call>" * 3 + '{"name": "look"}</tool_call> ', [1])
@example('<tool_call>{"' + "</tool_call>" * 70 + GOOD[2], [800])
@example('<tool_call>{"' * 70 + GOOD[2], [30])
def test_the_cuts_do_not_matter(text: str, places: list[int]) -> None:
    cuts_do_not_matter(text, places)


@pytest.mark.parametrize("good", GOOD)
def test_any_one_cut_and_single_characters(good: str) -> None:
    text = f"one {good}\n{good} two <tool_call"
    wanted = whole(text)
    assert [type(piece) for piece in wanted] == [str, ParsedCall, ParsedCall, str]
    assert parse(text) == wanted
    for place in range(len(text)):
        assert parse([text[:place], text[place:]]) == wanted


@pytest.mark.parametrize("good", GOOD)
def test_a_call_is_out_with_the_character_that_settles_it(good: str) -> None:
    parser = ToolCallParser(TOOLS)
    assert [parser.push(char) for char in good[:-1]] == [()] * (len(good) - 1)
    bare = good.startswith("<function=")  # the closer of a wrapper may follow
    (call,) = [*parser.push(good[-1]), *(parser.push("\n<") + parser.push("/x") if bare else ())][:1]
    assert isinstance(call, ParsedCall) and call.raw == good


@settings(max_examples=200, deadline=None)
@given(texts, cuts)
def test_nothing_is_lost(text: str, places: list[int]) -> None:
    said = parse(cut(text, places))
    joined = "".join(piece if isinstance(piece, str) else piece.raw for piece in said)
    assert text.startswith(joined)
    rest = text[len(joined) :]
    assert not rest or (rest.isspace() and isinstance(said[-1], ParsedCall))
    for piece in said:
        if isinstance(piece, ParsedCall):
            assert piece.name in OFFERED and isinstance(json.loads(piece.arguments), dict)


@settings(max_examples=100, deadline=None)
@given(texts, cuts)
def test_without_tools_everything_passes_at_once(text: str, places: list[int]) -> None:
    parser = ToolCallParser()
    assert [parser.push(piece) for piece in cut(text, places)] == [(piece,) for piece in cut(text, places)]
    assert parser.finish() == () and parser.malformed == 0


def in_json(name: str, arguments: dict[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def in_functions(name: str, arguments: dict[str, Any]) -> str:
    inner = "".join(f"<parameter={key}>\n{as_text(value)}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


def in_tags(name: str, arguments: dict[str, Any]) -> str:
    inner = (f"<arg_key>{key}</arg_key>\n<arg_value>{as_text(value)}</arg_value>" for key, value in arguments.items())
    return f"<tool_call>{name}\n{'\n'.join(inner)}\n</tool_call>"


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=20)
arguments = st.fixed_dictionaries(
    {}, optional={"s": words, "v": st.integers() | st.lists(st.integers()) | st.dictionaries(words, words)}
)
wanted_calls = st.lists(st.tuples(st.sampled_from(sorted(OFFERED)), arguments), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([in_json, in_functions, in_tags]), wanted_calls, cuts)
def test_what_a_dialect_writes_is_what_is_read(dialect: Any, calls: list[tuple[str, Any]], places: list[int]) -> None:
    text = "before\n" + "\n".join(dialect(*call) for call in calls) + "\nafter"
    before, *found, after = parse(cut(text, places))
    assert (before, after) == ("before\n", "\nafter")
    assert [(one.name, json.loads(one.arguments)) for one in found if isinstance(one, ParsedCall)] == calls


@pytest.mark.parametrize("good", GOOD)
def test_ten_thousand_cuttings_over_all_dialects(good: str) -> None:
    text = f"a{good}<tool_call>{{ b"
    wanted, random_ = whole(text), random.Random(7)
    for _ in range(2000):
        assert parse(cut(text, random_.sample(range(1, len(text)), random_.randint(0, 20)))) == wanted


@pytest.mark.parametrize("fault", ["no hold", "closer in a value", "no gap"])
def test_planted_faults_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "no hold":
        monkeypatch.setattr(room, "_open_chars", lambda text, at: 0)
    elif fault == "closer in a value":
        monkeypatch.setattr(room, "read", lambda *args: Unread.BROKEN if read(*args) is Unread.OPEN else read(*args))
    else:
        monkeypatch.setattr(ToolCallParser, "_say", lambda self, text: self._found.append(text))

    @settings(max_examples=300, deadline=None, database=None, phases=[Phase.generate], derandomize=True)
    @given(texts, cuts)
    def law(text: str, places: list[int]) -> None:
        cuts_do_not_matter(text, places)

    with pytest.raises(AssertionError):
        law()
