"""The compiler: what it refuses and how soon, what it keeps, and that a text of markers' letters is no dead end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.engine.grammar import GrammarCache, LlgCompiler, LlgGrammar, Refused
from inference.engine.grammar_limits import CACHED_GRAMMARS, COMPILE_S, FLOOR_BYTES
from inference.engine.tokenizer import JsonTokenizer
from inference.errors import Draining, InvalidParameter, UnsupportedParameter
from inference.params import Grammar
from inference.ports import ModelRef
from tests.grammars import EOS_IDS, allowed_ids, json_lark, tiny_tokenizer, write

MODEL = ModelRef("tiny", Path("tiny"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def compiler(tokenizer: JsonTokenizer) -> Iterator[LlgCompiler]:
    made = LlgCompiler(lambda _model: tokenizer)
    yield made
    made.close()


def compiled(compiler: LlgCompiler, schema: Any) -> LlgGrammar:
    return compiler.compile(MODEL, Grammar(json_lark(schema), "response_format"))


# --- following --------------------------------------------------------------------------------------------------


def test_a_matcher_ends_where_the_text_must(compiler: LlgCompiler) -> None:
    matcher = compiler.compile(MODEL, Grammar('start: "a"', "x")).matcher()
    (only,) = allowed_ids(matcher.allowed())
    assert not matcher.stopped
    assert matcher.advance(only)
    assert matcher.stopped
    assert set(allowed_ids(matcher.allowed())) == EOS_IDS


def test_end_of_turn_is_one_choice_where_the_text_may_end(compiler: LlgCompiler, tokenizer: JsonTokenizer) -> None:
    matcher = compiler.compile(MODEL, Grammar("start: /[0-9]+/", "x")).matcher()
    assert not EOS_IDS & set(allowed_ids(matcher.allowed()))
    matcher.advance(tokenizer.spell("7")[0])
    assert set(allowed_ids(matcher.allowed())) > EOS_IDS
    assert matcher.advance(min(EOS_IDS))


def test_what_is_not_allowed_is_not_taken(compiler: LlgCompiler, tokenizer: JsonTokenizer) -> None:
    matcher = compiler.compile(MODEL, Grammar("start: /[0-9]+/", "x")).matcher()
    assert not matcher.advance(tokenizer.spell("x")[0])


def test_matchers_of_one_grammar_do_not_know_each_other(compiler: LlgCompiler) -> None:
    grammar = compiled(compiler, {"enum": ["left", "right"]})
    ours, other = grammar.matcher(), grammar.matcher()
    before = other.allowed()
    ours.advance(allowed_ids(ours.allowed())[0])
    assert other.allowed() == before == grammar.matcher().allowed()


@pytest.mark.parametrize("text", ["<tool_call>", "<|im_end|>", "a<think>b</think>", "日本 é 😀", 'quo"te\\', "\n\t"])
def test_text_of_any_letters_is_written_and_never_a_marker(
    compiler: LlgCompiler, tokenizer: JsonTokenizer, text: str
) -> None:
    ids = write(compiled(compiler, {"const": text}), seed=1)
    assert json.loads(tokenizer.decode(ids)) == text
    assert not tokenizer.structural_ids.intersection(ids)


def test_free_strings_hold_no_marker(compiler: LlgCompiler, tokenizer: JsonTokenizer) -> None:
    mask = compiled(compiler, {"type": "string"}).matcher()
    mask.advance(tokenizer.spell('"')[0])
    assert not tokenizer.structural_ids.intersection(allowed_ids(mask.allowed()))


def test_a_marker_is_written_by_its_number(compiler: LlgCompiler, tokenizer: JsonTokenizer) -> None:
    (opener,), (closer,) = tokenizer.encode_template("<tool_call>"), tokenizer.encode_template("</tool_call>")
    ids = write(compiler.compile(MODEL, Grammar(f'start: <[{opener}]> "x" <[{closer}]>', "x")), seed=1)
    assert ids == [opener, *tokenizer.spell("x"), closer]


def test_a_long_text_costs_no_more_per_token_than_a_short_one(compiler: LlgCompiler, tokenizer: JsonTokenizer) -> None:
    """A forced text is asked for again at each of its tokens."""
    text = "The quick brown fox. " * 400
    took_s: list[float]
    matcher, took_s = compiled(compiler, {"const": text}).matcher(), []
    for _ in range(200):
        began_s = time.thread_time()
        (choice,) = allowed_ids(matcher.allowed())
        took_s.append(time.thread_time() - began_s)
        matcher.advance(choice)
    assert sorted(took_s)[190] < 0.1  # garbage of others is collected within one of them


# --- refusing ---------------------------------------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


BOMBS: dict[str, dict[str, Any]] = {
    "look-behind": {"type": "string", "pattern": "(?<=x)*"},
    "open parentheses": {"type": "string", "pattern": "(" * 60_000},
    "nested parentheses": {"type": "string", "pattern": "(" * 30_000 + "a" + ")" * 30_000},
    "a thousand things that may be left out": {
        "type": "object",
        "additionalProperties": False,
        "properties": {f"p{at}": {"type": "null"} for at in range(1000)},
    },
    "counted patterns": {"allOf": [{"type": "string", "pattern": f".*a.{{{count}}}"} for count in range(10, 30)]},
    "huge enum": {"enum": [f"value{number}" for number in range(100_000)]},
    "huge union": {"anyOf": [{"type": "object", "properties": {f"k{n}": {"type": "string"}}} for n in range(10_000)]},
    "multiple of zero": {"type": "integer", "multipleOf": 0},
    "multiple of a large prime": {"type": "integer", "multipleOf": 999_983},
    "too deep": nested(200),
    "many optional keys": {
        "type": "object",
        "properties": {f"k{n}": {"type": "string"} for n in range(6_000)},
        "additionalProperties": False,
    },
    "a long constant": {"const": "x " * 200_000},
    "remote reference": {"$ref": "http://example.com/schema.json"},
    "reference to itself": {"$ref": "#"},
    "endless by its own rules": {
        "type": "object",
        "properties": {"a": {"$ref": "#"}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "many forced items": {"type": "array", "items": {"type": "null"}, "minItems": 10**6},
    "unsatisfiable": {"type": "object", "properties": {"a": False}, "required": ["a"]},
    "no such type": {"type": "strin"},
    "unknown dialect": {"$schema": "http://example.com/foo", "type": "string"},
    "unique items": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    "product of unions": {
        "allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {"type": "string"}}} for j in range(8)]} for i in range(8)]
    },
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_the_cap_and_at_once_the_second_time(compiler: LlgCompiler, name: str) -> None:
    compiled(compiler, {"type": "null"})  # the process runs and knows the model
    began_s = time.monotonic()
    with pytest.raises(InvalidParameter) as refused:
        compiled(compiler, BOMBS[name])
    took_s = time.monotonic() - began_s
    assert refused.value.param == "response_format"
    assert refused.value.message.startswith("response_format cannot be enforced: ")
    assert len(refused.value.message) < 300 and "max is" not in refused.value.message
    assert took_s < COMPILE_S * 10
    print(f"{name}: {took_s * 1e3:.0f} ms, {refused.value.message}")
    began_s = time.monotonic()
    with pytest.raises(InvalidParameter):
        compiled(compiler, BOMBS[name])
    assert time.monotonic() - began_s < COMPILE_S


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^(a+)+$"},
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "items": {"type": "string"}, "minItems": 10**6},
        {"type": "string", "pattern": "((((a{1,100}){1,100}){1,100}){1,100}){1,100}"},
        {"enum": [f"value{number}" for number in range(5_000)]},
    ],
    ids=["backtracking", "long string", "many items", "nested counts", "large enum"],
)
def test_what_only_looks_like_a_bomb_costs_little(compiler: LlgCompiler, schema: dict[str, Any]) -> None:
    began_s = time.monotonic()
    grammar = compiled(compiler, schema)
    assert time.monotonic() - began_s < COMPILE_S * 10
    assert grammar.matcher().allowed()


def test_a_grammar_that_is_none_is_refused(compiler: LlgCompiler) -> None:
    with pytest.raises(InvalidParameter):
        compiler.compile(MODEL, Grammar("start: nothing", "guided_regex"))
    with pytest.raises(InvalidParameter, match="bytes"):
        compiler.compile(MODEL, Grammar("start: " + '"a" ' * (1 << 20), "guided_regex"))


def test_a_tokenizer_without_bytes_is_told(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    from inference.engine.tokenizer import TokenizerSource

    words = Tokenizer(models.WordPiece({"a": 0, "##b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    source = TokenizerSource(content=words.to_str(), eos_ids=frozenset({2}))
    compiler = LlgCompiler(lambda _model: JsonTokenizer(source))
    with pytest.raises(UnsupportedParameter) as refused:
        compiler.compile(MODEL, Grammar('start: "a"', "guided_regex"))
    assert refused.value.param == "guided_regex"
    compiler.close()


# --- keeping ----------------------------------------------------------------------------------------------------


def test_unique_grammars_do_not_fill_the_memory(compiler: LlgCompiler) -> None:
    for number in range(CACHED_GRAMMARS + 40):
        compiled(compiler, {"const": f"one of many {number}"})
    assert len(compiler.cache) == CACHED_GRAMMARS
    assert compiler.cache.nbytes >= CACHED_GRAMMARS * FLOOR_BYTES


def test_a_grammar_is_compiled_once(compiler: LlgCompiler) -> None:
    assert compiled(compiler, {"const": "kept"}) is compiled(compiler, {"const": "kept"})


class Sized(LlgGrammar):
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def test_the_cache_is_bounded_by_bytes_and_drops_the_least_used() -> None:
    cache = GrammarCache(max_entries=10, max_bytes=100)
    cache.put(b"a", Sized(40))
    cache.put(b"b", Sized(40))
    assert cache.get(b"a")
    cache.put(b"c", Sized(40))
    assert (cache.get(b"b"), cache.nbytes) == (None, 80)
    cache.put(b"d", Sized(101))
    assert cache.get(b"d") is None
    assert cache.get(b"a")


def test_an_overdue_grammar_is_tried_again_later() -> None:
    now_s = [0.0]
    cache = GrammarCache(clock=lambda: now_s[0])
    cache.put(b"a", Refused("slow", until_s=60.0))
    assert cache.get(b"a")
    now_s[0] = 61.0
    assert cache.get(b"a") is None
    assert len(cache) == cache.nbytes == 0


def test_a_closed_compiler_refuses_work(tokenizer: JsonTokenizer) -> None:
    compiler = LlgCompiler(lambda _model: tokenizer)
    compiler.close()
    with pytest.raises(Draining):
        compiled(compiler, {"const": 1})
