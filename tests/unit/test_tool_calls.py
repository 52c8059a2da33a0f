"""What models write as calls, dialect by dialect, and what they write instead."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from inference.messages import Tool
from inference.streaming.answer_reader import AnswerReader
from tests.answers import Call, added, content, machine, pushed

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "deep": {"type": "boolean"},
        "nothing": {"type": "null"},
        "maybe": {"type": ["string", "null"]},
        "options": {"$ref": "#/$defs/Options"},
        "list": {"anyOf": [{"type": "array"}, {"type": "null"}]},
        "level": {"enum": [1, 2]},
        "loop": {"$ref": "#/properties/loop"},
        "bare": {},
    },
    "$defs": {"Options": {"type": "object"}},
}
TOOL = Tool("run", "", SCHEMA)


def parse(*pieces: str, tools: Sequence[Tool] = (TOOL,)) -> tuple[list[str | Call], AnswerReader]:
    reader = machine(tools)
    return content(added(pushed(reader, pieces))), reader


def only(text: str) -> Any:
    said, reader = parse(text)
    assert parse(*text)[0] == said and len(said) == 1 and reader.malformed == 0
    (call,) = said
    assert isinstance(call, Call) and call.name == "run" and call.raw == text
    return json.loads(call.arguments)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ('{"name": "run", "arguments": {"text": "a"}}', {"text": "a"}),
        ('{"arguments": {"count": 1}, "name": "run"}', {"count": 1}),
        ('{"name": "run", "parameters": {"text": "a"}}', {"text": "a"}),
        ('{"name": "run", "arguments": "{\\"text\\": \\"a\\"}"}', {"text": "a"}),
        ('{"name": "run", "arguments": ""}', {}),
        ('{"name": "run", "arguments": null}', {}),
        ('{"name": "run"}', {}),
        ('{"name": "run", "arguments": {"text": "two\nlines"}}', {"text": "two\nlines"}),
        ('{"name": "run", "arguments": {"text": "</tool_call>\\n<tool_call>"}}', {"text": "</tool_call>\n<tool_call>"}),
        ('{"name": "run", "arguments": {"text": "\\ud83d"}}', {"text": "\ud83d"}),
        ("<function=run>\n</function>", {}),
        ("<function=run>\n<parameter=text>\na\n\n</parameter>\n</function>\n", {"text": "a\n"}),
        ("<function=run><parameter=text>a</parameter>b</parameter></function>", {"text": "a</parameter>b"}),
        ("<function=run><parameter=text></function></parameter></function>", {"text": "</function>"}),
        ("run", {}),
        ("run\n<arg_key>text</arg_key>\n<arg_value>a\n</arg_value>\n", {"text": "a\n"}),
        ("run <arg_key>count</arg_key><arg_value>4</arg_value>", {"count": 4}),
        ("run<arg_key>text</arg_key><arg_value></tool_call></arg_value>", {"text": "</tool_call>"}),
    ],
)
def test_a_call_in_its_wrapper(body: str, wanted: Any) -> None:
    assert only(f"<tool_call>{body}</tool_call>") == wanted
    assert only(f"\n<tool_call>\n{body}\n</tool_call>") == wanted


@pytest.mark.parametrize("tail", ["", "\n</tool_call>"])
def test_a_function_without_its_wrapper(tail: str) -> None:
    assert only(f"<function=run><parameter=count>3</parameter></function>{tail}") == {"count": 3}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("text", "12", "12"), ("text", "null", "null"), ("text", '"a"', '"a"'), ("text", " a ", " a "),
        ("count", "12", 12), ("count", "-3", -3), ("count", "3.0", 3), ("count", "3.5", "3.5"), ("count", "x", "x"),
        ("count", "true", "true"), ("count", "9" * 5000, "9" * 5000),
        ("ratio", "1e3", 1000.0), ("ratio", "2", 2), ("ratio", "NaN", "NaN"), ("ratio", "1e999", "1e999"),
        ("deep", "true", True), ("deep", "False", False), ("deep", "1", "1"),
        ("nothing", "null", None), ("maybe", "null", None), ("maybe", "5", "5"),
        ("options", '{"a": [1]}', {"a": [1]}), ("options", '{"a"', '{"a"'), ("options", "[" * 100_000, "[" * 100_000),
        ("list", " [1, 2] ", [1, 2]), ("list", "null", None), ("level", "2", 2), ("loop", "2", "2"),
        ("bare", "2", "2"), ("unknown", "2", "2"),
    ],
)  # fmt: skip
def test_values_between_tags_have_the_type_of_the_schema(key: str, text: str, value: Any) -> None:
    for call in (
        f"<tool_call><function=run><parameter={key}>{text}</parameter></function></tool_call>",
        f"<tool_call>run<arg_key>{key}</arg_key><arg_value>{text}</arg_value></tool_call>",
    ):
        (found,) = only(call).values()
        assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "schema", [{}, {"properties": []}, {"properties": {"a": 3}}, {"properties": {"a": {"$ref": 1}}}]
)
def test_a_schema_that_says_nothing_leaves_text(schema: Any) -> None:
    text = "<tool_call>run<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>"
    ((call,), _) = parse(text, tools=[Tool("run", "", schema)])
    assert isinstance(call, Call) and json.loads(call.arguments) == {"a": "1"}


@pytest.mark.parametrize(
    ("text", "malformed"),
    [
        ('<tool_call>{"name": "other", "arguments": {}}</tool_call>', 1),
        ('<tool_call>{"name": 3}</tool_call>', 1),
        ('<tool_call>{"name": "run", "arguments": [1]}</tool_call>', 1),
        ('<tool_call>{"name": "run", "arguments": "[1"}</tool_call>', 1),
        ('<tool_call>{"name": "run", "arguments": {"a": NaN}}</tool_call>', 1),
        ('<tool_call>{"name": "run", "arguments": {</tool_call>', 1),
        ('<tool_call>{"name": "run", "arguments": {"a": "</tool_call>', 1),
        ('<tool_call>{"name": "run"', 1),
        ("<tool_call>" + '{"name":' * 50_000 + "</tool_call>", 1),
        ("<tool_call>other\n<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>", 1),
        ("<tool_call>run<arg_key>a</arg_key></tool_call>", 1),
        ("<function=other></function>", 1),
        ("<function=run><parameter=text>a</function>", 1),
        ("<function=run>a</function>", 0),
        ("<tool_call>", 0),
        ("<function=run> <parameter=", 1),
        ("Write <tool_call> around it, or <function=name> alone.", 0),
        ("a <tool_call>" + "n" * 500 + "</tool_call>", 0),
        ("</tool_call> </function>", 0),
        (" \n ", 0),
    ],
)
def test_what_is_no_call_is_content_as_it_was_written(text: str, malformed: int) -> None:
    said, reader = parse(text)
    assert "".join(map(str, said)) == text and reader.malformed == malformed


@pytest.mark.parametrize(
    "broken",
    [
        '<tool_call>{"name": "run", "arguments": {}</tool_call>',
        '<tool_call>{"name": "run", "argu',
        "<tool_call><function=run><parameter=text>a</function></tool_call>",
        "<tool_call><function=run><parameter=text>a</tool_call>",
        "<tool_call>run<arg_key>text</arg_key><arg_value>a</tool_call>",
        "<tool_call>",
    ],
)
def test_a_good_call_behind_a_broken_one_is_not_lost(broken: str) -> None:
    good = "\n<tool_call>run<arg_key>count</arg_key><arg_value>1</arg_value></tool_call>"
    said, _ = parse(f"{broken}{good}")
    assert "".join(map(str, said[:-1])).rstrip() == broken
    assert isinstance(said[-1], Call) and said[-1].arguments == '{"count": 1}'


@pytest.mark.parametrize(
    "bomb",
    [
     '<tool_call>{"' * 9000, '<tool_call>{"' + "</tool_call>" * 9000, "<tool_call>" * 9000, "<function=run>" * 9000,
     "<function=run></function>x" * 4000, '<tool_call>{"' + '\\"' * 60_000 + "</tool_call>",
     "<tool_call>" + " " * 60_000,
    ],
)  # fmt: skip
def test_no_text_is_slow_to_read(bomb: str) -> None:
    began_s = time.thread_time()
    parse(*(bomb[at : at + 4] for at in range(0, len(bomb), 4)))
    assert time.thread_time() - began_s < 10  # a quadratic reading takes minutes
