"""The status page's own arithmetic."""

import pytest

from dashboard.views import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3_725, "1 h 2 min"), (90_000, "1 d 1 h")],
)
def test_a_duration_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
