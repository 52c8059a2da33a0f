"""Deadlines as a pure function of progress and time: each limit at its edge, and the laws they share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.transport.deadlines import Overdue, Phase, Progress, overdue
from mlxd.transport.limits import TransportLimits

LIMITS = TransportLimits()
START_S = 1_000.0


def in_phase(phase: Phase, **fields: float) -> Progress:
    progress = Progress(since_s=START_S)
    progress.enter(phase, START_S)
    for name, value in fields.items():
        setattr(progress, name, value)
    return progress


@pytest.mark.parametrize(
    ("progress", "limit_s", "expected"),
    [
        (in_phase(Phase.IDLE), LIMITS.header_timeout_s, Overdue.IDLE),
        (in_phase(Phase.IDLE, requests=1), LIMITS.keep_alive_idle_s, Overdue.IDLE),
        (in_phase(Phase.HEAD), LIMITS.header_timeout_s, Overdue.HEAD),
        (in_phase(Phase.BODY, body_bytes=10**9), LIMITS.body_idle_s, Overdue.BODY),
        (in_phase(Phase.BODY, body_bytes=10**9, heard_s=START_S + 1e6), LIMITS.body_total_s, Overdue.BODY),
        (in_phase(Phase.BODY, body_bytes=20 * 1024, heard_s=START_S + 1e6), 20.0, Overdue.BODY),
        (in_phase(Phase.BODY, heard_s=START_S + 1e6), LIMITS.body_rate_grace_s, Overdue.BODY),
        (in_phase(Phase.RUNNING, buffered_bytes=1), LIMITS.write_stall_s, Overdue.READER),
        (in_phase(Phase.FLUSHING, buffered_bytes=1), LIMITS.write_stall_s, Overdue.READER),
        (in_phase(Phase.IDLE, buffered_bytes=1, requests=1), LIMITS.write_stall_s, Overdue.READER),
        (in_phase(Phase.LINGERING, buffered_bytes=1), LIMITS.linger_s, Overdue.LINGER),
    ],
)
def test_each_limit_at_its_edge(progress: Progress, limit_s: float, expected: Overdue) -> None:
    assert overdue(progress, LIMITS, START_S + limit_s) is None
    assert overdue(progress, LIMITS, START_S + limit_s + 0.001) is expected


@given(st.floats(0, 1e9))
def test_an_answer_may_take_for_ever(age_s: float) -> None:
    assert overdue(in_phase(Phase.RUNNING), LIMITS, START_S + age_s) is None


@given(st.lists(st.tuples(st.integers(0, 100_000), st.floats(0, 1)), min_size=1, max_size=30))
def test_a_reader_is_late_only_when_nothing_left_for_the_whole_limit(steps: list[tuple[int, float]]) -> None:
    """Each step queues bytes and lets a share of the buffer go; the oracle remembers when something last went."""
    progress = in_phase(Phase.RUNNING)
    queued = flushed = 0
    now_s = moved_s = START_S
    for written, share in steps:
        now_s += 10.0
        queued += written
        gone = int((queued - flushed) * share)
        flushed += gone
        if gone or queued == flushed:
            moved_s = now_s
        progress.wrote(queued, queued - flushed, now_s)
        late = overdue(progress, LIMITS, now_s) is Overdue.READER
        assert late == (now_s - moved_s > LIMITS.write_stall_s)


def test_the_sweep_is_finer_than_the_shortest_deadline() -> None:
    assert LIMITS.sweep_interval_s() <= LIMITS.linger_s / 4
    assert TransportLimits(header_timeout_s=0.5).sweep_interval_s() == 0.05
