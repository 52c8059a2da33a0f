"""Laws of reading answers: any cut gives what the whole text means, and nothing that was said is lost."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from inference.events import Channel
from inference.messages import Tool
from inference.streaming import answer_reader, openers, showing
from inference.streaming.dialects import json_calls
from inference.streaming.dialects.table import ALWAYS
from inference.streaming.pieces import Said
from inference.streaming.reading import Reading, Source
from inference.streaming.showing import SHOWN_AFTER_CHARS
from inference.streaming.splitter import ReasoningMode
from inference.streaming.stop import StopMatcher
from tests.answers import Call, Sum, added, cut, machine, pushed
from tests.slow_reader import NUL, Meaning, meaning

SCHEMA = {"type": "object", "properties": {"s": {"type": "string"}, "v": {"type": "array"}, "n": {"type": "integer"}}}
TOOLS = (Tool("look", "", SCHEMA), Tool("a.b-c", "", SCHEMA))
OFFERED = {tool.name: tool.parameters for tool in TOOLS}
THINK = ("<think>", "</think>")

GOOD = {
    "json": '<tool_call>\n{"name": "look", "arguments": {"s": "</tool_call> \\" {\\d\n"}}\n</tool_call>',
    "json, string": '<tool_call>{"id": 1, "parameters": "{\\"n\\": 7}", "name": "a.b-c"}</tool_call>',
    "xml": "<tool_call>\n<function=a.b-c>\n<parameter=s>\nx </parameter> <think> y\n</parameter>\n"
    "<parameter=v>[1, 2]</parameter>\n</function>\n</tool_call>",
    "xml, bare": "<function=look><parameter=n>7</parameter><parameter=s></function>\n</parameter></function>",
    "tagged": "<tool_call>look\n<arg_key>v</arg_key>\n<arg_value>[]</arg_value>\n<arg_key>s</arg_key>"
    "<arg_value></tool_call></arg_value></tool_call>",
    "tagged, empty": "<tool_call>look</tool_call>",
    "mistral": '[TOOL_CALLS] [{"name": "look", "arguments": {"s": "]"}}, {"name": "look"}]',
    "mistral, named": '[TOOL_CALLS]look[ARGS]{"n": 1}a.b-c[CALL_ID]x1[ARGS] {}',
    "llama": '<|python_tag|>{"name": "look", "parameters": {"s": ";"}}; {"name": "a.b-c"}',
}
BARE = {
    "object": '{"name": "look", "arguments": {"v": [{}, "}"]}}',
    "list": '[{"name": "look", "arguments": {"n": 1}}, {"name": "a.b-c"}]',
    "fence": '```json\n{"name": "look", "parameters": {"s": "```"}}\n```',
}
MARKS = [
    "<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=s>", "</parameter>", "<arg_key>s</arg_key>",
    "<arg_value>", "</arg_value>", "look", '{"name": "look"', '"', "}", "<", "\n", " ", "x", "</", "=look>", "[", "]",
    "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", ";", "{", "```", *THINK, *THINK, '"arguments": {', ",", "\\", "1", ":",
]  # fmt: skip
whole_calls = st.sampled_from([*GOOD.values(), *BARE.values()])
texts = st.lists(
    whole_calls | st.sampled_from(MARKS) | st.builds(lambda one, size: one[:size], whole_calls, st.integers(1, 60)),
    max_size=9,
).map("".join)  # fmt: skip
cuts = st.lists(st.integers(0, 2000), max_size=40)
THOUGHTFUL = settings(deadline=None, database=None, phases=[Phase.generate], derandomize=True)


def read(pieces: Iterable[str], mode: ReasoningMode = ReasoningMode.AUTO) -> Sum:
    return added(pushed(machine(TOOLS, mode=mode, markers=THINK), pieces))


def meant(total: Sum) -> Meaning:
    def side(channel: Channel) -> str:
        return "".join(NUL if isinstance(one, Call) else one[1] * (one[0] is channel) for one in total)

    calls = [(one.name, json.loads(one.arguments)) for one in total if isinstance(one, Call)]
    return Meaning(side(Channel.CONTENT), side(Channel.REASONING), calls)


@pytest.fixture
def calls_are_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "SHOWN_AFTER_CHARS", 10**9)


def reads_what_is_meant(text: str, places: list[int]) -> None:
    for mode, markers in ((ReasoningMode.AUTO, THINK), (ReasoningMode.OFF, ("", ""))):
        wanted = meaning(text, OFFERED, *markers)
        total = read([text], mode)
        assert meant(total) == wanted
        assert read(cut(text, places), mode) == read(text, mode) == total


@pytest.mark.usefixtures("calls_are_shown_whole")
@settings(max_examples=400, deadline=None)
@given(texts, cuts)
@example('<tool_call>{"' + "</tool_call>" * 30 + GOOD["json"], [100])
def test_any_cut_gives_what_the_whole_text_means(text: str, places: list[int]) -> None:
    reads_what_is_meant(text, places)


@pytest.mark.parametrize("good", [*GOOD.values(), *BARE.values()])
@pytest.mark.parametrize(
    "frame", ["{}", "<think>why\n</think>\n{}", "one {} two <tool_call", "<think>{}\n</think>{}\n"]
)
def test_any_one_cut_and_single_characters(good: str, frame: str) -> None:
    text = frame.replace("{}", good)
    wanted = read([text])
    assert meant(wanted) == meaning(text, OFFERED, *THINK) and read(text) == wanted
    for place in range(len(text)):
        assert read([text[:place], text[place:]]) == wanted


@settings(max_examples=300, deadline=None)
@given(texts, cuts)
def test_showing_a_call_early_changes_only_calls_that_break(text: str, places: list[int]) -> None:
    early = read(cut(text, places))
    assert read([text]) == early
    if any(isinstance(one, Call) and len(one.arguments) > SHOWN_AFTER_CHARS for one in early):
        return
    assert meant(early) == meaning(text, OFFERED, *THINK)


# --- nothing is lost --------------------------------------------------------------------------------------------

MARKUP = re.compile(r"(?:\s|\]|;|```|</tool_call>|</?t?o?o?l?_?c?a?l?l?\Z)*")


def nothing_is_lost(text: str, total: Sum) -> None:
    """Texts and calls make up the answer, but for what closes calls and white space beside them."""
    at = 0
    for one in total:
        part = one.raw if isinstance(one, Call) else one[1]
        start = text.index(part, at)
        assert MARKUP.fullmatch(text, at, start), text[at:start]
        at = start + len(part)
    assert MARKUP.fullmatch(text, at)


def calls_are_sound(total: Sum) -> None:
    """Arguments are an object's JSON text, or unfinished and so none; a short call is never unfinished."""
    for one in total:
        if not isinstance(one, Call):
            continue
        assert one.name in OFFERED
        if one.whole:
            assert isinstance(json.loads(one.arguments), dict)
            continue
        assert len(one.arguments) > SHOWN_AFTER_CHARS
        with pytest.raises(ValueError):
            json.loads(one.arguments)


