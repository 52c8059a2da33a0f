"""The watchdog's judgement, told the time: clock steps, sleep, slow steps."""

from __future__ import annotations

from inference.scheduler.pulse import Pulse, Stall
from inference.scheduler.watchdog import Watchdog


class Time:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def watch(stall: Stall, pulse: Pulse, time: Time, seconds: float, tick_s: float = 0.25) -> bool:
    """Whether the alarm rings within so many seconds of ticks."""
    for _ in range(round(seconds / tick_s)):
        time.now_s += tick_s
        if stall.observe(pulse, time.now_s):
            return True
    return False


def made() -> tuple[Stall, Pulse, Time]:
    time = Time()
    return Stall(time()), Pulse(time, 60.0), time


def test_silence_while_awake_rings_after_the_allowance() -> None:
    stall, pulse, time = made()
    assert not watch(stall, pulse, time, 59)
    assert watch(stall, pulse, time, 3)


def test_progress_starts_the_time_anew() -> None:
    stall, pulse, time = made()
    for _ in range(10):
        assert not watch(stall, pulse, time, 50)
        pulse.beat()
    assert not watch(stall, pulse, time, 59)


def test_what_is_expected_to_take_long_may() -> None:
    stall, pulse, time = made()
    pulse.begin("load", 600.0)
    assert not watch(stall, pulse, time, 590)
    assert watch(stall, pulse, time, 20)


def test_eight_hours_of_sleep_are_no_silence() -> None:
    stall, pulse, time = made()
    assert not watch(stall, pulse, time, 50)
    time.now_s += 8 * 3600
    assert not watch(stall, pulse, time, 8)
    assert watch(stall, pulse, time, 5)  # the time awake before and after counts
    assert pulse.awake_s < 65


def test_a_clock_that_goes_back_does_not_disturb() -> None:
    stall, pulse, time = made()
    assert not watch(stall, pulse, time, 50)
    time.now_s -= 3600
    assert not watch(stall, pulse, time, 9)
    assert watch(stall, pulse, time, 3)


def test_the_alarm_rings_once_and_a_failing_duty_does_not_silence_it() -> None:
    time = Time()
    pulse = Pulse(time, 1.0)
    rung: list[float] = []
    done: list[int] = []
    dog = Watchdog(pulse, time, 0.25, [lambda: done.append(1)], lambda: rung.append(time()))
    for _ in range(40):
        time.now_s += 0.25
        dog.look()
    assert len(rung) == 1 and len(done) == 40
