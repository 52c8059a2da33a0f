"""The store of prefixes under a scheduler: it gives way to models and rows, keeps what running rows need, and ages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from inference.cache.keeper import StoreKeeper
from inference.engine.scripted import Script, ScriptedLoader
from inference.events import Failed
from inference.ports import ModelRef
from inference.scheduler.budget import assembly_bytes, estimate_bytes
from tests.cache_driver import KV
from tests.scripted import events, final_of, request, scheduled, until
from tests.shelf import BLOCK_BYTES, LIMITS, ROOT, WEIGHTS, Shelf


def loader(shelf: Shelf, limit_bytes: int, **script: object) -> ScriptedLoader:
    made = Script(limits=LIMITS, **script)  # type: ignore[arg-type]
    return ScriptedLoader(made, limit_bytes=limit_bytes, store=shelf.keeper)


def row_bytes(prompt: str, max_tokens: int) -> int:
    """What one row of this prompt needs beside the weights, its copy included."""
    return estimate_bytes([(LIMITS, [len(prompt) + max_tokens])]) - WEIGHTS


async def test_a_request_that_fits_without_the_store_is_served_with_it_and_takes_only_what_it_needs() -> None:
    shelf = Shelf(20)
    shelf.end()
    before, need = shelf.held, row_bytes("x" * 500, 100)
    limit = WEIGHTS + before + need // 2
    with scheduled(loader=loader(shelf, limit)) as scheduler:
        assert not isinstance(final_of(await events(scheduler.submit(request("x" * 500, max_tokens=100)))), Failed)
        assert before - need <= shelf.held < before
        assert shelf.held + need + WEIGHTS <= limit
        assert shelf.cache.check_integrity() == []
        assert shelf.given_back >= 1


@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(
    sequences=st.integers(0, 30),
    open_ones=st.integers(0, 30),
    prompt=st.integers(1, 2000),
    slack=st.integers(0, 3000),
)
def test_the_store_never_makes_a_request_fail(sequences: int, open_ones: int, prompt: int, slack: int) -> None:
    shelf = Shelf(sequences)
    for lease in shelf.leases[open_ones:]:
        shelf.cache.release(lease)
    limit = WEIGHTS + row_bytes("x" * prompt, 5) + slack

    async def play() -> None:
        with scheduled(loader=loader(shelf, limit)) as scheduler:
            told = await events(scheduler.submit(request("x" * prompt, max_tokens=5)))
            assert not isinstance(final_of(told), Failed)

    asyncio.run(play())
    assert shelf.held + WEIGHTS <= limit
    assert shelf.cache.check_integrity() == []


async def test_what_a_running_row_stands_on_is_waited_for_and_then_not() -> None:
    """The paths of the first row are locked; another that does not fit beside them waits, but not for ever."""
    for deadline_s, waits in ((60.0, True), (2.0, False)):
        shelf = Shelf(40)
        need = row_bytes("x" * 400, 400)
        both = estimate_bytes([(LIMITS, [800, 800])]) - WEIGHTS
        limit = WEIGHTS + both + shelf.held // 2
        assert need < limit
        made = loader(shelf, limit, decode_s=0.05)  # so the first takes 20 s, if nobody ends it
        with scheduled(loader=made, queue_deadline_s=deadline_s) as scheduler:
            first = scheduler.submit(request("x" * 400, max_tokens=400))
            await until(lambda: scheduler.snapshot().running == 1)
            shelf_before = shelf.held
            second = asyncio.create_task(events(scheduler.submit(request("y" * 400, max_tokens=400))))
            if waits:
                await asyncio.sleep(0.2)
                assert scheduler.snapshot().running == 1
                assert shelf.held == shelf_before
            else:
                await until(lambda: scheduler.snapshot().running == 2)
                assert shelf.held < shelf_before
            first.cancel()
            made._script.decode_s = 0.0
            assert not isinstance(final_of(await second), Failed)


async def test_the_store_grows_only_into_what_rows_leave() -> None:
    shelf = Shelf()
    limit = WEIGHTS + row_bytes("x" * 400, 400) + 5 * BLOCK_BYTES
    with scheduled(loader=loader(shelf, limit, decode_s=0.05)) as scheduler:
        running = scheduler.submit(request("x" * 400, max_tokens=400))
        await until(lambda: scheduler.snapshot().running == 1)
        loads = [(LIMITS, [800])]
        ceiling = limit - estimate_bytes(loads) + assembly_bytes(loads)
        await until(lambda: shelf.cache.ceiling_bytes == ceiling)

        def fill(_store: object) -> int:
            for number in range(40):
                shelf.cache.release(shelf.put(number))
                assert shelf.held <= ceiling
            return shelf.held

        held = await asyncio.wrap_future(scheduler.store(fill))
        assert held is not None and ceiling - BLOCK_BYTES < held <= ceiling
        await until(lambda: (found := scheduler.snapshot().store) is not None and found.ceiling_bytes == ceiling)
        running.cancel()
        await until(lambda: shelf.cache.ceiling_bytes == limit - WEIGHTS)


async def test_under_pressure_the_store_goes_before_a_row_does() -> None:
    """The device fills from elsewhere: what is stored, locked or not, is given back first, then models, then a row."""
    shelf = Shelf(30)
    limit = WEIGHTS + row_bytes("x" * 10, 200) + shelf.held + 2_000
    made = loader(shelf, limit, decode_s=0.002, growth_bytes=400)
    with scheduled(loader=made, publish_s=0.01) as scheduler:
        told = await events(scheduler.submit(request("x" * 10, max_tokens=200)))
        assert not isinstance(final_of(told), Failed)  # 80,000 bytes came from elsewhere, and the store had 76,800
        assert shelf.held < 10 * BLOCK_BYTES
        assert scheduler.snapshot().counters.failed == 0


@pytest.mark.parametrize("limit", ["ttl_s", "idle_s"])
async def test_what_is_old_goes_while_nothing_else_happens(limit: str) -> None:
    shelf = Shelf(**{limit: 0.3})
    lookup = shelf.cache.lookup(ROOT, tuple(range(300)), session="s")
    lease = shelf.cache.hold(lookup, "r")
    shelf.cache.commit(lease, tuple(range(300)), 0, [KV(ROOT, tuple(range(256)), 0, True)])
    shelf.cache.release(lease)
    assert shelf.held == BLOCK_BYTES
    with scheduled(loader=loader(shelf, 0)):
        await until(lambda: shelf.held == 0)
        assert shelf.given_back == 1


async def test_what_is_stored_is_looked_at_behind_work_and_then_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, looks = Shelf(sequences=1), 0

    def look(_keeper: object) -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(StoreKeeper, "prove", look)
    made = loader(shelf, 10_000_000)
    with scheduled(loader=made, tidy_after_s=0.05) as scheduler:
        await asyncio.sleep(0.3)
        assert looks == 0, "nothing was done yet"
        await events(scheduler.submit(request()))
        await until(lambda: made.released)  # which is done once in each idle time, behind the last look
        before = looks
        assert before > 0
        await asyncio.sleep(0.5)
        assert looks == before


async def test_a_scheduler_without_a_store_says_so() -> None:
    with scheduled() as scheduler:
        assert await asyncio.wrap_future(scheduler.store(lambda store: store.totals())) is None
        await until(lambda: scheduler.snapshot().memory is not None)
        assert scheduler.snapshot().store is None


async def test_a_question_that_fails_ends_nothing() -> None:
    shelf = Shelf(1)
    with scheduled(loader=loader(shelf, 0)) as scheduler:
        with pytest.raises(ZeroDivisionError):
            await asyncio.wrap_future(scheduler.store(lambda store: store.held_bytes // 0))
        assert not isinstance(final_of(await events(scheduler.submit(request()))), Failed)
        assert ModelRef("scripted", Path("scripted")).id in {model.id for model in scheduler.snapshot().models}
