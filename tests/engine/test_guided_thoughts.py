"""Thoughts with a budget, alone and before an answer that follows a grammar."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from inference.engine.guide import RowGuide
from inference.errors import GenerationFailed
from inference.events import FinishReason
from inference.params import SamplingParams
from inference.ports import Guide, ThoughtSpan
from tests.engine.guided_jobs import PROMPT, UNMARKED
from tests.engine.harness import GREEDY, Loaded, job, solo
from tests.engine.toy_grammar import CLOSER, CLOSING, END, OPENER, ToyGrammar, bits, guided


def span(*, is_open: bool = True, budget: int | None = None, closing: tuple[int, ...] = CLOSING) -> ThoughtSpan:
    return ThoughtSpan(OPENER, CLOSER, is_open, budget, closing)


@pytest.mark.parametrize("budget", [0, 1, 3, 7])
def test_a_budget_forces_the_closing_and_nothing_else(dense: Loaded, budget: int) -> None:
    """Then the row is free again: it draws what it would after this text."""
    sampling = SamplingParams(temperature=0.0, logit_bias=((13, -100.0),))
    free = job("a", PROMPT, sampling=sampling, max_tokens=20)
    tokens = solo(dense, guided(free, thought=span(budget=budget))).tokens
    before = solo(dense, replace(free, max_tokens=budget)).tokens
    assert tokens[: budget + 3] == [*before, *CLOSING]
    rest = solo(dense, job("a", (*PROMPT, *tokens[: budget + 3]), sampling=sampling, max_tokens=17 - budget))
    assert tokens[budget + 3 :] == rest.tokens


def test_a_budget_that_is_not_used_up_changes_nothing(dense: Loaded) -> None:
    free = job("a", PROMPT, sampling=SamplingParams(seed=8), max_tokens=20, stop_ids=[END])
    for thought in (span(budget=21), span(budget=None), span(is_open=False, budget=0)):
        assert solo(dense, guided(free, thought=thought)).tokens == solo(dense, free).tokens


def wish(*ids: int) -> SamplingParams:
    """Drawn in this order, by a bias that falls and a penalty that lets each come once."""
    bias = tuple((token, 1000.0 - 20 * at) for at, token in enumerate(ids))
    return SamplingParams(temperature=0.0, presence_penalty=100.0, penalty_context_tokens=30, logit_bias=bias)


def test_the_grammar_begins_right_behind_the_closer(dense: Loaded) -> None:
    free = job("a", UNMARKED, sampling=wish(13, 14, *CLOSER, 15), max_tokens=30)
    tokens = solo(dense, guided(free, ToyGrammar(5, 5), span(budget=9))).tokens
    assert tokens[:4] == [13, 14, *CLOSER]
    assert ToyGrammar(5, 5).accepts(tokens[4:])


def test_a_text_may_begin_at_once_or_with_a_thought(dense: Loaded) -> None:
    for sampling, thinks in ((wish(*OPENER, 13, *CLOSER), True), (GREEDY, False)):
        one = guided(job("a", UNMARKED, sampling=sampling, max_tokens=30), ToyGrammar(5, 5), span(is_open=False))
        outcome = solo(dense, one)
        start = len(OPENER) + 1 + len(CLOSER) if thinks else 0
        assert tuple(outcome.tokens[:start]) == ((*OPENER, 13, *CLOSER) if thinks else ())
        assert ToyGrammar(5, 5).accepts(outcome.tokens[start:]) and outcome.finish is FinishReason.STOP


def test_a_constrained_answer_cannot_end_within_its_thought(dense: Loaded) -> None:
    eager = SamplingParams(temperature=0.0, logit_bias=((END, 100.0),))
    free = job("a", PROMPT, sampling=eager, max_tokens=30)
    assert solo(dense, guided(free, thought=span(budget=6))).tokens == []
    tokens = solo(dense, guided(free, ToyGrammar(5, 9), span(budget=6))).tokens
    assert END not in tokens and tuple(tokens[6:9]) == CLOSING and ToyGrammar(5, 9).accepts(tokens[9:])


def walk(one: RowGuide, tokens: Iterable[int]) -> RowGuide:
    for token in tokens:
        one.advance(token)
    return one


def test_a_thought_that_was_cut_cannot_be_opened_again() -> None:
    cut = walk(RowGuide(Guide(thought=span(budget=2))), [20, 21, *CLOSING, 22])
    assert cut.banned == frozenset() and walk(cut, [OPENER[0]]).banned == {OPENER[1]}
    assert walk(cut, [23]).banned == frozenset()
    ended = walk(RowGuide(Guide(thought=span(budget=3))), [20, *CLOSER, OPENER[0]])
    assert ended.banned == frozenset()
    assert [walk(ended, [token]).forced for token in (OPENER[1], 20, 21, 22)] == [None, None, None, CLOSING[0]]


def test_a_closer_that_was_begun_when_the_budget_ends_is_ended() -> None:
    begun = walk(RowGuide(Guide(thought=span(budget=2))), [20, CLOSER[0]])
    assert begun.forced == CLOSER[1] and walk(begun, CLOSER[1:]).forced is None
    assert walk(begun, OPENER[:1]).banned == {OPENER[1]}


def test_what_begins_like_an_opener_is_text_once_it_is_not_one() -> None:
    """`opener[0]` twice is no beginning of a thought, so the grammar must not be widened by `opener[1]`."""

    class Doubles(ToyGrammar):
        def next_ids(self, before: tuple[int, ...]) -> frozenset[int]:
            return frozenset({OPENER[0], 30})

    def fresh() -> RowGuide:
        return RowGuide(Guide(Doubles(), span(is_open=False)))

    assert fresh().allowed == bits({OPENER[0], 30})
    assert walk(fresh(), [OPENER[0]]).allowed == bits({*OPENER, 30})
    assert walk(fresh(), [OPENER[0]] * 2).allowed == bits({OPENER[0], 30})
    assert walk(fresh(), [30]).allowed == bits({OPENER[0], 30})
    assert walk(fresh(), OPENER).allowed is None
    assert walk(fresh(), [*OPENER, 50, *CLOSER]).allowed == bits({OPENER[0], 30})
    with pytest.raises(GenerationFailed):
        walk(fresh(), [OPENER[1]])
    with pytest.raises(GenerationFailed):
        walk(fresh(), [OPENER[0], OPENER[0], OPENER[1]])


def test_a_marker_that_the_grammar_refuses_may_still_be_written_whole() -> None:
    fresh = RowGuide(Guide(ToyGrammar(), span(is_open=False)))
    assert fresh.allowed == bits({*ToyGrammar().next_ids(()), OPENER[0]})
    assert walk(fresh, OPENER[:1]).allowed == bits(OPENER[1:], 32)


def test_without_a_closing_the_closer_is_written() -> None:
    one = RowGuide(Guide(thought=span(budget=0, closing=())))
    assert one.forced == CLOSER[0] and walk(one, CLOSER[:1]).forced == CLOSER[1]
    assert walk(one, CLOSER[1:]).forced is None
