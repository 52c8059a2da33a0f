"""Thoughts, content and calls of one answer: what is seen where, what is shown when, and what breaks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference.events import Channel
from inference.messages import Tool
from inference.streaming.answer_reader import AnswerReader
from inference.streaming.pieces import MAX_BROKEN_CALLS, MAX_RAW_CHARS
from inference.streaming.reading import Arguments, Begun, Ended
from inference.streaming.showing import SHOWN_AFTER_CHARS
from inference.streaming.splitter import ReasoningMode
from tests.answers import Call, Sum, added, content, machine, pushed

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}, "count": {"type": "integer"}}}
TOOLS = (Tool("look", "", SCHEMA), Tool("find", "", SCHEMA))
LONG = "long " * 60
CALL = '<tool_call>\n{"name": "look", "arguments": {"count": 1}}\n</tool_call>'
LOOK = ("look", {"count": 1})


def read(text: str, mode: ReasoningMode = ReasoningMode.AUTO) -> tuple[Sum, AnswerReader]:
    """The same in one piece and character by character."""
    reader, slow = machine(TOOLS, mode=mode), machine(TOOLS, mode=mode)
    total = added(pushed(reader, [text]))
    assert added(pushed(slow, text)) == total
    assert (slow.malformed, slow.broken_calls) == (reader.malformed, reader.broken_calls)
    return total, reader


def told(text: str, mode: ReasoningMode = ReasoningMode.AUTO) -> list[Any]:
    """Reasoning is marked with a `~`; calls are names and arguments."""
    return [
        (one.name, json.loads(one.arguments)) if isinstance(one, Call) else "~"[one[0] is Channel.CONTENT :] + one[1]
        for one in read(text, mode)[0]
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"<think>why</think>\n\nso\n{CALL}", ["~why", "so\n", LOOK]),
        (f"<think>why\n{CALL}\nwhy not</think>so", ["~why\n", LOOK, "~\nwhy not", "so"]),
        (f"<think>why\n{CALL}", ["~why\n", LOOK]),
        (f"<think>{CALL}</think>\n{CALL}\n", [LOOK, LOOK]),
        (f"{CALL}\n{CALL}\nthat was it", [LOOK, LOOK, "\nthat was it"]),
        (f"{CALL}<think>now</think>so", [LOOK, "~now", "so"]),
        (f"<thi{CALL}nk>", ["<thi", LOOK, "nk>"]),
        (f"<think>a</thi{CALL}nk>b", ["~a</thi", LOOK, "~nk>b"]),
        (CALL.replace('"count": 1', '"text": "<think>a</think>"'), [("look", {"text": "<think>a</think>"})]),
        (
            "<function=look><parameter=text></think> <tool_call></parameter></function>",
            [("look", {"text": "</think> <tool_call>"})],
        ),
        ("<think>I use <tool_call> tags</think>so", ["~I use <tool_call> tags", "so"]),
        ('<think>or <tool_call>{"name": 1</think>so', ['~or <tool_call>{"name": 1', "so"]),
        (f"\n\n{CALL}\n\n", [LOOK]),
    ],
)
def test_calls_and_thoughts_do_not_disturb_each_other(text: str, said: list[Any]) -> None:
    assert told(text) == said


def test_a_call_in_an_answer_that_begins_mid_thought() -> None:
    assert told(f"why{CALL}so</think>{CALL}", ReasoningMode.PREFILLED) == ["~why", LOOK, "~so", LOOK]


OBJECT = '{"name": "look", "arguments": {"count": 1}}'
FIND = '{"name": "find", "parameters": {}}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OBJECT, [LOOK]),
        (f"\n {OBJECT}\n", [LOOK]),
        (f"<think>why</think>\n\n{OBJECT}", ["~why", LOOK]),
        (f"[{OBJECT}, {FIND}]", [LOOK, ("find", {})]),
        (f"{OBJECT}\n{FIND}", [LOOK, ("find", {})]),
        (f"```json\n{OBJECT}\n```", [LOOK]),
        (f"```\n[\n{OBJECT}]\n```\n", [LOOK]),
        (f"{OBJECT} is how I would call", None),
        (f"Here: {OBJECT}", None),
        (f"[{OBJECT}", None),
        (f"```json\n{OBJECT}\n", None),
        ('{"name": "Ada", "age": 36}', None),
        ('{"age": 36, "name": "look"', None),
        ('["look"]', None),
        ("[]", None),
        ("```python\nlook()\n```", None),
        ("[link](look)", None),
        ("``", None),
    ],
)
def test_the_whole_content_may_be_calls_without_a_marker(text: str, said: list[Any] | None) -> None:
    assert told(text) == ([text] if said is None else said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"[TOOL_CALLS] [{OBJECT}, {FIND}]", [LOOK, ("find", {})]),
        (f"[TOOL_CALLS][{OBJECT}]so", [LOOK, "so"]),
        ('a[TOOL_CALLS]look[ARGS]{"count": 1}', ["a", LOOK]),
        ('[TOOL_CALLS]look[CALL_ID]a1B2c3[ARGS] {"count": 1}find[ARGS]{}', [LOOK, ("find", {})]),
        ('[TOOL_CALLS]look[ARGS]{"count": 1}[TOOL_CALLS]find[ARGS]{}', [LOOK, ("find", {})]),
        ('[TOOL_CALLS]look[ARGS]{"count": 1} and so on', [LOOK, " and so on"]),
        ("[TOOL_CALLS]other[ARGS]{}", ["[TOOL_CALLS]other[ARGS]{}"]),
        (f"[TOOL_CALLS] [{OBJECT}, 3]", [LOOK, ", 3]"]),
        (f"<|python_tag|>{OBJECT}", [LOOK]),
        (f"so <|python_tag|> {OBJECT}; {FIND}", ["so ", LOOK, ("find", {})]),
        (f"<|python_tag|>{OBJECT}; so", [LOOK, "; so"]),
        ("<|python_tag|>look(1)", ["<|python_tag|>look(1)"]),
        (f"<tool_call>{OBJECT}", [LOOK]),
        (f"<tool_call>{OBJECT}\n</tool_", [LOOK]),
        (f"<tool_call>{OBJECT}}}</tool_call>", [LOOK, "}</tool_call>"]),
    ],
)
def test_calls_behind_other_markers(text: str, said: list[Any]) -> None:
    assert told(text) == said


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"a\nb\tc"', "a\nb\tc"), (r'"\d+\s"', r"\d+\s"), (r'"it\'s"', r"it\'s"), (r'"\u00e9\/\n"', "é/\n"),
        (r'"\u00g1"', r"\u00g1"), ('"\\\n"', "\\\n"), (r'"\\"', "\\"), ("-0.5e+3", -500.0), ("[ ]", []),
        ("{\n}", {}), ("[[1,[]],\n{}]", [[1, []], {}]), ("[" * 60 + "]" * 60, None),
    ],
)  # fmt: skip
def test_strings_of_json_are_repaired_and_the_rest_is_taken_as_it_is(text: str, value: Any) -> None:
    ((name, found),) = told(f'<tool_call>{{"name": "look", "arguments": {{"v": {text}}}}}</tool_call>')
    assert name == "look" and (value is None or found == {"v": value})


@pytest.mark.parametrize(
    "text",
    ["01", "1.", ".5", "+1", "1e", "1e999", "9" * 600, "NaN", "True", "nul", "[1,]", "{1: 2}", "{'a': 1}", "[1 2]",
     '{"a" 1}', '{"a": }', "[" * 70 + "]" * 70, ""],
)  # fmt: skip
def test_what_is_no_json_is_no_call(text: str) -> None:
    said = f'<tool_call>{{"name": "look", "arguments": {{"v": {text}}}}}</tool_call>'
    total, reader = read(said)
    assert content(total) == [said] and reader.malformed == 1
    assert said.startswith(reader.broken_calls[0].raw) and len(reader.broken_calls[0].raw) > len(said) - len(text) - 20


STREAMED = [
    ('<tool_call>{"name": "look", "arguments": ', {"text": LONG}, "}</tool_call>"),
    ("<tool_call><function=look><parameter=text>\n", {"text": LONG}, "\n</parameter></function></tool_call>"),
    ("<tool_call>look<arg_key>text</arg_key><arg_value>", {"text": LONG}, "</arg_value></tool_call>"),
    ("[TOOL_CALLS]look[ARGS]", {"text": LONG}, ""),
]


@pytest.mark.parametrize(("head", "arguments", "tail"), STREAMED)
def test_long_arguments_come_as_they_are_generated(head: str, arguments: Any, tail: str) -> None:
    body = json.dumps(arguments) if head.endswith((": ", "[ARGS]")) else arguments["text"]
    reader = machine(TOOLS)
    pieces = [reader.push(char) for char in f"{head}{body}{tail}"]
    first = next(at for at, piece in enumerate(pieces) if piece)
    begun, opening = pieces[first]
    assert begun == Begun("look") and isinstance(opening, Arguments)
    assert 0 < len(opening.json) - SHOWN_AFTER_CHARS < 4
    streamed = pieces[first + 1 : len(head) + len(body) - 2]
    assert len(streamed) > 100 and all(isinstance(*piece, Arguments) for piece in streamed)
    (call,) = added([*(one for piece in pieces for one in piece), *reader.finish()])
    assert isinstance(call, Call) and json.loads(call.arguments) == arguments


def test_short_calls_come_in_one_piece() -> None:
    reader = machine(TOOLS)
    pieces = [piece for char in CALL for piece in reader.push(char)]
    assert pieces == [Begun("look"), Arguments('{"count": 1}'), Ended(CALL)]


BREAKS = [
    (f'<tool_call>{{"name": "look", "arguments": {{"text": "{LONG}', "", "cut off"),
    (f'<tool_call>{{"name": "look", "arguments": {{"text": "{LONG}", "v": ', "NaN}}</tool_call>", "no JSON value"),
    (f'<tool_call>{{"name": "look", "arguments": {{"text": "{LONG}"', "</tool_call>", "not what the dialect wants"),
    (f"<tool_call><function=look><parameter=text>{LONG}", "", "cut off"),
    (f"<tool_call>look<arg_key>text</arg_key><arg_value>{LONG}</tool_call>\n", CALL, "a closing tag is missing"),
]


@pytest.mark.parametrize(("head", "rest", "reason"), BREAKS)
def test_of_a_call_that_breaks_late_the_arguments_stay_open(head: str, rest: str, reason: str) -> None:
    total, reader = read(head + rest)
    call, *behind = total
    assert isinstance(call, Call) and not call.whole and LONG[:-1] in call.arguments
    with pytest.raises(ValueError):
        json.loads(call.arguments)
    assert told(head.replace("look", "other")) == [head.replace("look", "other")]
    assert (reader.malformed, reader.broken_calls[0].reason) == (1, reason)
    assert reader.broken_calls[0].raw == call.raw
    said = "".join(one.raw if isinstance(one, Call) else one[1] for one in (call, *behind))
    assert said == head + rest


def test_whole_arguments_are_a_call_whatever_stands_behind_them() -> None:
    text = f'<tool_call>{{"name": "look", "arguments": {{"text": "{LONG}"}}'
    for behind in ("", "</tool_call>", ", ]"):
        total, reader = read(text + behind)
        call, *rest = total
        assert isinstance(call, Call) and call.whole and json.loads(call.arguments) == {"text": LONG}
        assert "".join(one[1] for one in rest if not isinstance(one, Call)) == behind.removeprefix(", ")
        assert reader.malformed == 0


def test_what_broke_is_on_record_within_bounds() -> None:
    one = '<tool_call>{"name": "other"}</tool_call>'
    long = '<tool_call>{"arguments": "' + "x" * 40_000
    _, reader = read(one * 20 + long)
    assert reader.malformed == 21 and len(reader.broken_calls) == MAX_BROKEN_CALLS
    assert {(record.dialect, record.reason) for record in reader.broken_calls} == {
        ("json", "a tool that was not offered")
    }
    _, reader = read(long)
    (record,) = reader.broken_calls
    assert (record.raw, record.chars, record.reason) == (long[:MAX_RAW_CHARS], len(long), "cut off")


def test_content_is_not_held_longer_than_it_may_be_a_call() -> None:
    reader = machine(TOOLS)
    assert content(added(reader.push("a < b <tool_"))) == ["a < b "]
    assert reader.push("call> ") == ()
    assert reader.push("tags ") == ()
    assert content(added(reader.push("are"))) == ["<tool_call> tags are"]
    assert reader.push("<function=look>") == ()
    assert reader.push("</function>") == ()  # a wrapper's closer may follow
    (call, after) = content(added(reader.push("!")))
    assert isinstance(call, Call) and after == "!"


def test_without_tools_calls_are_text_and_pass_at_once() -> None:
    reader = machine(())
    for text in ("{", CALL, "[TOOL_CALLS]", "```"):
        assert content(added(reader.push(text))) == [text]
    assert reader.finish() == () and reader.malformed == 0


def test_a_list_may_be_a_thought_or_a_call() -> None:
    reader = machine(TOOLS, mode=ReasoningMode.AUTO, markers=("[THINK]", "[/THINK]"))
    text = f"[THINK]why[/THINK][{OBJECT}]"
    total = added(pushed(reader, text))
    assert total[0] == (Channel.REASONING, "why") and isinstance(total[1], Call)
