"""What models write as calls in each dialect, and what else they write in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference.streaming.dialects.choice import AUTO, NAMES, SIGNS, detect, dialects, markers, message_format, spoken
from inference.streaming.dialects.table import ALWAYS, DIALECTS
from tests.dialects.calls import PLAIN, Call
from tests.dialects.table import WAYS, Way, parts, read

LOOK: Call = ("look", {"text": "a"})


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("calls", PLAIN, ids=lambda calls: " ".join(name for name, _ in calls))
def test_calls_as_the_template_writes_them(way: Way, calls: tuple[Call, ...]) -> None:
    text = way.write(calls)
    assert parts(read([text], [way.dialect])) == list(calls) == way.oracle(text)
    if not way.alone:
        text = f"before {text}\nafter"
        assert parts(read([text], [way.dialect])) == ["before ", *calls, "\nafter"] == way.oracle(text)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_all_dialects_may_be_on_at_once(way: Way) -> None:
    for calls in PLAIN:
        assert parts(read([way.write(calls)], [], every=True)) == list(calls)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_tool_that_was_not_offered_is_content(way: Way) -> None:
    text = f"{way.write([('other', {'text': 'a'})])}"
    assert "".join(piece for piece in parts(read([text], [way.dialect])) if isinstance(piece, str)) == text


UNUSUAL: tuple[tuple[str, str, list[str | Call]], ...] = (
    ("pythonic", "<|python_tag|>[look(text='a')]", [LOOK]),
    ("pythonic", "<|tool_call_start|>[look(text='a',), look()]<|tool_call_end|>", [LOOK, ("look", {})]),
    ("pythonic", '<|tool_call_start|>[look(text="""a\n"b" """)]', [("look", {"text": 'a\n"b" '})]),
    ("pythonic", r"<|tool_call_start|>[look(text='\x41\u00e9\U0001F600\d\'')]", [("look", {"text": "Aé😀\\d'"})]),
    ("pythonic", r'<|tool_call_start|>[look(text="\ud83d\ude00")]', [("look", {"text": "😀"})]),
    ("pythonic", "<|tool_call_start|>[look(items=(1, 1_000, 0x1F, .5, -2), options={1: None, 'a': true})]",
     [("look", {"items": [1, 1000, 31, 0.5, -2], "options": {"1": None, "a": True}})]),
    ("pythonic", "<|tool_call_start|>[look('a')]<|tool_call", ["<|tool_call_start|>[look('a')]<|tool_call"]),
    ("pythonic", "<|tool_call_start|>[look(count=inf)]", ["<|tool_call_start|>[look(count=inf)]"]),
    ("pythonic", "[look(text='a')] is how it is called.", ["[look(text='a')] is how it is called."]),
    ("pythonic", "[look](https://example.org)", ["[look](https://example.org)"]),
    ("pythonic", "so: [look(text='a')]", ["so: [look(text='a')]"]),
    ("function_gemma", "<start_function_call>call:look{text:<escape>a<escape>}", [LOOK]),
    ("gemma4", '<|tool_call>call:look{text:<|"|>a<|"|>}call:look{}<tool_call|>', [LOOK, ("look", {})]),
    ("gemma4", "<|tool_call>call:look{text:plain words,deep:True}<tool_call|>",
     [("look", {"text": "plain words", "deep": True})]),
    ("gemma4", '<|tool_call>call:look{ text : "a" }<tool_call|>', [LOOK]),
    ("gemma4", '<|tool_call>call:look{<|"|>text<|"|>:<|"|>a<|"|>}<tool_call|>', [LOOK]),
    ("gemma4", "<|tool_call>call:look{text}<tool_call|>", ["<|tool_call>call:look{text}<tool_call|>"]),
    ("kimi_k2", '<|tool_call_begin|>look:7<|tool_call_argument_begin|> {"text": "a"} <|tool_call_end|>', [LOOK]),
    ("kimi_k2", "<|tool_calls_section_begin|> <|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>"
     '{"text": "a"}', [LOOK]),
    ("kimi_k3", '<|open|>tools<|sep|><|open|>call tool="look"<|sep|><|open|>argument key="count"<|sep|>3'
     "<|close|>argument<|sep|><|close|>call<|sep|>", [("look", {"count": "3"})]),
    ("minimax_m2", "<minimax:tool_call><invoke name='look'><parameter name=text>a</parameter></invoke>", [LOOK]),
    ("minimax_m2", '<minimax:tool_call><invoke name="look"><parameter name="text">a</invoke><invoke name="look">',
     ['<minimax:tool_call><invoke name="look"><parameter name="text">a</invoke><invoke name="look">']),
    ("muse_spark", '<atem:function_calls><atem:invoke name="look"><atem:parameter name="items">[1]</atem:parameter>'
     "</atem:invoke></atem:function_calls>", [("look", {"items": [1]})]),
    ("deepseek_dsml", '<｜DSML｜tool_calls><｜DSML｜invoke name="look"><｜DSML｜parameter name="count" string="true">'
     "3</｜DSML｜parameter></｜DSML｜invoke>", [("look", {"count": "3"})]),
    ("deepseek", "<｜tool▁call▁begin｜>look<｜tool▁sep｜><｜tool▁call▁end｜>", [("look", {})]),
    ("cohere", '<|START_ACTION|>{"tool_name": "look", "parameters": {"text": "a"}}<|END_ACTION|>', [LOOK]),
    ("minicpm5", '<function name="look"><param name="text">a</param></function> and <function name="none">',
     [LOOK, ' and <function name="none">']),
    ("longcat", "<longcat_tool_call>look</longcat_tool_call>", [("look", {})]),
)  # fmt: skip


@pytest.mark.parametrize(("dialect", "text", "wanted"), UNUSUAL, ids=lambda value: str(value)[:40])
def test_what_else_is_written(dialect: str, text: str, wanted: list[str | Call]) -> None:
    assert parts(read([text], [dialect])) == wanted
    assert parts(read(text, [dialect])) == wanted


M = "]<]minimax[>["


def m3(inner: str) -> str:
    return f'{M}<tool_call>\n{M}<invoke name="look">{inner}{M}</invoke>\n{M}</tool_call>'


@pytest.mark.parametrize(
    ("inner", "arguments"),
    [
        ("", {}),
        (f"{M}<text>a <b> {M} c{M}</text>{M}<count>3{M}</count>", {"text": f"a <b> {M} c", "count": 3}),
        (f"{M}<items>{M}<item>1{M}</item>{M}<item>b{M}</item>{M}</items>", {"items": ["1", "b"]}),
        (f"{M}<items>{M}<any>1{M}</any>{M}</items>", {"items": ["1"]}),
        (f"{M}<items>[1, 2]{M}</items>{M}<options>{M}</options>", {"items": [1, 2], "options": {}}),
        (
            f"{M}<options>\n{M}<a>{M}<item>x{M}</item>{M}</a>\n{M}<b>{M}<c>y{M}</c>{M}</b>{M}</options>",
            {"options": {"a": ["x"], "b": {"c": "y"}}},
        ),
        (f"{M}<items>{M}</items>", {"items": []}),
    ],
)
def test_elements_of_minimax_m3(inner: str, arguments: dict[str, Any]) -> None:
    for pieces in ([m3(inner)], list(m3(inner))):
        assert parts(read(["so ", *pieces, " then"], ["minimax_m3"])) == ["so ", ("look", arguments), " then"]


@pytest.mark.parametrize(
    "inner", [f"{M}<items>{M}<item>1{M}</items>", f"{M}<items>x{M}<item>1{M}</item>{M}</items>", "x"]
)
def test_broken_elements_are_content(inner: str) -> None:
    assert parts(read([m3(inner)], ["minimax_m3"])) == [m3(inner)]


# --- which dialect ------------------------------------------------------------------------------------------------

TEMPLATES = {
    "harmony": "<|start|>assistant to=functions.x<|channel|>commentary json<|message|><|call|>",
    "muse_spark": '<atem:function_calls><atem:invoke name="',
    "minimax_m3": "]<]minimax[>[<tool_call>",
    "minimax_m2": '<minimax:tool_call>\n<invoke name="',
    "deepseek_dsml": "<｜DSML｜function_calls>",
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    "kimi_k2": "<|tool_calls_section_begin|>",
    "gemma4": "<|tool_call>call:<tool_call|>",
    "function_gemma": "<start_function_call>call:",
    "longcat": "<longcat_tool_call>",
    "cohere": "<|START_ACTION|>",
    "minicpm5": '<function name="fn"><param name="p">',
    "pythonic": "<|tool_list_start|>",
}


@pytest.mark.parametrize(("dialect", "template"), TEMPLATES.items())
def test_a_template_shows_its_dialect(dialect: str, template: str) -> None:
    assert detect(f"{{% for m in messages %}}{template}{{% endfor %}}") == (dialect,)
    assert detect("", [template]) == (dialect,)


def test_a_vocabulary_shows_a_dialect_too() -> None:
    assert detect("plain", ["<|open|>", "<|close|>", "<|sep|>"]) == ("kimi_k3",)
    assert detect("plain", ["<|tool_call_start|>", "<|tool_call_end|>"]) == ("pythonic",)


def test_every_sign_has_its_test_and_its_dialect() -> None:
    assert {sign.dialect for sign in SIGNS} == {*TEMPLATES, "kimi_k3"} <= DIALECTS.keys()
    assert {way.dialect for way in WAYS} | {"minimax_m3", "harmony"} | set(ALWAYS) == DIALECTS.keys()


def test_a_plain_template_shows_none() -> None:
    assert detect('<tool_call>\n{"name": ...}</tool_call> <|im_start|>', ["<tool_call>", "<think>"]) == ()


def test_the_models_own_dialect_is_tried_first_and_the_common_ones_always() -> None:
    names = [dialect.name for dialect in dialects(("pythonic", "xml"))]
    assert names == ["pythonic", "xml", *(name for name in ALWAYS if name != "xml")]
    assert [dialect.name for dialect in dialects(())] == list(ALWAYS)


def test_a_named_dialect_takes_the_place_of_the_detected() -> None:
    assert spoken(("gemma4",)) == ("gemma4",) == spoken(("gemma4",), AUTO)
    assert spoken(("gemma4",), "hermes") == ("json",)
    assert spoken(("harmony",), "xml_function") == ("xml", "harmony")
    assert NAMES.keys() >= DIALECTS.keys() and set(NAMES.values()) <= DIALECTS.keys()


def test_markers_of_messages_are_shown_only_to_their_own_models() -> None:
    assert "<|message|>" in markers(("harmony",)) and "<|eom|>" in markers(("muse_spark",))
    assert not {"<|message|>", "<|start|>", "<|end|>"} & {*markers(()), *markers(("gemma4",))}
    assert message_format(("gemma4",)) is None


def test_a_type_of_the_dialects_own_wins_over_the_schema() -> None:
    text = '<｜DSML｜function_calls><｜DSML｜invoke name="look"><｜DSML｜parameter name="text" string="false">{"a": 1}'
    text += "</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜function_calls>"
    assert parts(read([text], ["deepseek_dsml"])) == [("look", {"text": {"a": 1}})]


def test_every_name_of_a_dialect_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tool-calls.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []
