"""A fault at any step costs no guided row its answer, and its guide is where it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.engine import decode, guide
from inference.engine.guide import RowGuide
from inference.ports import Guide
from tests.engine.guided_jobs import PROMPT, crowd
from tests.engine.harness import Faulty, Loaded, Outcome, job, run, solo
from tests.engine.toy_grammar import ToyGrammar, guided


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
