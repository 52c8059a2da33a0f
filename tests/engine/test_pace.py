"""The budget of a prefill step, by chunk times made up here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.pace import Pace


def paced(step_tokens: int, *chunks: tuple[int, float]) -> Pace:
    pace = Pace(step_tokens)
    for tokens, elapsed_s in chunks:
        pace.took(tokens, elapsed_s)
    return pace


def test_it_begins_with_the_whole_step() -> None:
    assert paced(2048).step_tokens(others_wait=True) == 2048


@pytest.mark.parametrize(
    ("last_s", "tokens"), [(0.1, 2048), (0.14, 2048), (0.2, 1536), (0.3, 1024), (0.6, 512), (1.2, 256), (60.0, 256)]
)
def test_a_chunk_that_has_become_slow_shrinks_to_the_time_it_took_at_first(last_s: float, tokens: int) -> None:
    pace = paced(2048, (2048, 0.1), (2048, last_s))
    assert pace.step_tokens(others_wait=True) == tokens
    assert pace.step_tokens(others_wait=False) == 2048, "nobody waits"


def test_it_recovers_with_the_next_quick_chunk() -> None:
    assert paced(512, (512, 0.1), (256, 0.2), (512, 0.1)).step_tokens(others_wait=True) == 512


def test_the_cost_of_a_few_tokens_teaches_nothing() -> None:
    assert paced(512, (512, 0.1), (3, 0.05)).step_tokens(others_wait=True) == 512


@given(st.integers(1, 16), st.lists(st.tuples(st.integers(1, 4096), st.floats(0, 1e3)), max_size=20), st.booleans())
def test_it_is_always_pieces_of_the_grid_within_the_setting(
    pieces: int, chunks: list[tuple[int, float]], others_wait: bool
) -> None:
    tokens = paced(256 * pieces, *chunks).step_tokens(others_wait=others_wait)
    assert 256 <= tokens <= 256 * pieces and tokens % 256 == 0
