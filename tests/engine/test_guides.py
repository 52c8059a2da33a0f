"""Rows under a grammar or a thinking budget: what they may draw, when they end, and that nobody else notices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.engine import decode, guide, steering
from inference.engine.guide import RowGuide
from inference.errors import GenerationFailed
from inference.events import FinishReason
from inference.params import SamplingParams
from inference.ports import Guide, Job, ThoughtSpan
from tests import tiny_models
from tests.engine.harness import GREEDY, Faulty, Loaded, Outcome, job, plain_logprobs, run, solo
from tests.engine.toy_grammar import CLOSER, CLOSING, END, OPENER, ToyGrammar, bits, guided

PROMPT = tiny_models.prompt_ids(60)
UNMARKED = tuple(token for token in PROMPT if token >= 16)


def text_oracle(loaded: Loaded, ids: tuple[int, ...], grammar: ToyGrammar) -> list[int]:
    """The greedy text of a grammar, by plain passes over everything so far."""
    text: list[int] = []
    while len(text) < grammar.most:
        logprobs = plain_logprobs(loaded.model, (*ids, *text))[-1]
        text.append(max(grammar.next_ids(tuple(text)) - {END}, key=lambda token: logprobs[token]))
    return text


def crowd() -> list[Job]:
    """Three free rows and three guided ones, in turn."""
    ids = [tiny_models.prompt_ids(40 + at, seed=at) for at in range(6)]
    hot, nucleus = SamplingParams(seed=3), SamplingParams(temperature=0.8, top_p=0.9, seed=4)
    strict = SamplingParams(temperature=1.1, top_k=20, min_p=0.01, seed=5, repetition_penalty=1.2)
    budget = ThoughtSpan(OPENER, CLOSER, open=True, budget_tokens=4, closing=CLOSING)
    return [
        job("free greedy", ids[0], max_tokens=16),
        guided(job("text greedy", ids[1], max_tokens=20), ToyGrammar(9, 9)),
        job("free hot", ids[2], sampling=hot, max_tokens=16),
        guided(job("text strict", ids[3], sampling=strict, max_tokens=20), ToyGrammar(6, 12, salt=5)),
        job("free nucleus", ids[4], sampling=nucleus, max_tokens=16),
        guided(job("thought and text", ids[5], sampling=hot, max_tokens=20), ToyGrammar(5, 5, salt=9), budget),
    ]


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


# --- how a text ends -------------------------------------------------------------------------------------------------


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


# --- thoughts --------------------------------------------------------------------------------------------------------


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


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["dense", "hybrid"])
def test_a_fault_at_any_step_of_a_lane_costs_no_guided_row_its_answer(
    load: Callable[[str], Loaded], architecture: str
) -> None:
    loaded = load(architecture)
    jobs = [replace(one, top_logprobs=2) for one in crowd()]
    expected = {one.id: solo(loaded, one) for one in jobs}
    for nth in (1, 2, 3, 5, 8, 11):
        batched = 0

        def fails(_call: int, inputs: Any, nth: int = nth) -> bool:
            nonlocal batched
            batched += inputs.shape[0] > 1
            return inputs.shape[0] > 1 and batched == nth

        outcomes = run(loaded.with_model(lambda model, fails=fails: Faulty(model, fails)), jobs)
        assert batched >= nth
        for name, outcome in outcomes.items():
            assert_same(outcome, expected[name])


def test_a_fault_while_tokens_are_drawn_brings_guides_back_where_they_were(
    dense: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have read the token of the step that broke, and must not read it twice."""
    jobs = crowd()
    expected = {one.id: solo(dense, one) for one in jobs}
    steer, calls = decode.steer, 0

    def breaks(logits: Any, rows: Any) -> Any:
        nonlocal calls
        calls += len(rows) > 1
        if len(rows) > 1 and calls == 4:
            raise RuntimeError("no")
        return steer(logits, rows)

    monkeypatch.setattr(decode, "steer", breaks)
    outcomes = run(dense.runner(), jobs)
    assert calls >= 4
    for name, outcome in outcomes.items():
        assert_same(outcome, expected[name])


def test_a_guide_that_is_not_brought_back_is_noticed(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.engine import rows

    def forgetful(self: rows.Row) -> None:
        self.sampling.position = self.length_tokens
        self.guide = self.guide or RowGuide(self.job.guide or Guide(), self.job.stop_ids)

    jobs = [guided(job(f"r{salt}", PROMPT, max_tokens=12), ToyGrammar(8, 8, salt)) for salt in range(2)]
    expected = {one.id: solo(dense, one).tokens for one in jobs}
    steer, calls = decode.steer, 0

    def breaks(logits: Any, rows: Any) -> Any:
        nonlocal calls
        calls += len(rows) > 1
        if len(rows) > 1 and calls == 3:
            raise RuntimeError("no")
        return steer(logits, rows)

    monkeypatch.setattr(rows.Row, "rewind", forgetful)
    monkeypatch.setattr(decode, "steer", breaks)
    outcomes = run(dense.runner(), jobs)
    assert calls >= 3 and any(outcomes[name].tokens != tokens for name, tokens in expected.items())


def assert_same(outcome: Outcome, expected: Outcome) -> None:
    assert outcome.failed is None
    assert (outcome.tokens, outcome.finish) == (expected.tokens, expected.finish)
    assert [one.token for one in outcome.logprobs] == [one.token for one in expected.logprobs]
    values = [np.array([one.logprob for one in side.logprobs]) for side in (outcome, expected)]
    assert np.allclose(*values, atol=1e-4)


def test_sets_of_ids_as_bits() -> None:
    assert not guide.any_bit(bytes(5)) and guide.any_bit(b"\0\0\1")
