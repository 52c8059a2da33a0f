"""Laws of equality by meaning: any other spelling of a message is equal, any change of what it says is not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inference.conversation.canonical import Prefix, canonical_arguments, message_digest, tools_digest
from inference.conversation.turns import turns_of
from inference.messages import Conversation, Message, Role, TextPart, Tool, ToolCall

Draw = Callable[[st.SearchStrategy[Any]], Any]
TAGS = ("<think>", "</think>")
texts = st.text(st.characters(exclude_categories=()), max_size=12)
numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-1000, 1000).map(float),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
objects = st.dictionaries(texts, values, max_size=4)


def digests(*messages: Message) -> list[bytes]:
    return [message_digest(turn) for turn in turns_of(Conversation(messages), TAGS, Counter())]


def digest(message: Message) -> bytes:
    return digests(message)[0]


# --- arguments --------------------------------------------------------------------------------------------------


class Writer:
    """Writes JSON the way some client might: order, blanks, escapes and the form of numbers are drawn."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw

    def __call__(self, value: Any) -> str:
        match value:
            case dict():
                items = self._draw(st.permutations(list(value.items())))
                return self._between(
                    "{", [f"{self(key)}{self._blank()}:{self._blank()}{self(v)}" for key, v in items], "}"
                )
            case list():
                return self._between("[", [self(item) for item in value], "]")
            case str():
                return self._string(value)
            case bool() | None:
                return json.dumps(value)
            case _:
                return self._number(value)

    def _between(self, opener: str, items: list[str], closer: str) -> str:
        comma = self._blank() + "," + self._blank()
        return opener + self._blank() + comma.join(items) + self._blank() + closer

    def _blank(self) -> str:
        return str(self._draw(st.sampled_from(["", " ", "\n  ", "\t"])))

    def _string(self, text: str) -> str:
        plain = json.dumps(text, ensure_ascii=self._draw(st.booleans()) or not text.isprintable())
        return plain.replace("/", "\\/") if self._draw(st.booleans()) else plain

    def _number(self, value: int | float) -> str:
        if isinstance(value, float):
            whole = value.is_integer() and abs(value) < 2**53
            forms = [repr(value), f"{value:.17e}", *([str(int(value))] if whole else [])]
            return str(self._draw(st.sampled_from(forms)))
        return str(self._draw(st.sampled_from([str(value), *([f"{value}.0"] if abs(value) < 2**53 else [])])))


@given(value=objects, draw=st.data())
def test_every_spelling_of_the_same_values_is_equal(value: dict[str, Any], draw: st.DataObject) -> None:
    write = Writer(draw.draw)
    assert canonical_arguments(write(value)) == canonical_arguments(write(value))


