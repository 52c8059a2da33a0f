"""Clients that go away: while queued, in prefill, in decode, in a storm; and clients that read too slowly."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest

from inference.engine.scripted import Fault, Script
from inference.events import Failed
from tests.scripted import events, final_of, request, scheduled, until

STEP_S = 0.02


async def test_a_queued_request_leaves_at_once_and_never_reaches_the_engine() -> None:
    script = Script(step_faults={0: Fault.HANG})
    with scheduled(script, max_batch=1) as scheduler:
        running = scheduler.submit(request(id="running"))
        await until(lambda: script.steps)
        queued = scheduler.submit(request(id="queued"))
        assert scheduler.snapshot().queue_depth == 1
        began_s = time.monotonic()
        queued.cancel()
        assert scheduler.snapshot().queue_depth == 0
        assert time.monotonic() - began_s < 5  # although the worker is blocked in a step
        script.release.set()
        await events(running)
        assert isinstance(final_of(await events(queued)), Failed)
        assert [job.split("#")[0] for job in script.started] == ["running"]


@pytest.mark.parametrize("chunks", [0, 1, 3, 10])
async def test_a_prefill_ends_at_the_next_chunk(chunks: int) -> None:
    script = Script(prefill_s=STEP_S, chunk_tokens=10)
    with scheduled(script) as scheduler:
        generation = scheduler.submit(request("x" * 1000))
        await until(lambda: script.steps >= chunks)
        generation.cancel()
        steps = script.steps
        await until(lambda: scheduler.snapshot().running == 0 and scheduler.snapshot().queue_depth == 0)
        assert script.steps <= steps + 1
        await asyncio.sleep(3 * STEP_S)
        assert script.steps <= steps + 1


async def test_a_decode_ends_after_at_most_one_more_step() -> None:
    script = Script(decode_s=STEP_S)
    with scheduled(script) as scheduler:
        generation = scheduler.submit(request(max_tokens=10_000))
        neighbour = scheduler.submit(request(max_tokens=60))
        await until(lambda: script.steps >= 5)
        generation.cancel()
        steps = script.steps
        await until(lambda: scheduler.snapshot().running <= 1)
        assert len(script.started) == 2 and script.steps < steps + 60
        assert isinstance(final_of(await events(generation)), Failed)
        assert not isinstance(final_of(await events(neighbour)), Failed)
        assert scheduler.snapshot().counters.cancelled == 1


async def test_cancel_is_idempotent_from_any_thread_and_late() -> None:
    with scheduled(Script(decode_s=0.001)) as scheduler:
        generation = scheduler.submit(request(max_tokens=10_000))
        threads = [threading.Thread(target=generation.cancel) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert isinstance(final_of(await events(generation)), Failed)
        done = scheduler.submit(request())
        told = await events(done)
        done.cancel()
        assert not isinstance(final_of(told), Failed)
        counters = scheduler.snapshot().counters
        assert (counters.cancelled, counters.finished) == (1, 1)


async def test_a_reader_that_stops_reading_is_cut_off_and_blocks_nobody() -> None:
    script = Script(decode_s=0.0005)
    with scheduled(script, mailbox_events=200) as scheduler:
        stuck = scheduler.submit(request(max_tokens=50_000))
        other = scheduler.submit(request(max_tokens=150))  # fewer than may wait, however slowly this test is let read
        assert not isinstance(final_of(await events(other)), Failed)
        await until(lambda: scheduler.snapshot().running == 0)
        final = final_of(await events(stuck))
        assert isinstance(final, Failed) and "slowly" in final.error.message
        assert script.steps < 2000


def test_a_loop_that_goes_away_frees_its_rows() -> None:
    script = Script(decode_s=0.001)
    with scheduled(script, max_batch=4) as scheduler:

        async def leave() -> None:
            for _ in range(6):
                scheduler.submit(request(max_tokens=60_000))
            await until(lambda: scheduler.snapshot().running == 4)

        asyncio.run(leave())
        asyncio.run(until(lambda: scheduler.snapshot().running == scheduler.snapshot().queue_depth == 0))


async def test_a_thousand_random_aborts_leave_nothing() -> None:
    threads = threading.active_count()
    tasks = len(asyncio.all_tasks())
    chance = random.Random(7)
    script = Script(decode_s=0.0005, prefill_s=0.0005, chunk_tokens=8)
    with scheduled(script, max_batch=8, max_queue=64) as scheduler:

        async def client(number: int) -> None:
            generation = scheduler.submit(request("x" * chance.randint(1, 60), max_tokens=chance.choice([5, 10_000])))
            reading = asyncio.create_task(events(generation))
            await asyncio.sleep(chance.random() * 0.03)
            generation.cancel()
            final_of(await reading)

        for start in range(0, 1000, 50):
            await asyncio.gather(*(client(start + n) for n in range(50)))
        await until(lambda: scheduler.snapshot().running == 0)
        view = scheduler.snapshot()
        assert view.queue_depth == 0 and view.counters.submitted == 1000
        assert view.counters.finished + view.counters.cancelled == 1000 and view.counters.cancelled > 500
        assert view.models[0].rows == view.models[0].kv_bytes == 0
        assert scheduler._admission.running() == []
    await until(lambda: threading.active_count() <= threads)  # of earlier tests some may have ended meanwhile
    assert len(asyncio.all_tasks()) == tasks


async def test_cancel_to_free_slot_is_a_step_not_a_second() -> None:
    script = Script(decode_s=0.005)
    took_s = []
    with scheduled(script, max_batch=1) as scheduler:
        for _ in range(40):
            generation = scheduler.submit(request(max_tokens=10_000))
            await until(lambda: scheduler.snapshot().running == 1)
            generation.cancel()
            took_s.append(await until(lambda: not scheduler._admission.running()))
    took_s.sort()
    assert took_s[len(took_s) // 2] < 0.5, took_s
