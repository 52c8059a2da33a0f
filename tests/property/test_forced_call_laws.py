"""Calls written by chance within their grammar are read as calls, and their arguments are valid under the schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from inference.engine.grammar import LlgCompiler
from inference.engine.tokenizer import JsonTokenizer
from inference.events import Channel, Delta, ToolCallDelta
from inference.messages import Tool
from inference.params import GenerationParams, Grammar
from inference.ports import ModelRef
from inference.scheduler.answer import Answer
from inference.scheduler.request import Request
from inference.streaming.dialects.choice import markers
from inference.tokens import Prompt
from mlxd.api.call_grammar import Speech
from mlxd.api.formats import answer_grammar
from mlxd.api.lark import json_node
from mlxd.api.tool_choice import ToolChoice
from tests.grammars import EOS_IDS, allowed_ids, tiny_tokenizer, write

MODEL = ModelRef("tiny", Path("tiny"))
MARKERS = (
    "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>",
    "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
)  # fmt: skip
FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "json": ("<tool_call>", ()),
    "xml": ("<function=", ()),
    "tagged": ("<arg_key>", ()),
    "mistral, listed": ("[TOOL_CALLS]", ()),
    "mistral, named": ("[TOOL_CALLS][ARGS]", ()),
    "llama": ("<|python_tag|>", ()),
    "harmony": ("<|channel|>", ("harmony",)),
    "unknown": ("", ()),
}
TOOLS = (
    Tool(
        "weather",
        parameters={
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Oslo", "São Paulo", "a <b> & 'c'"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "units": {"type": "array", "items": {"enum": ["metric", "imperial"]}, "maxItems": 2},
                "exact": {"type": "boolean"},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    ),
    Tool("now", parameters={"type": "object", "properties": {}, "additionalProperties": False}),
    Tool(
        "read-file.v2",
        strict=True,
        parameters={
            "type": "object",
            "properties": {
                "path": {"type": "string", "pattern": "^/[a-z]{1,8}$"},
                "at": {"$ref": "#/$defs/place"},
                "mode": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
            },
            "required": ["path", "at", "mode"],
            "additionalProperties": False,
            "$defs": {"place": {"type": "array", "items": {"type": "integer", "maximum": 9}, "maxItems": 2}},
        },
    ),
)
TEXTUAL = Tool(
    "note",
    parameters={
        "type": "object",
        "properties": {"text": {"type": "string"}, "title": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        "required": ["text"],
        "additionalProperties": False,
    },
)
ENDINGS = {"xml": "</parameter>", "tagged": "</arg_value>"}


@pytest.fixture(scope="module", params=["markers are tokens", "markers are letters"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), MARKERS if request.param.endswith("tokens") else ())


@pytest.fixture(scope="module")
def compiler(tokenizer: JsonTokenizer) -> Iterator[LlgCompiler]:
    made = LlgCompiler(lambda _model: tokenizer)
    yield made
    made.close()


def speech(tokenizer: JsonTokenizer, form: str) -> Speech:
    template, dialects = FORMS[form]
    return Speech(template, tokenizer.encode_template, dialects)


def grammar_of(
    compiler: LlgCompiler, speech: Speech, tools: Sequence[Tool], choice: ToolChoice, content: Grammar | None = None
) -> Any:
    grammar = answer_grammar(content, choice, tools, speech)
    assert grammar is not None
    return compiler.compile(MODEL, grammar)


def read(tokenizer: JsonTokenizer, form: str, tools: Sequence[Tool], ids: Sequence[int]) -> tuple[str, list[Any]]:
    """The content of an answer and its calls as (name, arguments)."""
    names = FORMS[form][1]
    shown = frozenset(found[0] for text in markers(names) if len(found := tokenizer.encode_template(text)) == 1)
    request = Request(
        "r", MODEL, tokenizer, Prompt(()), GenerationParams(), 9999, tools=tuple(tools), dialects=names, shown=shown
    )
    answer = Answer(request)
    for id_ in ids:
        answer.push((id_,))
    answer.finish()
    assert not answer.malformed_calls, tokenizer.decode(ids)
    content, calls = "", list[list[str]]()
    for event in answer.events:
        if isinstance(event, ToolCallDelta):
            if event.name:
                calls.append([event.name, ""])
            calls[-1][1] += event.arguments
        elif isinstance(event, Delta) and event.channel is Channel.CONTENT:
            content += event.text
    return content, [(name, json.loads(arguments)) for name, arguments in calls]


def assert_valid(name: str, arguments: Any, tools: Sequence[Tool]) -> None:
    (tool,) = [tool for tool in tools if tool.name == name]
    jsonschema.Draft202012Validator(tool.parameters).validate(arguments)


@pytest.mark.parametrize("form", FORMS)
def test_a_forced_answer_is_calls_and_nothing_else(compiler: LlgCompiler, tokenizer: JsonTokenizer, form: str) -> None:
    grammar = grammar_of(compiler, speech(tokenizer, form), TOOLS, ToolChoice(forced=True))
    seen: dict[str, int] = {}
    for seed in range(24):
        content, calls = read(tokenizer, form, TOOLS, write(grammar, seed, ending=harmony_ending(tokenizer, form)))
        assert calls
        assert not content
        for name, arguments in calls:
            seen[name] = seen.get(name, 0) + 1
            assert_valid(name, arguments, TOOLS)
    assert set(seen) == {tool.name for tool in TOOLS}


def harmony_ending(tokenizer: JsonTokenizer, form: str) -> Sequence[int]:
    """What ends the thought that an answer in messages may begin with."""
    return tokenizer.encode_template("<|end|>") if form == "harmony" else ()


@pytest.mark.parametrize("form", FORMS)
def test_a_named_or_single_call_is_one(compiler: LlgCompiler, tokenizer: JsonTokenizer, form: str) -> None:
    voice, ending = speech(tokenizer, form), harmony_ending(tokenizer, form)
    named = grammar_of(compiler, voice, TOOLS, ToolChoice(forced=True, names=frozenset({"now"}), single=True))
    single = grammar_of(compiler, voice, TOOLS, ToolChoice(forced=True, single=True))
    for seed in range(10):
        assert read(tokenizer, form, TOOLS, write(named, seed, ending=ending)) == ("", [("now", {})])
        assert len(read(tokenizer, form, TOOLS, write(single, seed, ending=ending))[1]) == 1


@pytest.mark.parametrize("form", FORMS)
def test_beside_a_format_an_answer_is_a_call_or_content(
    compiler: LlgCompiler, tokenizer: JsonTokenizer, form: str
) -> None:
    schema = {"type": "object", "properties": {"answer": {"enum": [1, 2]}}, "required": ["answer"],
              "additionalProperties": False}  # fmt: skip
    content_grammar = Grammar(f"content: {json_node(schema)}", "response_format")
    grammar = grammar_of(compiler, speech(tokenizer, form), TOOLS, ToolChoice(), content_grammar)
    kinds = set()
    for seed in range(40):
        content, calls = read(tokenizer, form, TOOLS, write(grammar, seed, ending=harmony_ending(tokenizer, form)))
        assert bool(content) != bool(calls)
        kinds.add(bool(calls))
        if content:
            jsonschema.validate(json.loads(content), schema)
    assert kinds == {True, False}


@pytest.mark.parametrize("form", ["json", "xml", "tagged", "unknown"])
def test_a_second_call_is_not_begun(compiler: LlgCompiler, tokenizer: JsonTokenizer, form: str) -> None:
    """The markers of calls are tokens of this model, whichever others are."""
    voice = replace(speech(tokenizer, form), eos_ids=EOS_IDS)
    grammar = answer_grammar(None, ToolChoice(single=True), TOOLS, voice)
    assert grammar
    opener, closer = (tokenizer.encode_template(text)[0] for text in ("<tool_call>", "</tool_call>"))
    eager = tokenizer.encode_template("<tool_call></tool_call>")
    texts = [write(compiler.compile(MODEL, grammar), seed, ending=eager) for seed in range(10)]
    assert max(ids.count(opener) for ids in texts) == 1
    matcher = compiler.compile(MODEL, grammar).matcher()
    everything = set(allowed_ids(matcher.allowed()))
    assert everything == set(range(tokenizer.vocab_size)), "an answer without a call is free"
    matcher.advance(opener)
    assert set(allowed_ids(matcher.allowed())) == everything - {opener, *EOS_IDS}
    matcher.advance(closer)
    assert set(allowed_ids(matcher.allowed())) == everything - {opener}


@pytest.mark.parametrize("form", ["mistral, listed", "llama", "harmony"])
def test_where_calls_have_other_markers_nothing_is_held(tokenizer: JsonTokenizer, form: str) -> None:
    assert answer_grammar(None, ToolChoice(single=True), TOOLS, speech(tokenizer, form)) is None


@pytest.mark.parametrize("form", FORMS)
def test_text_in_a_call_is_free(compiler: LlgCompiler, tokenizer: JsonTokenizer, form: str) -> None:
    grammar = grammar_of(compiler, speech(tokenizer, form), [TEXTUAL], ToolChoice(forced=True, single=True))
    ending = tokenizer.encode_template(ENDINGS[form]) if form in ENDINGS else tokenizer.spell('"')
    for seed in range(15):
        ids = write(grammar, seed, ending=harmony_ending(tokenizer, form) or ending)
        ((name, arguments),) = read(tokenizer, form, [TEXTUAL], ids)[1]
        assert_valid(name, arguments, [TEXTUAL])
