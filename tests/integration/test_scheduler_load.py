"""Overload, drain, idleness, clock steps: the scheduler as a whole under conditions that are not nice."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from inference.engine.scripted import Fault, Script
from inference.errors import Draining, QueueFull, QueueTimeout
from inference.events import Failed, Finished
from inference.scheduler import Scheduler
from tests.scripted import events, final_of, request, scheduled, until


async def test_the_queue_takes_64_and_answers_the_65th_at_once() -> None:
    script = Script(step_faults={0: Fault.HANG})
    with scheduled(script, max_batch=1) as scheduler:
        generations = [scheduler.submit(request())]
        await until(lambda: script.steps)
        generations += [scheduler.submit(request()) for _ in range(64)]
        began_s = time.monotonic()
        with pytest.raises(QueueFull) as refused:
            scheduler.submit(request())
        assert time.monotonic() - began_s < 5  # the worker is blocked in a step until it is released
        assert 1 <= refused.value.retry_after_s <= 30
        assert scheduler.snapshot().queue_depth == 64 and scheduler.snapshot().counters.refused == 1
        script.release.set()
        told = await asyncio.gather(*(events(generation) for generation in generations))
    assert all(isinstance(final_of(one), Finished) for one in told)


async def test_ten_times_the_load_finishes_what_was_accepted_at_full_speed() -> None:
    """8 rows of 10 steps of 5 ms give at most 160 answers a second; 4,000 a second are offered for half a second. What
    waits keeps the rows busy for 0.2 s, so that the one who offers may be held up by others."""
    script = Script(decode_s=0.005)
    refusals_s: list[float] = []
    with scheduled(script, max_batch=8, max_queue=32) as scheduler:
        accepted: list[asyncio.Task[object]] = []
        began_s = time.monotonic()
        for _ in range(100):
            for _ in range(20):
                wanted, at_s = request(max_tokens=10), time.thread_time()
                try:
                    generation = scheduler.submit(wanted)
                except QueueFull:
                    refusals_s.append(time.thread_time() - at_s)
                else:
                    accepted.append(asyncio.create_task(events(generation)))
            await asyncio.sleep(0.005)
        told = await asyncio.gather(*accepted)
        took_s = time.monotonic() - began_s
        steps = script.steps
    assert all(isinstance(final_of(one), Finished) for one in told)  # type: ignore[arg-type]
    refusals_s.sort()
    assert len(refusals_s) > 1000 and refusals_s[int(0.99 * len(refusals_s))] < 0.02
    rows_per_step = 10 * len(told) / steps
    assert rows_per_step > 0.8 * 8, (rows_per_step, len(told), took_s)  # the batch was kept full


async def test_a_wait_that_is_too_long_ends_in_the_stream() -> None:
    script = Script(decode_s=0.02)
    with scheduled(script, max_batch=1, queue_deadline_s=0.3) as scheduler:
        running = scheduler.submit(request(max_tokens=50))
        waiting = scheduler.submit(request())
        told = await events(waiting)
        final = final_of(told)
        assert isinstance(final, Failed) and isinstance(final.error, QueueTimeout) and final.error.retry_after_s >= 1
        assert len(told) == 2  # it was admitted, so its stream had begun
        assert isinstance(final_of(await events(running)), Finished)


# --- drain ------------------------------------------------------------------------------------------------------


async def test_drain_lets_the_running_finish_and_refuses_the_rest() -> None:
    with scheduled(Script(decode_s=0.01), max_batch=2) as scheduler:
        running = [scheduler.submit(request(max_tokens=30)) for _ in range(2)]
        queued = [scheduler.submit(request()) for _ in range(3)]
        await until(lambda: scheduler.snapshot().running == 2)
        drained = scheduler.drain(10.0)
        assert scheduler.drain(0.0) is drained
        with pytest.raises(Draining):
            scheduler.submit(request())
        for generation in queued:
            final = final_of(await events(generation))
            assert isinstance(final, Failed) and isinstance(final.error, Draining)
        assert scheduler.readiness() == (False, "draining") and scheduler.snapshot().draining and scheduler.alive
        assert all([isinstance(final_of(await events(generation)), Finished) for generation in running])
        assert await asyncio.wrap_future(drained) is True


@pytest.mark.parametrize("fault", [None, Fault.HANG])
async def test_drain_ends_in_the_stream_what_takes_too_long(fault: Fault | None) -> None:
    script = Script(decode_s=0.01, step_faults={5: fault} if fault else {})
    with scheduled(script) as scheduler:
        running = scheduler.submit(request(max_tokens=10_000))
        await until(lambda: script.steps > 5)
        began_s = time.monotonic()
        assert await asyncio.wrap_future(scheduler.drain(0.2)) is False
        assert 0.2 <= time.monotonic() - began_s < 20
        final = final_of(await events(running))
        assert isinstance(final, Failed) and isinstance(final.error, Draining)
        script.release.set()
        await until(lambda: scheduler.snapshot().running == 0)  # its row is freed, not run to its end


async def test_draining_an_idle_scheduler_is_done_at_once() -> None:
    with scheduled() as scheduler:
        assert scheduler.drain(5.0).result(timeout=0) is True


async def test_stop_ends_everything_and_is_idempotent() -> None:
    threads = threading.active_count()
    script = Script(decode_s=0.01)
    with scheduled(script, max_batch=1) as scheduler:
        generations = [scheduler.submit(request(max_tokens=10_000)) for _ in range(3)]
        await until(lambda: scheduler.snapshot().running)
        assert await asyncio.to_thread(scheduler.stop)
        for generation in generations:
            final = final_of(await events(generation))
            assert isinstance(final, Failed) and isinstance(final.error, Draining)
        assert scheduler.stop() and not scheduler.alive
        with pytest.raises(Draining):
            scheduler.submit(request())
    assert script.open_runners == 0
    await until(lambda: threading.active_count() <= threads + 1)  # asyncio's own pool keeps one


def test_a_scheduler_that_never_started_can_be_stopped() -> None:
    scheduler = Scheduler(lambda: None)  # type: ignore[arg-type, return-value]
    assert scheduler.readiness() == (False, "starting")
    assert scheduler.stop()


# --- time -------------------------------------------------------------------------------------------------------


async def test_idle_costs_nothing() -> None:
    others = set(threading.enumerate())
    with scheduled(tick_s=0.25) as scheduler:
        await events(scheduler.submit(request()))
        clocks = [time.pthread_getcpuclockid(one.ident) for one in {*threading.enumerate()} - others if one.ident]
        assert len(clocks) == 2, "the worker and the watchdog"
        before_s = sum(map(time.clock_gettime, clocks))
        await asyncio.sleep(1.5)
        assert sum(map(time.clock_gettime, clocks)) - before_s < 0.05 * 1.5
        assert scheduler.heartbeat_age_s < 30 and scheduler.alive


async def test_wall_clock_steps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with scheduled(Script(decode_s=0.005), watchdog_s=30.0, queue_deadline_s=60.0) as scheduler:
        generations = [scheduler.submit(request(max_tokens=60)) for _ in range(12)]
        for step_s in (3600, -3600, 10 * 365 * 86_400, -10 * 365 * 86_400):
            real = time.time
            monkeypatch.setattr(time, "time", lambda real=real, step_s=step_s: real() + step_s)
            await asyncio.sleep(0.1)
        told = await asyncio.gather(*(events(generation) for generation in generations))
    assert all(isinstance(final_of(one), Finished) for one in told)


async def test_a_view_shows_prefill_and_rates() -> None:
    script = Script(prefill_s=0.05, decode_s=0.01, chunk_tokens=10)
    with scheduled(script) as scheduler:
        generation = scheduler.submit(request("x" * 200, max_tokens=3000))
        await until(lambda: any(0 < row.done_tokens < 200 for row in scheduler.snapshot().rows))
        await until(lambda: scheduler.snapshot().prefill_tps > 20)
        await until(lambda: scheduler.snapshot().decode_tps > 10)
        (row,) = scheduler.snapshot().rows
        assert row.done_tokens == row.prompt_tokens == 200 and row.completion_tokens > 0 and row.max_tokens == 3000
        assert scheduler.snapshot().model("scripted").rows == 1  # type: ignore[union-attr]
        script.decode_s = 0.0
        await events(generation)
        await until(lambda: scheduler.snapshot().running == 0)
        assert scheduler.snapshot().counters.completion_tokens == 3000


async def test_the_gil_may_be_away_in_a_native_call() -> None:
    """Clients get what is due while one step blocks: a wait in the loop times out on time."""
    script = Script(step_faults={2: Fault.HANG})
    with scheduled(script) as scheduler:
        generation = scheduler.submit(request(max_tokens=50))
        await until(lambda: script.steps == 3)
        while await generation.next_batch(0.05):
            pass
        async with asyncio.timeout(60):
            for _ in range(10):
                assert await generation.next_batch(0.05) == ()
        script.release.set()
        assert isinstance(final_of(await events(generation)), Finished)
