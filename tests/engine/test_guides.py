"""Answers that follow a grammar, token by token, beside others that are free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from inference.engine import steering
from inference.engine.guide import RowGuide
from inference.errors import GenerationFailed
from inference.events import FinishReason
from inference.params import SamplingParams
from tests.engine.guided_jobs import PROMPT, crowd
from tests.engine.harness import Loaded, job, plain_logprobs, run, solo
from tests.engine.toy_grammar import CLOSING, END, ToyGrammar, guided


def text_oracle(loaded: Loaded, ids: tuple[int, ...], grammar: ToyGrammar) -> list[int]:
    """The greedy text of a grammar, by plain passes over everything so far."""
    text: list[int] = []
    while len(text) < grammar.most:
        logprobs = plain_logprobs(loaded.model, (*ids, *text))[-1]
        text.append(max(grammar.next_ids(tuple(text)) - {END}, key=lambda token: logprobs[token]))
    return text


@pytest.mark.parametrize("architecture", ["dense", "hybrid", "sliding"])
def test_a_guided_row_draws_the_best_of_what_its_grammar_allows(
    load: Callable[[str], Loaded], architecture: str
) -> None:
    loaded, grammar = load(architecture), ToyGrammar(8, 8)
    outcome = solo(loaded, guided(job("a", PROMPT, max_tokens=20), grammar))
    assert outcome.tokens == text_oracle(loaded, PROMPT, grammar)
    assert outcome.finish is FinishReason.STOP


@pytest.mark.parametrize("architecture", ["dense", "hybrid", "sliding"])
def test_free_and_guided_rows_beside_each_other_draw_what_they_draw_alone(
    load: Callable[[str], Loaded], architecture: str
) -> None:
    loaded, jobs = load(architecture), crowd()
    starts = {one.id: at // 2 for at, one in enumerate(jobs)}
    together = run(loaded.runner(), jobs, start_at=starts)
    for one in jobs:
        alone = solo(loaded, one)
        assert together[one.id].failed is None
        assert (together[one.id].tokens, together[one.id].finish) == (alone.tokens, alone.finish)
    assert ToyGrammar(9, 9).accepts(together["text greedy"].tokens)
    assert ToyGrammar(6, 12, salt=5).accepts(together["text strict"].tokens)
    thought = together["thought and text"].tokens
    assert tuple(thought[4:7]) == CLOSING and ToyGrammar(5, 5, salt=9).accepts(thought[7:])


def faulty_masks(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    masked, settle = steering.masked, RowGuide._settle
    given: list[bytes] = []

    def of_another(logits: Any, allowed: bytes) -> Any:
        given.append(allowed)
        return masked(logits, given[-2] if len(given) > 1 else allowed)

    def of_before(self: RowGuide) -> None:
        kept = getattr(self, "allowed", None)
        settle(self)
        if kept is not None and self.allowed is not None:
            self.allowed = kept

    match fault:
        case "mask of another row":
            monkeypatch.setattr(steering, "masked", of_another)
        case "mask of the step before":
            monkeypatch.setattr(RowGuide, "_settle", of_before)
        case "no mask":
            monkeypatch.setattr(steering, "masked", lambda logits, _allowed: logits)


@pytest.mark.parametrize("fault", ["mask of another row", "mask of the step before", "no mask"])
def test_a_planted_wrong_mask_is_noticed_and_never_shown(
    dense: Loaded, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The comparisons above can fail, and what the grammar refuses does not reach the client."""
    jobs = [guided(job(f"r{salt}", PROMPT, max_tokens=12), ToyGrammar(8, 8, salt)) for salt in range(3)]
    expected = {one.id: solo(dense, one).tokens for one in jobs}
    faulty_masks(monkeypatch, fault)
    outcomes = run(dense.runner(), jobs)
    assert any(outcomes[one.id].failed for one in jobs)
    for one, outcome in ((one, outcomes[one.id]) for one in jobs):
        assert outcome.tokens == expected[one.id] or isinstance(
            getattr(outcome.failed, "error", None), GenerationFailed
        )
        assert all(
            token in ToyGrammar(8, 8, int(one.id[1:])).next_ids(tuple(outcome.tokens[:at]))
            for at, token in enumerate(outcome.tokens)
        )


