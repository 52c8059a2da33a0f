"""Where recurrent states are kept, and who waits for whom."""

from __future__ import annotations

import pytest

from inference.cache.in_flight import Awaited, InFlight
from inference.cache.planner import snapshot_depths
from inference.tokens import Boundary, Prompt, SourceMap, Span

ROOT = b"root"


def prompt(tokens: int) -> Prompt:
    """System 0-100, then template text of 5 tokens before each of two user messages; a header of 6 with an opener."""
    spans = (
        Span(0, 3, ""),
        Span(3, 100, "messages[0].content"),
        Span(100, 105, ""),
        Span(105, 3000, "messages[1].content"),
        Span(3000, 3005, ""),
        Span(3005, tokens - 6, "messages[2].content"),
        Span(tokens - 6, tokens, ""),
    )
    boundaries = (Boundary(0, 3), Boundary(1, 105), Boundary(2, 3005))
    return Prompt(tuple(range(tokens)), boundaries, SourceMap(spans), header=tokens - 6)


def test_a_cold_prompt_is_planned_at_every_boundary() -> None:
    depths = snapshot_depths(prompt(5000), 0, 0, opener_tokens=2, last_user_message=2)
    assert depths == (100, 2048, 3000, 4096, 4998)


def test_the_exchange_before_the_last_question_is_planned_too() -> None:
    """An edit of the last question but one leaves the prompt there, and so do files that move."""
    pieces = [
        span for at in range(6) for span in (Span(300 * at, 300 * at + 5, ""), Span(300 * at + 5, 300 * at + 300, "m"))
    ]
    talk = Prompt(tuple(range(1800)), tuple(Boundary(at, 300 * at + 5) for at in range(6)), SourceMap(tuple(pieces)))
    assert snapshot_depths(talk, 0, 0, last_user_message=5) == (300, 900, 1500, 1799)
    assert snapshot_depths(talk, 1200, 1200, last_user_message=5) == (1500, 1799), "a conversation that goes on"


def test_what_is_resumed_is_not_planned_again_and_a_branch_point_is() -> None:
    depths = snapshot_depths(prompt(5000), 2048, 2900, opener_tokens=2, last_user_message=2, waiting=(3500,))
    assert depths == (2900, 3000, 3500, 4096, 4998)


def test_without_an_opener_the_last_token_is_left_to_compute() -> None:
    assert snapshot_depths(prompt(5000), 4096, 4096)[-1] == 4999
    assert snapshot_depths(Prompt((1,)), 0, 0) == ()
    assert snapshot_depths(Prompt(()), 0, 0) == ()


def test_bitwise_plans_on_the_grid_only() -> None:
    depths = snapshot_depths(prompt(5000), 0, 700, opener_tokens=2, last_user_message=2, on_grid=True)
    assert depths == (512, 2048, 2816, 4096, 4864)


def test_every_depth_lies_in_what_is_to_be_computed() -> None:
    for resumed in range(0, 5000, 97):
        depths = snapshot_depths(prompt(5000), resumed, resumed + 50, opener_tokens=2, last_user_message=2)
        assert all(resumed < depth < 5000 for depth in depths) and list(depths) == sorted(set(depths))


# --- in flight ------------------------------------------------------------------------------------------------------

SHARED = tuple(range(3000))
ONE, TWO, THREE = ((*SHARED, *range(base, base + 500)) for base in (10_000, 20_000, 30_000))


def test_a_second_request_waits_for_what_both_share_and_wakes_when_it_is_there() -> None:
    flight = InFlight()
    flight.claim("one", ROOT, ONE, 0, len(ONE) - 1)
    awaited = flight.awaited(ROOT, TWO, 0)
    assert awaited == Awaited("one", 3000)
    flight.wait("two", awaited)
    flight.wait("three", Awaited("one", 3000))
    assert flight.wanted_snapshots("one") == (3000,)
    assert flight.advance("one", 2816) == ()
    assert flight.advance("one", 3072) == ("two", "three")
    assert not flight.waits("two") and flight.wanted_snapshots("one") == ()
    assert flight.awaited(ROOT, THREE, 3000) is None


@pytest.mark.parametrize("stored", [0, 1000])
def test_whoever_waits_wakes_when_the_claim_ends_however_it_ends(stored: int) -> None:
    flight = InFlight()
    flight.claim("one", ROOT, ONE, 0, len(ONE) - 1)
    flight.wait("two", Awaited("one", 3000))
    flight.advance("one", stored)
    assert flight.end("one") == ("two",)
    assert flight.end("one") == () and flight.advance("one", 3000) == ()


def test_the_one_that_wakes_first_takes_over_for_the_rest() -> None:
    flight = InFlight()
    flight.claim("one", ROOT, ONE, 0, len(ONE) - 1)
    for name in ("two", "three"):
        flight.wait(name, Awaited("one", 3000))
    first, second = flight.end("one")
    assert flight.awaited(ROOT, TWO, 512) is None
    flight.claim(first, ROOT, TWO, 512, len(TWO) - 1)
    assert flight.awaited(ROOT, THREE, 512) == Awaited(first, 3000)
    assert flight.end(second) == ()


def test_what_is_stored_of_another_model_or_too_little_is_not_waited_for() -> None:
    flight = InFlight()
    flight.claim("one", ROOT, ONE, 0, len(ONE) - 1)
    assert flight.awaited(b"other", TWO, 0) is None
    assert flight.awaited(ROOT, TWO, 2745) is None
    assert flight.awaited(ROOT, TWO, 2744) == Awaited("one", 3000)
    assert flight.awaited(ROOT, (5, *TWO), 0) is None


def test_a_twin_waits_for_all_but_one_token() -> None:
    flight = InFlight()
    flight.claim("one", ROOT, ONE, 0, len(ONE) - 1)
    assert flight.awaited(ROOT, ONE, 0) == Awaited("one", len(ONE) - 1)


def test_who_claims_does_not_wait() -> None:
    flight = InFlight()
    flight.claim("one", ROOT, ONE, 0, len(ONE) - 1)
    with pytest.raises(ValueError, match="holds none itself"):
        flight.wait("one", Awaited("one", 10))
    with pytest.raises(ValueError, match="another's claim"):
        flight.wait("two", Awaited("nobody", 10))
    with pytest.raises(ValueError, match="within its ids"):
        flight.claim("two", ROOT, ONE, 10, len(ONE) + 1)


def test_a_waiter_that_is_cancelled_wakes_nobody_and_is_gone() -> None:
    flight = InFlight()
    flight.claim("one", ROOT, ONE, 0, len(ONE) - 1)
    flight.wait("two", Awaited("one", 3000))
    assert flight.end("two") == ()
    assert flight.end("one") == ()
