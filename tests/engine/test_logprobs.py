"""Log-probabilities told with tokens: the model's own, whatever was done to the draw, and aligned with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inference.engine import logprobs
from inference.params import SamplingParams
from inference.ports import Job, ThoughtSpan
from tests import tiny_models
from tests.engine.harness import Faulty, Loaded, Outcome, job, plain_logprobs, run, solo
from tests.engine.toy_grammar import CLOSER, CLOSING, OPENER, ToyGrammar, guided

PROMPT = tiny_models.prompt_ids(60)
STEERED = SamplingParams(
    temperature=1.3, top_p=0.9, seed=5, repetition_penalty=1.4, presence_penalty=1.0, logit_bias=((20, 6.0), (40, -9.0))
)


def asking(one: Job, top: int) -> Job:
    return replace(one, top_logprobs=top)


def compare(loaded: Loaded, one: Job, outcome: Outcome) -> None:
    """Each entry against one plain pass over prompt and answer."""
    assert one.top_logprobs is not None and len(outcome.logprobs) == len(outcome.tokens) > 0
    expected = plain_logprobs(loaded.model, (*one.prompt.ids, *outcome.tokens))[len(one.prompt) - 1 : -1]
    for token, told, row in zip(outcome.tokens, outcome.logprobs, expected, strict=True):
        assert told.token == token and abs(told.logprob - row[token]) < 1e-4
        assert len(told.top) == one.top_logprobs
        assert np.allclose([value for _, value in told.top], np.sort(row)[::-1][: len(told.top)], atol=1e-4)
        assert all(abs(value - row[best]) < 1e-4 for best, value in told.top)
        assert len({best for best, _ in told.top}) == len(told.top)


def mixed() -> list[Job]:
    ids = [tiny_models.prompt_ids(40 + 3 * at, seed=at) for at in range(6)]
    thought = ThoughtSpan(OPENER, CLOSER, open=True, budget_tokens=3, closing=CLOSING)
    return [
        asking(job("greedy", ids[0], max_tokens=9), 20),
        job("silent", ids[1], max_tokens=14),
        asking(job("steered", ids[2], sampling=STEERED, max_tokens=12), 5),
        asking(guided(job("guided", ids[3], max_tokens=20), ToyGrammar(7, 7)), 1),
        asking(guided(job("thinking", ids[4], sampling=SamplingParams(seed=2), max_tokens=14), None, thought), 3),
        asking(job("drawn only", ids[5], sampling=SamplingParams(seed=1), max_tokens=12), 0),
    ]


@pytest.mark.parametrize("architecture", ["dense", "hybrid", "sliding"])
def test_they_are_those_of_a_plain_pass_in_company_and_alone(load: Callable[[str], Loaded], architecture: str) -> None:
    loaded, jobs = load(architecture), mixed()
    outcomes = run(loaded.runner(), jobs, start_at={one.id: at // 2 for at, one in enumerate(jobs)})
    assert outcomes["silent"].logprobs == []
    for one in jobs:
        if one.top_logprobs is not None:
            compare(loaded, one, outcomes[one.id])
            compare(loaded, one, solo(loaded, one))


@pytest.mark.parametrize("fault", ["of the steered logits", "of the row beside", "of the token after"])
def test_a_planted_wrong_one_is_noticed(dense: Loaded, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    from inference.engine import decode

    measure, steer = logprobs.measure, decode.steer
    steered: list[Any] = []

    def kept(logits: Any, rows: Any) -> Any:
        steered.append(steer(logits, rows))
        return steered[-1]

    def wrong(logits: Any, tokens: Any, asked: Any) -> Any:
        match fault:
            case "of the steered logits":
                return measure(steered[-1], tokens, asked)
            case "of the row beside":
                return measure(mx.roll(logits, 1, axis=0), tokens, asked)
        return measure(logits, mx.roll(tokens, 1), asked)

    monkeypatch.setattr(decode, "steer", kept)
    monkeypatch.setattr(decode, "measure", wrong)
    jobs = [asking(job(f"r{at}", tiny_models.prompt_ids(40, seed=at), sampling=STEERED), 2) for at in range(2)]
    outcomes = run(dense.runner(), jobs)
    with pytest.raises(AssertionError):
        for one in jobs:
            compare(dense, one, outcomes[one.id])


def test_asking_changes_no_draw(dense: Loaded) -> None:
    for one in mixed():
        assert solo(dense, replace(one, top_logprobs=None)).tokens == solo(dense, asking(one, 20)).tokens


def test_rows_that_do_not_ask_cost_nothing(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = 0
    logsumexp = mx.logsumexp

    def counted(logits: Any, **options: Any) -> Any:
        nonlocal measured
        measured += logits.shape[0]
        return logsumexp(logits, **options)

    monkeypatch.setattr(logprobs.mx, "logsumexp", counted)
    silent = [job(f"r{at}", tiny_models.prompt_ids(40 + at), max_tokens=6) for at in range(3)]
    run(dense.runner(), silent)
    assert measured == 0
    run(dense.runner(), [*silent, asking(job("asks", PROMPT, max_tokens=6), 0)])
    assert measured == 6  # one for each draw: none is made behind the last token


def test_a_token_that_stops_has_none(dense: Loaded) -> None:
    free = solo(dense, job("a", PROMPT, max_tokens=10)).tokens
    at = next(at for at in range(3, 10) if free[at] not in free[:at])
    outcome = solo(dense, asking(job("a", PROMPT, max_tokens=10, stop_ids=[free[at]]), 3))
    assert outcome.tokens == free[:at] == [one.token for one in outcome.logprobs]


def test_a_fault_in_a_lane_costs_none(dense: Loaded) -> None:
    jobs = mixed()
    outcomes = run(dense.with_model(lambda model: Faulty(model, lambda call, _inputs: call == 14)), jobs)
    for one in jobs:
        if one.top_logprobs is not None:
            compare(dense, one, outcomes[one.id])


def test_more_than_the_vocabulary_is_the_vocabulary() -> None:
    logits = mx.array([[0.0, 2.0, 1.0], [5.0, 4.0, 3.0]])
    first, second = logprobs.measure(logits, mx.array([1, 2]), [20, None])
    assert first is not None and second is None
    told = first.read(1)
    assert [token for token, _ in told.top] == [1, 2, 0] and told.top[0][1] == told.logprob
    assert abs(sum(np.exp(value) for _, value in told.top) - 1.0) < 1e-6
