"""What is asked for, as grammar: literals and patterns, formats, and whom a tool choice means."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from inference.engine.grammar import LlgCompiler
from inference.engine.tokenizer import JsonTokenizer
from inference.errors import InvalidParameter, UnsupportedParameter
from inference.messages import Tool
from inference.params import Grammar
from inference.ports import ModelRef
from mlxd.api.call_grammar import Speech, call_rules
from mlxd.api.formats import alone, content_grammar
from mlxd.api.json_schema import FORMATS, enforceable
from mlxd.api.lark import literal, regex
from mlxd.api.schemas import ChatRequest
from mlxd.api.schemas.formats import FormatFields
from mlxd.api.tool_choice import ToolChoice, tool_choice
from tests.grammars import tiny_tokenizer, write

MODEL = ModelRef("tiny", Path("tiny"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def compiler(tokenizer: JsonTokenizer) -> Iterator[LlgCompiler]:
    made = LlgCompiler(lambda _model: tokenizer)
    yield made
    made.close()


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields})


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


# --- literals and patterns --------------------------------------------------------------------------------------


TEXTS = ('"', "\\", "a/b", "\x00\x1f\x7f", "\u2028", "é日😀", '"\n start: "x', "%json {}", "<[1]>")


@pytest.mark.parametrize("text", TEXTS)
def test_a_literal_is_its_text_and_no_syntax(compiler: LlgCompiler, tokenizer: JsonTokenizer, text: str) -> None:
    ids = write(compiler.compile(MODEL, Grammar(f"start: {literal(text)}", "x")), seed=1)
    assert tokenizer.decode(ids) == text


PATTERNS = (
    "^ab+c$", "a|bc", r"\d{2}/\d", "x/y", r"x\/y", r"\w\W", "[\\d_-]+\nx", r"a\\$", r"\$", "(?i)no", "[^/]{3}", "é{2}",
    "a$", "^(a|b)$", r"[\w.]{1,4}@x", '"q"',
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_matched_by_the_whole_text(compiler: LlgCompiler, tokenizer: JsonTokenizer, pattern: str) -> None:
    grammar = compiler.compile(MODEL, Grammar(f"start: {regex(pattern)}", "x"))
    for seed in range(10):
        text = tokenizer.decode(write(grammar, seed))
        assert re.fullmatch(pattern, text, re.ASCII), (pattern, text)


@pytest.mark.parametrize("pattern", ["a\\", "a\\\\\\"])
def test_half_an_escape_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match="half"):
        regex(pattern)


def test_no_pattern_leaves_its_place(compiler: LlgCompiler) -> None:
    """Whatever a client writes, what follows stays what it was: the grammar fails, or its text ends in the mark."""
    random, pieces = Random(5), ["/", "\\", "\n", '"', "start: x", "a", "#", "(", ")", "[", "]", "//", "|", "$", "^"]
    refused = 0
    for _ in range(200):
        pattern = "".join(random.choices(pieces, k=random.randint(1, 6)))
        try:
            written = regex(pattern)
        except ValueError:
            refused += 1
            continue
        assert "\n" not in written
        assert re.fullmatch(r"/(?:[^/\\]|\\.)*/", written), pattern
    assert 0 < refused < 150


# --- schemas ----------------------------------------------------------------------------------------------------


def test_remarks_are_left_out_and_names_are_not() -> None:
    schema = {
        "x-guidance": {"lenient": True},
        "format": "card",
        "properties": {"format": {"type": "string", "format": "password"}, "when": {"format": "date"}},
        "anyOf": [{"format": "int32"}, True],
        "default": {"format": "kept"},
    }
    assert enforceable(schema) == {
        "properties": {"format": {"type": "string"}, "when": {"format": "date"}},
        "anyOf": [{}, True],
        "default": {"format": "kept"},
    }


# --- formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": 5}}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"const": 5}, "strict": False},
            }
        },
        {"guided_json": {"const": 5}},
        {"guided_json": '{"const": 5}'},
        {"guided_regex": "5"},
        {"guided_choice": ["5"]},
        {"structured_outputs": {"json": {"const": 5}}},
        {"structured_outputs": {"regex": "^5$"}},
        {"structured_outputs": {"choice": ["5"]}},
    ],
)
def test_every_spelling_says_the_same(compiler: LlgCompiler, tokenizer: JsonTokenizer, fields: dict[str, Any]) -> None:
    grammar = alone(content_grammar(chat(**fields)))
    assert grammar
    assert tokenizer.decode(write(compiler.compile(MODEL, grammar), seed=1)) == "5"


@pytest.mark.parametrize("count", [3, 4096])
def test_any_of_the_choices_is_written_and_nothing_else(
    compiler: LlgCompiler, tokenizer: JsonTokenizer, count: int
) -> None:
    """As many as may be sent, and some that others begin with."""
    choices = ["1", "19", "190", *(f"{number} /apples\\" for number in range(count - 3))]
    grammar = alone(content_grammar(chat(guided_choice=choices)))
    assert grammar
    made = compiler.compile(MODEL, grammar)
    written = {tokenizer.decode(write(made, seed)) for seed in range(60)}
    assert written <= set(choices)
    assert len(written) > 20 if count > 3 else written == set(choices)


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}, {"structured_outputs": {}}])
def test_without_a_format_an_answer_is_free(fields: dict[str, Any]) -> None:
    assert content_grammar(chat(**fields)) is None


def test_an_object_is_an_object(compiler: LlgCompiler) -> None:
    for fields in ({"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}):
        grammar = alone(content_grammar(chat(**fields)))
        assert grammar and '"object"' in grammar.lark


def test_two_formats_are_one_too_many() -> None:
    both = chat(guided_choice=["a"], structured_outputs={"regex": "a"})
    with pytest.raises(InvalidParameter, match=r"guided_choice and structured_outputs\.regex"):
        content_grammar(both)
    with pytest.raises(UnsupportedParameter):
        content_grammar(chat(guided_grammar="root ::= x"))


# --- whom a choice means ----------------------------------------------------------------------------------------

TOOLS = [function("a"), function("b")]
ALLOWED = [function("b")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ToolChoice()),
        ({"tool_choice": "auto"}, ToolChoice()),
        ({"tool_choice": "none"}, ToolChoice(offered=False)),
        ({"tool_choice": "required"}, ToolChoice(forced=True)),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ToolChoice(forced=True, single=True)),
        ({"tool_choice": function("a")}, ToolChoice(forced=True, names=frozenset("a"), single=True)),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": ALLOWED}}},
            ToolChoice(forced=True, names=frozenset("b")),
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": ALLOWED}}},
            ToolChoice(names=frozenset("b")),
        ),
    ],
)
def test_a_choice_is_read(fields: dict[str, Any], expected: ToolChoice) -> None:
    choice = tool_choice(chat(tools=TOOLS, **fields))
    assert choice == expected
    shown = {name for name in "ab" if choice.shows(name)}
    hides = fields.get("tool_choice") == "none", bool(expected.names) and not expected.forced
    assert shown == (set() if hides[0] else {"b"} if hides[1] else {"a", "b"})


@pytest.mark.parametrize(
    "choice",
    [
        "sometimes", 5, [], {}, {"type": "function"}, function("c"), function(""), {"type": "custom"},
        {"type": "allowed_tools"}, {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "never", "tools": ALLOWED}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [function("c")]}},
    ],
)  # fmt: skip
def test_a_choice_of_nothing_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        tool_choice(chat(tools=TOOLS, tool_choice=choice))
    assert refused.value.param == "tool_choice"


def test_a_call_is_forced_in_the_form_of_the_template() -> None:
    def form(template: str, *dialects: str) -> str:
        return Speech(template, lambda _text: (), dialects).form

    assert form("") == form("... <tool_call> ...") == form("<|im_start|>") == "json"
    assert form("<tool_call><function=") == "xml"
    assert form("<tool_call><arg_key>") == "tagged"
    assert form("[TOOL_CALLS]") == "mistral"
    assert form("<|channel|>", "harmony") == "harmony"
    assert form("<function=", "json") == "json"  # as the setting says
    assert form("<function=", "pythonic") == "xml"  # a form that cannot be written


def test_arguments_that_are_no_object_are_refused() -> None:
    tool = Tool("f", parameters={"type": "string"}, path="tools[0].function")
    with pytest.raises(InvalidParameter) as refused:
        call_rules([tool], Speech("", lambda _text: ()), single=True)
    assert refused.value.param == "tools[0].function.parameters.type"


def test_a_tool_is_held_to_what_can_be_enforced_unless_it_is_strict(
    compiler: LlgCompiler, tokenizer: JsonTokenizer
) -> None:
    parameters = {
        "type": "object",
        "properties": {"ids": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2, "uniqueItems": True}},
        "required": ["ids"],
    }
    for strict in (None, False, True):
        rules = call_rules([Tool("f", parameters=parameters, strict=strict)], Speech("", tokenizer.encode_template),
                           single=True)  # fmt: skip
        grammar = Grammar("\n".join(["start: calls", *rules]), "tools")
        if strict:
            with pytest.raises(InvalidParameter, match="uniqueItems"):
                compiler.compile(MODEL, grammar)
        else:
            compiler.compile(MODEL, grammar)


def test_58_tools_of_100_kilobytes_compile(compiler: LlgCompiler, tokenizer: JsonTokenizer) -> None:
    tools = [large_tool(number) for number in range(58)]
    size = sum(len(json.dumps(tool.parameters)) for tool in tools)
    assert size > 100_000
    rules = call_rules(tools, Speech("<function=", tokenizer.encode_template), single=False)
    began_s = time.monotonic()
    compiled = compiler.compile(MODEL, Grammar("\n".join(["start: calls", *rules]), "tools"))
    print(f"{len(tools)} tools, {size} bytes: {time.monotonic() - began_s:.3f} s")
    assert time.monotonic() - began_s < 20
    assert compiled.matcher().allowed()


def large_tool(number: int) -> Tool:
    item = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "Where it is. " * 12},
            "mode": {"enum": ["read", "write", f"other{number}"]},
            "line": {"type": "integer", "minimum": 0},
        },
        "required": ["path"],
    }
    properties = {f"p{at}": {"type": "string", "description": "What it is for. " * 10} for at in range(6)}
    properties |= {"items": {"type": "array", "items": item}, "deep": {"type": "object", "properties": {"in": item}}}
    return Tool(
        f"tool_{number}", "Does much.", {"type": "object", "properties": properties, "required": ["p0", "items"]}
    )


# --- the page that tells of it ----------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "structured-output.md").read_text()


def test_the_example_of_the_page_works(compiler: LlgCompiler, tokenizer: JsonTokenizer) -> None:
    body = ChatRequest.model_validate_json(PAGE.split("-d '")[1].split("'\n")[0])
    grammar = alone(content_grammar(body))
    assert grammar
    compiler.compile(MODEL, grammar)


def test_the_page_names_every_format_and_every_field() -> None:
    assert all(f"`{name}`" in PAGE for name in FORMATS)
    assert all(name in PAGE for name in FormatFields.model_fields)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        {"not": {"type": "string"}},
        {"if": {"type": "string"}, "then": {"minLength": 2}},
        {"dependentSchemas": {"a": {"required": ["b"]}}},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"type": "string", "pattern": "(?=a)b"},
        {"$ref": "https://example.com/a.json"},
    ],
)
def test_what_the_page_says_is_refused_is(compiler: LlgCompiler, schema: dict[str, Any]) -> None:
    grammar = alone(content_grammar(chat(guided_json=schema)))
    assert grammar
    with pytest.raises(InvalidParameter, match="guided_json cannot be enforced"):
        compiler.compile(MODEL, grammar)


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        {"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
        {"type": "string", "format": "password"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "integer"},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "T", "default": 1, "type": "integer"},
    ],
)
def test_what_the_page_says_is_enforced_compiles(compiler: LlgCompiler, schema: dict[str, Any]) -> None:
    grammar = alone(content_grammar(chat(guided_json=schema)))
    assert grammar
    compiler.compile(MODEL, grammar)
