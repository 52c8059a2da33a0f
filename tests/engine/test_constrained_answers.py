"""The law of structured output: a model of random weights gives valid JSON each time, and rows beside it do not notice.

200 different schemas, one attempt each, in batches beside three free rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import batched
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from inference.engine.grammar import LlgCompiler
from inference.engine.text import load_text
from inference.events import FinishReason
from inference.params import Grammar, SamplingParams
from inference.ports import Guide, Job, ModelRef, Tokenizer
from inference.tokens import Prompt
from mlxd.api.json_schema import enforceable
from mlxd.api.lark import json_node
from tests import tiny_models
from tests.engine.harness import GREEDY, Loaded, Outcome, job, run, solo
from tests.schemas import schemas

ROOM_TOKENS = 1200
BESIDE = 5
SCHEMAS = tuple(schemas(200))


@pytest.fixture(scope="module")
def tokenizer(model_dir: Callable[[str], Path]) -> Tokenizer:
    return load_text(model_dir("dense")).tokenizer


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> Iterator[LlgCompiler]:
    made = LlgCompiler(lambda _model: tokenizer)
    yield made
    made.close()


def free_rows() -> list[Job]:
    ids = [tiny_models.prompt_ids(20 + 17 * at, seed=at) for at in range(3)]
    hot, nucleus = SamplingParams(seed=3), SamplingParams(temperature=0.9, top_p=0.9, seed=4)
    drawn = zip(("greedy", "hot", "nucleus"), ids, (GREEDY, hot, nucleus), strict=True)
    return [job(name, row, sampling=sampling, max_tokens=60) for name, row, sampling in drawn]


def constrained(compiler: LlgCompiler, tokenizer: Tokenizer, number: int) -> Job:
    grammar = Grammar(f"start: {json_node(enforceable(SCHEMAS[number]))}", "response_format")
    compiled = compiler.compile(ModelRef("tiny", Path("tiny")), grammar)
    prompt = Prompt(tiny_models.prompt_ids(16 + number % 48, seed=number))
    sampling = SamplingParams(temperature=1.0, seed=number)
    return Job(f"{number}", prompt, sampling, ROOM_TOKENS, tokenizer.eos_ids, guide=Guide(compiled))


def said(outcome: Outcome) -> tuple[Sequence[int], FinishReason | None]:
    return outcome.tokens, outcome.finish


@pytest.mark.parametrize("numbers", list(batched(range(len(SCHEMAS)), BESIDE)), ids=lambda numbers: str(numbers[0]))
def test_each_first_attempt_is_valid_beside_free_rows(
    dense: Loaded, compiler: LlgCompiler, tokenizer: Tokenizer, numbers: tuple[int, ...], alone: dict[str, Any]
) -> None:
    jobs = [constrained(compiler, tokenizer, number) for number in numbers]
    outcomes = run(dense.runner(), [*free_rows(), *jobs])
    for number in numbers:
        outcome = outcomes[str(number)]
        assert outcome.failed is None
        text = tokenizer.decode(outcome.tokens)
        assert outcome.finish is FinishReason.STOP, text
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(SCHEMAS[number], format_checker=checker).validate(json.loads(text))
    assert {name: said(outcomes[name]) for name in alone} == alone


@pytest.fixture(scope="module")
def alone(load: Callable[[str], Loaded]) -> dict[str, Any]:
    return {one.id: said(solo(load("dense"), one)) for one in free_rows()}


def test_a_truncated_answer_says_so(dense: Loaded, compiler: LlgCompiler, tokenizer: Tokenizer) -> None:
    compiled = compiler.compile(ModelRef("tiny", Path("tiny")), Grammar('start: /[a-z]+/ "."', "guided_regex"))
    one = Job("a", Prompt(tiny_models.prompt_ids(20)), GREEDY, 5, tokenizer.eos_ids, guide=Guide(compiled))
    assert said(solo(dense, one))[1] is FinishReason.LENGTH
