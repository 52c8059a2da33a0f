"""Who is let in, who waits, who is refused, and what for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import (
    Draining,
    InvalidParameter,
    MemoryPressure,
    ModelTooLarge,
    PromptTooLong,
    QueueFull,
    QueueTimeout,
)
from inference.params import SamplingParams
from inference.ports import DeviceMemory, ModelLimits
from inference.scheduler.admission import Admission, draining
from inference.scheduler.budget import estimate_bytes, fits, lanes
from inference.scheduler.checks import check_vocabulary
from inference.scheduler.fair_queue import FairQueue
from inference.scheduler.mailbox import Doorbell, Mailbox
from inference.scheduler.request import Request, Ticket
from inference.scheduler.settings import SchedulerSettings
from inference.scheduler.view import ModelState, ModelView, SchedulerView
from tests.scripted import request

LIMITS = ModelLimits(context_tokens=1000, vocab_size=257, weights_bytes=1000, kv_bytes_per_token=10)


class Time:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    yield loop  # type: ignore[misc]
    loop.close()


@pytest.fixture
def admit(clock: Time, loop: asyncio.AbstractEventLoop) -> Callable[..., Ticket]:
    """Admits into one admission with one busy slot; `view` may be given."""
    admission = Admission(SchedulerSettings(max_batch=1, max_queue=6, max_queue_per_client=3), clock)

    def admit(wanted: Request, view: SchedulerView | None = None) -> Ticket:
        return admission.admit(wanted, view or SchedulerView(), Mailbox(Doorbell(loop), lambda: None))

    admit.admission = admission  # type: ignore[attr-defined]
    assert admission.take(admit(request()))
    return admit


def test_the_queue_is_bounded_for_all_and_for_each_named_client(admit: Callable[..., Ticket]) -> None:
    for _ in range(3):
        admit(request(client="a"))
    with pytest.raises(QueueFull, match="3 requests of this client"):
        admit(request(client="a"))
    for _ in range(3):
        admit(request())
    with pytest.raises(QueueFull, match="6 requests are waiting") as refused:
        admit(request(client="b"))
    assert 1 <= refused.value.retry_after_s <= 30


def test_keyless_clients_may_use_the_whole_queue(admit: Callable[..., Ticket]) -> None:
    for _ in range(6):
        admit(request())
    with pytest.raises(QueueFull):
        admit(request())


def test_free_slots_are_room(clock: Time, loop: asyncio.AbstractEventLoop) -> None:
    admission = Admission(SchedulerSettings(max_batch=4, max_queue=0, max_queue_per_client=0), clock)
    for _ in range(4):
        admission.admit(request(client="a"), SchedulerView(), Mailbox(Doorbell(loop), lambda: None))
    with pytest.raises(QueueFull):
        admission.admit(request(client="a"), SchedulerView(), Mailbox(Doorbell(loop), lambda: None))


def test_retry_after_follows_depth_and_service_time_and_is_spread(admit: Callable[..., Ticket]) -> None:
    admission: Admission = admit.admission  # type: ignore[attr-defined]
    (running,) = admission.running()
    admission.release(running, service_s=20.0)  # smoothed to 4.8 s
    assert admission.take(admit(request()))
    early = {admission.retry_after_s(f"r{n}") for n in range(50)}
    for _ in range(3):
        admit(request())
    late = {admission.retry_after_s(f"r{n}") for n in range(50)}
    assert len(early) > 1 and len(late) > 1 and max(early) < min(late)


def test_the_context_decides_how_much_may_be_answered(admit: Callable[..., Ticket]) -> None:
    assert admit(request("x" * 90, max_tokens=5, context_tokens=100)).max_tokens == 5
    assert admit(request("x" * 90, max_tokens=50, context_tokens=100)).max_tokens == 10
    assert admit(request("x" * 90, max_tokens=None, context_tokens=100)).max_tokens == 10
    assert admit(request("x" * 99, max_tokens=50, context_tokens=100)).max_tokens == 1
    with pytest.raises(PromptTooLong) as refused:
        admit(request("x" * 100, context_tokens=100))
    assert (refused.value.prompt_tokens, refused.value.context_tokens) == (100, 100)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", (-0.1, nan, inf)),
        ("top_p", (-1.0, 1.1, nan)),
        ("min_p", (-1.0, 2.0)),
        ("top_k", (-2, 10**12)),
        ("repetition_penalty", (0.0, -1.0, inf)),
        ("presence_penalty", (nan, -inf)),
        ("frequency_penalty", (nan, 1e9)),
        ("penalty_context_tokens", (-1,)),
        ("seed", (2**64, -(2**63) - 1)),
    ],
)
def test_parameters_that_would_hurt_the_engine_are_refused(
    admit: Callable[..., Ticket], name: str, values: tuple[float, ...]
) -> None:
    for value in values:
        wanted = request()
        wanted = replace(wanted, params=replace(wanted.params, sampling=SamplingParams(**{name: value})))  # type: ignore[arg-type]
        with pytest.raises(InvalidParameter) as refused:
            admit(wanted)
        assert refused.value.param == name


def test_other_impossible_requests_are_refused(admit: Callable[..., Ticket]) -> None:
    for wanted in (
        request(""),
        request(max_tokens=0),
        request(max_tokens=-1),
        request(stop=("a", "")),
        request(deadline_s=0.0),
        request(deadline_s=nan),
    ):
        with pytest.raises(InvalidParameter):
            admit(wanted)


def test_ids_outside_the_vocabulary_are_refused() -> None:
    wanted = request()
    check_vocabulary(wanted, LIMITS)
    for ids in ((257,), (-1,), (3, 10**12)):
        with pytest.raises(InvalidParameter):
            check_vocabulary(replace(wanted, prompt=replace(wanted.prompt, ids=ids)), LIMITS)
    with pytest.raises(InvalidParameter):
        check_vocabulary(request(stop_ids=(257,)), LIMITS)


def loaded(limit_bytes: int, **fields: object) -> SchedulerView:
    model = ModelView("scripted", Path("scripted"), ModelState.READY, LIMITS)
    return SchedulerView(models=(model,), memory=DeviceMemory(0, 0, 0, limit_bytes), **fields)  # type: ignore[arg-type]


def test_what_can_never_fit_is_refused_for_good_with_both_figures(admit: Callable[..., Ticket]) -> None:
    with pytest.raises(ModelTooLarge, match=r"1000 bytes .* 999 bytes"):
        admit(request(), loaded(999))
    # 5 + 8 tokens: 1000 of weights, 130 of KV, 130 of the assembly copy
    with pytest.raises(ModelTooLarge, match=r"1260 bytes .* 1259 bytes") as refused:
        admit(request("hello", max_tokens=8), loaded(1259))
    assert refused.value.param == "max_tokens"
    with pytest.raises(ModelTooLarge) as refused:
        admit(request("hello" * 100, max_tokens=8), loaded(1259))
    assert refused.value.param == "messages"
    admit(request("hello", max_tokens=8), loaded(1260))
    with pytest.raises(MemoryPressure):
        admit(request(), loaded(10**9, pressure=True))


def test_waiting_has_an_end_that_names_its_cause(admit: Callable[..., Ticket], clock: Time) -> None:
    admission: Admission = admit.admission  # type: ignore[attr-defined]
    first = admit(request())
    clock.now_s += 200
    second = admit(request())
    second.awaits_memory = True
    assert admission.overdue() == []
    clock.now_s += 100
    assert [(ticket, type(error)) for ticket, error in admission.overdue()] == [(first, QueueTimeout)]
    clock.now_s += 200
    assert [(ticket, type(error)) for ticket, error in admission.overdue()] == [(second, MemoryPressure)]
    assert admission.depth == 0 and not admission.take(first)


def test_a_closed_admission_refuses_and_gives_back_who_waited(admit: Callable[..., Ticket]) -> None:
    admission: Admission = admit.admission  # type: ignore[attr-defined]
    waiting = admit(request())
    assert admission.close(draining) == [waiting] and len(admission.running()) == 1
    with pytest.raises(Draining):
        admit(request())


# --- fairness ---------------------------------------------------------------------------------------------------


def serve_all(queue: FairQueue[tuple[str, int]]) -> list[tuple[str, int]]:
    served = []
    while len(queue):
        planned = list(queue)
        item = planned[0]
        assert queue.serve(item[0], item) and not queue.serve(item[0], item)
        assert list(queue) == planned[1:]  # what it says it would do is what it does
        served.append(item)
    return served


def test_clients_take_turns_and_one_client_is_first_come_first_served() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for item in [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("a", 4), ("c", 1), ("b", 2)]:
        queue.push(item[0], item)
    assert serve_all(queue) == [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("a", 3), ("a", 4)]


def test_who_comes_late_does_not_wait_for_a_crowd() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number in range(50):
        queue.push("crowd", ("crowd", number))
    assert queue.serve("crowd", ("crowd", 0))
    queue.push("late", ("late", 0))
    assert list(queue)[:2] == [("crowd", 1), ("late", 0)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_a_fair_queue_loses_nothing_and_starves_nobody(steps: list[tuple[str, bool]]) -> None:
    """Between two services of one key, no other key that waits all the while is passed over."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    waiting: dict[str, list[tuple[str, int]]] = {}
    passed: dict[str, int] = {}
    for number, (key, push) in enumerate(steps):
        if push:
            queue.push(key, (key, number))
            waiting.setdefault(key, []).append((key, number))
            passed.setdefault(key, 0)
        elif len(queue):
            item = next(iter(queue))
            queue.serve(item[0], item)
            assert waiting[item[0]].pop(0) == item
            for other in waiting:
                passed[other] = 0 if other == item[0] or not waiting[other] else passed[other] + 1
                assert passed[other] <= 2
        assert len(queue) == sum(map(len, waiting.values())) == len(list(queue))


# --- memory -----------------------------------------------------------------------------------------------------


def test_lanes_hold_rows_of_like_length() -> None:
    assert lanes([500] * 7 + [20_000]) == [(1, 20_000), (7, 500)]
    assert lanes([100, 60, 50, 49]) == [(3, 100), (1, 49)]
    assert lanes([]) == []


def test_the_estimate_is_weights_lanes_and_one_copy() -> None:
    limits = replace(LIMITS, kv_fixed_bytes=7, workspace_bytes=500)
    assert estimate_bytes([(limits, ())]) == 1000
    assert estimate_bytes([(limits, (100, 60, 20))]) == 1000 + 2 * 1007 + 207 + 1007 + 500
    assert estimate_bytes([(limits, (10,)), (LIMITS, (20,))]) == 2000 + 107 + 200 + 200 + 500
    assert fits([(limits, (10**9,))], 0)


@given(st.lists(st.integers(1, 10_000), max_size=30))
def test_lanes_cover_every_row_and_never_cost_twice_the_rows(lengths: list[int]) -> None:
    shapes = lanes(lengths)
    assert sum(rows for rows, _ in shapes) == len(lengths)
    assert sum(lengths) <= sum(rows * longest for rows, longest in shapes) <= 2 * sum(lengths)
