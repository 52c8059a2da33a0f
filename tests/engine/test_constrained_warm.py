"""A complete answer draws the token that ends it, so nothing is paid for twice behind it, as behind a free answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inference.engine.grammar import LlgCompiler
from inference.engine.text import load_text
from inference.events import FinishReason
from inference.params import Grammar
from inference.ports import Guide, ModelRef, Tokenizer
from tests import tiny_models
from tests.engine.harness import Loaded
from tests.engine.warm_rows import WarmModel, ask

ANSWER = "the model reads"
CLASSES = ("dense", "hybrid", "sliding")
ids = tiny_models.prompt_ids


@pytest.fixture(scope="module")
def tokenizer(model_dir: Callable[[str], Path]) -> Tokenizer:
    return load_text(model_dir("dense")).tokenizer


@pytest.fixture(scope="module")
def guide(tokenizer: Tokenizer) -> Iterator[Guide]:
    compiler = LlgCompiler(lambda _model: tokenizer)
    yield Guide(compiler.compile(ModelRef("tiny", Path("tiny")), Grammar(f'start: "{ANSWER}"', "guided_choice")))
    compiler.close()


@pytest.mark.parametrize("architecture", CLASSES)
def test_what_follows_a_complete_answer_is_all_that_is_computed(
    load: Callable[[str], Loaded], tokenizer: Tokenizer, guide: Guide, architecture: str
) -> None:
    model = WarmModel(load(architecture))
    first = model.ask(ask("first", ids(90), max_tokens=60, stop_ids=tokenizer.eos_ids, guide=guide))
    assert (tokenizer.decode(first.tokens), first.outcome.finish) == (ANSWER, FinishReason.STOP)
    more = ids(25, seed=5)
    after = [model.ask(ask(f"{end}", (*first.ids, end, *more))).computed for end in sorted(tokenizer.eos_ids)]
    assert min(after) == len(more)  # behind the one of the ends that was drawn


@pytest.mark.parametrize("room", [0, 1])
def test_an_end_that_there_is_no_room_for_is_not_waited_for(
    load: Callable[[str], Loaded], tokenizer: Tokenizer, guide: Guide, room: int
) -> None:
    model = WarmModel(load("dense"))
    roomy = model.ask(ask("a", ids(90), max_tokens=60, stop_ids=tokenizer.eos_ids, guide=guide))
    tight = ask("b", ids(90), max_tokens=len(roomy.tokens) + room, stop_ids=tokenizer.eos_ids, guide=guide)
    assert model.ask(tight).outcome.finish is FinishReason.STOP
    assert model.ask(ask("c", ids(90), max_tokens=60, guide=guide)).tokens == roomy.tokens
