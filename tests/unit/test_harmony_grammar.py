"""Thoughts of models that answer in messages, where the grammar of the answer holds them too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.engine.grammar import LlgCompiler
from inference.engine.tokenizer import JsonTokenizer
from inference.messages import Tool
from inference.params import Grammar
from inference.ports import ModelRef, TokenMatcher
from mlxd.api.call_grammar import Speech
from mlxd.api.formats import answer_grammar
from mlxd.api.tool_choice import ToolChoice
from tests.grammars import EOS_IDS, allowed_ids, tiny_tokenizer

MODEL = ModelRef("tiny", Path("tiny"))
MARKERS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")
TOOL = Tool("now", parameters={"type": "object", "properties": {}, "additionalProperties": False})
CONTENT = Grammar('content: "yes"', "guided_choice")
THOUGHT = "<|channel|>analysis<|message|>"
ANSWER = "<|channel|>final<|message|>yes"
CALL = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), MARKERS)


@pytest.fixture(scope="module")
def compiler(tokenizer: JsonTokenizer) -> Iterator[LlgCompiler]:
    made = LlgCompiler(lambda _model: tokenizer)
    yield made
    made.close()


def begun(
    compiler: LlgCompiler, tokenizer: JsonTokenizer, choice: ToolChoice, thought_tokens: int | None
) -> TokenMatcher:
    speech = Speech("", tokenizer.encode_template, ("harmony",), EOS_IDS, thought_tokens)
    tools = (TOOL,) if choice.forced else ()
    grammar = answer_grammar(None if choice.forced else CONTENT, choice, tools, speech)
    assert grammar
    return compiler.compile(MODEL, grammar).matcher()


def takes(matcher: TokenMatcher, tokenizer: JsonTokenizer, text: str) -> bool:
    return all(
        id_ in allowed_ids(matcher.allowed()) and matcher.advance(id_) for id_ in tokenizer.encode_template(text)
    )


GOALS = [(ToolChoice(), ANSWER), (ToolChoice(forced=True), CALL)]


@pytest.mark.parametrize(("choice", "end"), GOALS, ids=["content", "call"])
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_a_thought_has_as_many_tokens_as_it_may(
    compiler: LlgCompiler, tokenizer: JsonTokenizer, choice: ToolChoice, end: str, limit: int
) -> None:
    matcher = begun(compiler, tokenizer, choice, limit)
    (word,), (closer,) = tokenizer.encode_template("a"), tokenizer.encode_template("<|end|>")
    assert takes(matcher, tokenizer, THOUGHT)
    for _ in range(limit):
        assert {word, closer} <= set(allowed_ids(matcher.allowed())), "it may end earlier"
        assert matcher.advance(word)
    assert allowed_ids(matcher.allowed()) == [closer]
    assert takes(matcher, tokenizer, f"<|end|><|start|>assistant{end}")
    assert matcher.stopped or set(allowed_ids(matcher.allowed())) <= EOS_IDS


@pytest.mark.parametrize(("choice", "end"), GOALS, ids=["content", "call"])
def test_without_thoughts_it_begins_with_its_end(
    compiler: LlgCompiler, tokenizer: JsonTokenizer, choice: ToolChoice, end: str
) -> None:
    assert not takes(begun(compiler, tokenizer, choice, 0), tokenizer, THOUGHT)
    assert takes(begun(compiler, tokenizer, choice, 0), tokenizer, end)


@pytest.mark.parametrize(("choice", "end"), GOALS, ids=["content", "call"])
def test_a_thought_without_limit_goes_on(
    compiler: LlgCompiler, tokenizer: JsonTokenizer, choice: ToolChoice, end: str
) -> None:
    assert takes(
        begun(compiler, tokenizer, choice, None), tokenizer, f"{THOUGHT}{'a b ' * 99}<|end|><|start|>assistant{end}"
    )