@settings(max_examples=300, deadline=None)
@given(texts, cuts)
def test_nothing_is_lost(text: str, places: list[int]) -> None:
    total = read(cut(text, places), ReasoningMode.OFF)
    nothing_is_lost(text, total)
    calls_are_sound(total)


def mutated(text: str, chance: random.Random) -> str:
    at, size = chance.randrange(len(text)), chance.randint(1, 6)
    match chance.randrange(6):
        case 0:
            return text[:at] + text[at + size :]
        case 1:
            return text[:at] + chance.choice(MARKS) + text[at:]
        case 2:
            return text[:at] + chance.choice('"{}[]<>:,\\\n') + text[at + 1 :]
        case 3:
            return text[:at] + text[at : at + 20] * 2 + text[at + 20 :]
        case 4:
            return text[:at]
    return text[: at // 2] + text[at:]


LONG = "long \\n " * 40
LONG_GOOD = [
    *GOOD.values(),
    *BARE.values(),
    f'<tool_call>{{"name": "look", "arguments": {{"s": "{LONG}", "v": [1, {{"a": null}}]}}}}</tool_call>',
    f"<tool_call><function=look><parameter=s>{LONG}</parameter><parameter=n>3</parameter></function></tool_call>",
    f"<tool_call>look<arg_key>s</arg_key><arg_value>{LONG}</arg_value></tool_call>",
    f'[TOOL_CALLS]look[ARGS]{{"s": "{LONG}"}}',
]


@pytest.mark.parametrize("good", LONG_GOOD)
def test_two_thousand_mutations_neither_break_nor_lose_anything(good: str) -> None:
    chance = random.Random(good)
    for _ in range(2000 // len(LONG_GOOD)):
        text = f"before {good}\n{mutated(mutated(good, chance) or good, chance)} after"
        total = read(cut(text, chance.choices(range(len(text)), k=10)), ReasoningMode.OFF)
        assert total == read(text, ReasoningMode.OFF)
        nothing_is_lost(text, total)
        calls_are_sound(total)


def test_a_lost_character_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = answer_reader.AnswerReader._broken
    monkeypatch.setattr(answer_reader.AnswerReader, "_broken", lambda self, attempt: broken(self, attempt)[1:])
    with pytest.raises((AssertionError, ValueError)):
        test_two_thousand_mutations_neither_break_nor_lose_anything(GOOD["json"])


@pytest.mark.parametrize(
    "good", [*(GOOD[name] for name in ("json", "xml", "tagged", "mistral", "llama")), BARE["fence"]]
)
def test_ten_thousand_random_cuts_of_each_dialect_give_one_answer(good: str) -> None:
    text = f"<think>a</think>{good}"
    wanted, chance = read([text]), random.Random(7)
    for _ in range(10_000):
        assert read(cut(text, chance.choices(range(len(text)), k=chance.randrange(8)))) == wanted


# --- what models write ------------------------------------------------------------------------------------------


def in_json(name: str, arguments: dict[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def in_functions(name: str, arguments: dict[str, Any]) -> str:
    inner = "".join(f"<parameter={key}>\n{as_text(value)}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


def in_tags(name: str, arguments: dict[str, Any]) -> str:
    inner = (f"<arg_key>{key}</arg_key>\n<arg_value>{as_text(value)}</arg_value>" for key, value in arguments.items())
    return f"<tool_call>{name}\n{'\n'.join(inner)}\n</tool_call>"


def in_brackets(name: str, arguments: dict[str, Any]) -> str:
    return f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments, ensure_ascii=False)}"


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=200)
arguments = st.fixed_dictionaries(
    {}, optional={"s": words, "n": st.integers(), "v": st.lists(st.integers() | st.dictionaries(words, words))}
)
wanted_calls = st.lists(st.tuples(st.sampled_from(sorted(OFFERED)), arguments), min_size=1, max_size=3)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([in_json, in_functions, in_tags, in_brackets]), wanted_calls, cuts)
def test_what_a_dialect_writes_is_what_is_read(dialect: Any, calls: list[tuple[str, Any]], places: list[int]) -> None:
    text = "before\n" + "\n".join(dialect(*call) for call in calls) + "\nafter"
    before, *found, after = read(cut(text, places))
    assert (before, after) == ((Channel.CONTENT, "before\n"), (Channel.CONTENT, "\nafter"))
    assert [(one.name, json.loads(one.arguments)) for one in found if isinstance(one, Call)] == calls


@settings(max_examples=100, deadline=None)
@given(texts, cuts)
def test_without_tools_everything_passes_at_once(text: str, places: list[int]) -> None:
    reader = machine(())
    for piece in cut(text, places):
        assert (
            "".join(one[1] for one in added(reader.push(piece)) if not isinstance(one, Call)).strip() == piece.strip()
        )


# --- the laws have teeth, and reading is cheap ------------------------------------------------------------------


def all_is_said(self: Any, attempt: Any) -> str:
    self._showing.text(attempt.read + attempt.rest)
    return ""


def no_dialect_is_next(self: Any, opener: str) -> Sequence[Any]:
    return (self._openers.get(opener) or self._starts[opener])[:1]


def up_to_the_closer(source: Source, sink: Callable[[str], None]) -> Reading[None]:
    text, _ = yield from source.until("</tool_call>")
    sink(text)


def whatever_follows(source: Source, followers: Sequence[str]) -> Reading[bool]:
    yield from source.peek(0)
    return bool(followers)


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "an opener that is cut is text": (openers, "open_chars", lambda *args: 0),
    "only one dialect is tried": (openers.Openers, "dialects", no_dialect_is_next),
    "white space beside calls is content": (
        showing.Showing, "_say", lambda self, pieces: self._pieces.extend(Said(*piece) for piece in pieces),
    ),
    "the text behind a broken opener is not looked at": (
        answer_reader.AnswerReader, "_broken", all_is_said,
    ),
    "a closer counts inside of a string": (json_calls, "json_value", up_to_the_closer),
    "a value ends at its first closing tag": (Source, "_followed", whatever_follows),
}  # fmt: skip


@pytest.mark.usefixtures("calls_are_shown_whole")
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*FAULTS[fault])

    @settings(THOUGHTFUL, max_examples=400)
    @given(texts, cuts)
    def law(text: str, places: list[int]) -> None:
        reads_what_is_meant(text, places)

    with pytest.raises((AssertionError, ExceptionGroup)):
        law()


@pytest.mark.parametrize("good", ["text", *LONG_GOOD[-4:]])
def test_a_token_costs_microseconds(good: str) -> None:
    """Stop strings, splitting and calls together: 5 to 10 us where it was written."""
    text = ("<think>" + "Why not, it is so. " * 40 + "</think>" + "So it is <b>bold</b>. " * 40) * 5
    text = text if good == "text" else f"{good}\n" * 30
    tokens = [text[at : at + 4] for at in range(0, len(text), 4)]
    reader, stop = machine(TOOLS, ALWAYS, ReasoningMode.AUTO), StopMatcher(("STOP", "\n\nHuman"))
    began_s = time.thread_time()
    for token in tokens:
        reader.push(stop.push(token)[0])
    each_us = (time.thread_time() - began_s) / len(tokens) * 1e6
    print(f"{good[:30]!r}: {each_us:.1f} us a token")
    assert each_us < 200