def same(one: Any, other: Any) -> bool:
    """The oracle: the same JSON value, typed."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


@given(one=objects, other=objects, draw=st.data())
def test_other_values_are_never_equal(one: dict[str, Any], other: dict[str, Any], draw: st.DataObject) -> None:
    write = Writer(draw.draw)
    assert (canonical_arguments(write(one)) == canonical_arguments(write(other))) == same(one, other)


@given(value=objects, place=st.data())
def test_one_changed_leaf_is_a_change(value: dict[str, Any], place: st.DataObject) -> None:
    changed = mutated(value, place.draw)
    assume(not same(value, changed))
    assert canonical_arguments(json.dumps(value)) != canonical_arguments(json.dumps(changed))


def mutated(value: Any, draw: Draw) -> Any:
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value, key=repr)))
        return value | {key: mutated(value[key], draw)}
    if isinstance(value, list) and value:
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], mutated(value[at], draw), *value[at + 1 :]]
    return draw(scalars)


NEAR_MISSES = [
    ('{"a": true}', '{"a": 1}'),
    ('{"a": false}', '{"a": 0}'),
    ('{"a": null}', "{}"),
    ('{"a": "1"}', '{"a": 1}'),
    ('{"a": "null"}', '{"a": null}'),
    ('{"a": [1, 2]}', '{"a": [2, 1]}'),
    ('{"a": []}', '{"a": {}}'),
    ('{"a": ""}', '{"a": null}'),
    ('{"a": 9007199254740993}', '{"a": 9007199254740992}'),
    ('{"a": 50.5}', '{"a": 50}'),
    ('{"a": "x "}', '{"a": "x"}'),
    ('{"a": "é"}', '{"a": "e\\u0301"}'),
    ('{"a": "\\\\/"}', '{"a": "/"}'),
    ('{"a": {"b": 1}}', '{"a": {"c": 1}}'),
    ('{"a": 1, "a": 2}', '{"a": 2}'),
    ('{"a": 1, "a": 2}', '{ "a": 1, "a": 2}'),
    ("[1]", "[1 ]"),
    ('{"a": 1', '{"a": 1 '),
    ('{"a": NaN}', '{"a": null}'),
    ('{"a": 1e999}', '{"a": 1e998}'),
]


@pytest.mark.parametrize(("one", "other"), NEAR_MISSES)
def test_near_misses(one: str, other: str) -> None:
    assert canonical_arguments(one) != canonical_arguments(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 50.0}', '{"a":50}'),
        ('{"a": -0.0}', '{"a": 0}'),
        ('{"a": 1e2}', '{"a": 100}'),
        ('{"a": 0.10000000000000000555}', '{"a": 0.1}'),
        ('{"a": "caf\\u00e9 \\/"}', '{"a": "café /"}'),
        ('{"a": "\\ud83d\\ude00"}', '{"a": "😀"}'),
        ('{"b": 1, "a": {"d": 1, "c": 2}}', '{"a":{"c":2,"d":1},"b":1}'),
        ("", "{}"),
        (" \n", "{}"),
    ],
)
def test_pairs(one: str, other: str) -> None:
    assert canonical_arguments(one) == canonical_arguments(other)


def test_arguments_that_nest_too_deep_or_are_too_long_are_only_equal_to_themselves() -> None:
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    assert canonical_arguments(deep) == deep
    long = '{"a": ' + "9" * 10_000 + "}"
    assert canonical_arguments(long) == long
    huge = '{"a": 1e308}'
    assert canonical_arguments(huge) == canonical_arguments('{"a":1.0e308}')


# --- messages ---------------------------------------------------------------------------------------------------


@given(text=texts, cuts=st.lists(st.integers(0, 12), max_size=3))
def test_parts_and_line_feeds_make_no_difference(text: str, cuts: list[int]) -> None:
    assume("\r" not in text)
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    parts = tuple(TextPart(text[a:b], "x") for a, b in pairwise(edges))
    whole = Message(Role.USER, (TextPart(text.replace("\n", "\r\n")),) if text else ())
    assert digest(Message(Role.USER, parts, path="messages[7]")) == digest(whole)


@given(one=texts, other=texts, role=st.sampled_from([Role.USER, Role.SYSTEM, Role.TOOL]))
def test_text_is_exact_except_an_assistants(one: str, other: str, role: Role) -> None:
    assume("\r" not in one + other)
    assert (digest(Message(role, (TextPart(one),))) == digest(Message(role, (TextPart(other),)))) == (one == other)
    said = [digest(Message(Role.ASSISTANT, (TextPart(text),))) for text in (one, other)]
    assume("<think>" not in one + other)
    assert (said[0] == said[1]) == (one.strip() == other.strip())


@given(fields=st.lists(st.tuples(st.sampled_from(list(Role)), texts, texts, texts, texts), min_size=2, max_size=2))
def test_no_field_can_pass_for_another(fields: list[tuple[Role, str, str, str, str]]) -> None:
    """Two assistant messages are equal only where each of their fields is."""
    one, other = (
        Message(Role.ASSISTANT, (TextPart("x" + text),), "r" + reasoning, (ToolCall("i" + id_, name, '{"a": 1}'),))
        for _, text, reasoning, id_, name in fields
    )
    assume(all("\r" not in field for _, *rest in fields for field in rest))
    bare = [
        ("x" + text).strip() + "\0" + ("r" + reasoning).strip() + "\0" + "".join(filter(str.isalnum, id_)) + "\0" + name
        for _, text, reasoning, id_, name in fields
    ]
    assume(all(one_bare.count("\0") == 3 for one_bare in bare))
    assert (digest(one) == digest(other)) == (bare[0] == bare[1])


CALL = ToolCall("call_0001_abc", "read", '{"path": "a", "limit": 50.0}')
SAID = Message(Role.ASSISTANT, (TextPart("Let me look."),), "I should look.\n", (CALL,))


@pytest.mark.parametrize(
    "other",
    [
        replace(SAID, reasoning="  I should look."),
        replace(SAID, parts=(TextPart("\n\nLet me look. \n"),)),
        replace(SAID, parts=(TextPart("Let me "), TextPart("look."))),
        replace(SAID, reasoning="", parts=(TextPart("<think>\nI should look.\n</think>\n\nLet me look."),)),
        replace(SAID, tool_calls=(ToolCall("call0001abc", "read", '{"limit":50,"path":"a"}'),)),
        replace(SAID, path="messages[12]"),
    ],
)
def test_the_same_message_in_other_words(other: Message) -> None:
    assert digest(other) == digest(SAID)


@pytest.mark.parametrize(
    "other",
    [
        replace(SAID, reasoning=""),
        replace(SAID, reasoning="I should  look."),
        replace(SAID, parts=()),
        replace(SAID, parts=(TextPart("Let me look!"),)),
        replace(SAID, role=Role.USER),
        replace(SAID, tool_calls=()),
        replace(SAID, tool_calls=(CALL, CALL)),
        replace(SAID, tool_calls=(replace(CALL, name="write"),)),
        replace(SAID, tool_calls=(replace(CALL, id="call_0001_abd"),)),
        replace(SAID, tool_calls=(replace(CALL, arguments='{"path": "b", "limit": 50.0}'),)),
    ],
)
def test_another_message(other: Message) -> None:
    assert digest(other) != digest(SAID)


def test_a_result_is_named_by_its_call() -> None:
    result = Message(Role.TOOL, (TextPart("ok"),), tool_call_id="call0001abc")
    assert digests(SAID, replace(result, tool_call_id=CALL.id))[1] == digests(SAID, replace(result, name="read"))[1]
    assert digests(SAID, result)[1] != digests(SAID, replace(result, name="write"))[1]


@given(messages=st.lists(texts, min_size=1, max_size=5), place=st.data())
def test_a_prefix_is_its_whole_history(messages: list[str], place: st.DataObject) -> None:
    def prefix(texts: list[str], scope: str = "m", tools: tuple[Tool, ...] = ()) -> Prefix:
        made = Prefix.of(scope, tools_digest(tools))
        for one in texts:
            made = made.then(digest(Message(Role.USER, (TextPart(one),))))
        return made

    at = place.draw(st.integers(0, len(messages) - 1))
    changed = [*messages[:at], messages[at] + "x", *messages[at + 1 :]]
    assert prefix(messages) == prefix(list(messages))
    assert prefix(messages) != prefix(changed)
    assert prefix(messages) != prefix(messages[:-1])
    assert prefix(messages) != prefix(messages, scope="n")
    assert prefix(messages) != prefix(messages, tools=(Tool("look"),))


def test_tools_are_compared_by_value() -> None:
    tool = Tool("look", "d", {"type": "object", "properties": {"n": {"default": 1.0, "type": "number"}}}, path="x")
    same_tool = Tool("look", "d", {"properties": {"n": {"type": "number", "default": 1}}, "type": "object"})
    assert tools_digest((tool,)) == tools_digest((same_tool,))
    assert tools_digest((tool,)) != tools_digest((replace(tool, description=""),))
    assert tools_digest((tool,)) != tools_digest((replace(tool, strict=True),))
    assert tools_digest((tool, Tool("b"))) != tools_digest((Tool("b"), tool))