# --- how a text ends --------------------------------------------------------------------------------------------------


def test_a_text_that_is_complete_ends_the_row_also_without_an_end_of_turn(dense: Loaded) -> None:
    grammar = ToyGrammar(4, 4)
    plain = guided(job("a", PROMPT, max_tokens=9), grammar)
    for one in (plain, replace(plain, stop_ids=frozenset(), banned_ids=frozenset({END}))):
        outcome = solo(dense, one)
        assert (outcome.tokens, outcome.finish) == (text_oracle(dense, PROMPT, grammar), FinishReason.STOP)


def test_a_text_that_may_end_ends_where_the_model_says(dense: Loaded) -> None:
    eager = SamplingParams(temperature=0.0, logit_bias=((END, 100.0),))
    early = guided(job("a", PROMPT, sampling=eager, max_tokens=20), ToyGrammar(3, 12))
    assert len(solo(dense, early).tokens) == 3
    assert len(solo(dense, replace(early, min_tokens=6)).tokens) == 6
    ignoring = replace(early, stop_ids=frozenset(), banned_ids=frozenset({END}))
    assert len(solo(dense, ignoring).tokens) == 12


def test_a_text_cut_by_max_tokens_is_a_length(dense: Loaded) -> None:
    outcome = solo(dense, guided(job("a", PROMPT, max_tokens=5), ToyGrammar(6, 6)))
    assert (len(outcome.tokens), outcome.finish) == (5, FinishReason.LENGTH)
    complete = solo(dense, guided(job("a", PROMPT, max_tokens=6), ToyGrammar(6, 6)))
    assert (len(complete.tokens), complete.finish) == (6, FinishReason.STOP)


def test_the_end_of_a_text_comes_before_min_tokens(dense: Loaded) -> None:
    outcome = solo(dense, replace(guided(job("a", PROMPT, max_tokens=20), ToyGrammar(4, 4)), min_tokens=10))
    assert (len(outcome.tokens), outcome.finish) == (4, FinishReason.STOP)


def test_an_empty_text_ends_at_once(dense: Loaded) -> None:
    outcome = solo(dense, replace(guided(job("a", PROMPT), ToyGrammar(0, 0)), min_tokens=3))
    assert (outcome.tokens, outcome.finish) == ([], FinishReason.STOP)


class Stuck(ToyGrammar):
    """Knows no way on after three tokens, or no beginning."""

    def next_ids(self, before: tuple[int, ...]) -> frozenset[int]:
        return super().next_ids(before) if len(before) < self.least - 2 else frozenset()


@pytest.mark.parametrize("least", [2, 5])
def test_a_grammar_that_knows_no_way_on_fails_its_row_only(dense: Loaded, least: int) -> None:
    jobs = [guided(job("stuck", PROMPT), Stuck(least, 9)), job("free", PROMPT)]
    outcomes = run(dense.runner(), jobs)
    failed = outcomes["stuck"].failed
    assert failed is not None and isinstance(failed.error, GenerationFailed)
    assert len(outcomes["stuck"].tokens) <= least - 2
    assert outcomes["free"].tokens == solo(dense, jobs[1]).tokens


def test_a_grammar_that_breaks_fails_its_row_only(dense: Loaded) -> None:
    class Broken(ToyGrammar):
        def matcher(self) -> Any:
            raise RuntimeError("private text")

    jobs = [guided(job("broken", PROMPT), Broken()), job("free", PROMPT)]
    outcomes = run(dense.runner(), jobs)
    failed = outcomes["broken"].failed
    assert failed is not None and "private" not in failed.error.message
    assert outcomes["free"].tokens == solo(dense, jobs[1]).tokens
