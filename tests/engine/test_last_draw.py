"""A row that is known to end with the token it has is fed that token, but nothing is drawn behind it."""

from __future__ import annotations

from typing import Any

import pytest

from inference.engine.sampler import LaneSampler
from tests import tiny_models
from tests.engine.harness import Loaded, job, run


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each draw was for."""
    seen: list[int] = []
    original = LaneSampler.__call__

    def spy(self: LaneSampler, logits: Any) -> Any:
        seen.append(len(self._rows))
        return original(self, logits)

    monkeypatch.setattr(LaneSampler, "__call__", spy)
    return seen


@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_a_row_alone_draws_what_it_gives(dense: Loaded, draws: list[int], max_tokens: int) -> None:
    run(dense.runner(), [job("a", tiny_models.prompt_ids(60), max_tokens=max_tokens)])
    assert sum(draws) == max_tokens


def test_rows_go_on_drawing_beside_one_that_ends(dense: Loaded, draws: list[int]) -> None:
    rows = [
        job("short", tiny_models.prompt_ids(60), max_tokens=3),
        job("long", tiny_models.prompt_ids(70), max_tokens=9),
    ]
    outcomes = run(dense.runner(), rows)
    assert [len(outcomes[one.id].tokens) for one in rows] == [3, 9]
    assert sum(draws) == 3 + 1 + 9  # the short one's run-ahead: its neighbour needed the step
