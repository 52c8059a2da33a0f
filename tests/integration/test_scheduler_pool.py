"""The pool of models: who may stay, who must go, by whose order, and what is told to those it hurts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from inference.engine.scripted import Fault, Script, ScriptedLoader
from inference.errors import InferenceError, InvalidModel, MemoryPressure
from inference.events import Failed
from inference.ports import DeviceMemory, ModelRef
from inference.scheduler import (
    Ended,
    Generation,
    Leave,
    MemoryNotReturned,
    ModelInUse,
    ModelState,
    PoolRules,
    Scheduler,
    Stage,
)
from inference.scheduler.pool import FAILURE_WINDOW_S, FAILURES
from tests.scripted import events, final_of, request, scheduled, until


class Hands:
    """A clock that a test turns on by hand, beside the real one."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


def ref(name: str) -> ModelRef:
    return ModelRef(name, Path(name))


async def loaded(scheduler: Scheduler, *names: str) -> None:
    for name in names:
        await asyncio.wrap_future(scheduler.load(ref(name)))


async def error_of(generation: Generation) -> InferenceError | None:
    final = final_of(await events(generation))
    return final.error if isinstance(final, Failed) else None


def resident(scheduler: Scheduler) -> set[str]:
    return {model.id for model in scheduler.snapshot().models if model.limits is not None}


async def test_a_model_in_use_leaves_only_by_force_and_everybody_is_told() -> None:
    made = ScriptedLoader(scripts={"a": Script(decode_s=0.005)})
    with scheduled(loader=made, max_batch=1) as scheduler:
        running = scheduler.submit(request(model=ref("a"), max_tokens=5000))
        waiting = scheduler.submit(request(model=ref("a")))
        await until(lambda: scheduler.snapshot().running)
        with pytest.raises(ModelInUse, match="1 answers run and 1 requests wait"):
            await asyncio.wrap_future(scheduler.unload("a", Leave.UNUSED))
        receipt = await asyncio.wrap_future(scheduler.unload("a", Leave.NOW))
        assert receipt is not None and receipt.returned and made.memory().active_bytes == 0
        assert isinstance(await error_of(running), Ended) and isinstance(await error_of(waiting), Ended)
        assert made.loaded["a"] == 1, "those it ended did not bring it back"
        assert await error_of(scheduler.submit(request(model=ref("a")))) is None
        receipt = await asyncio.wrap_future(scheduler.unload("a", Leave.UNUSED))
        assert receipt is not None and receipt.model_id == "a"


async def test_a_model_that_leaves_is_shown_as_draining_and_finishes_what_runs() -> None:
    script = Script(decode_s=0.02)
    with scheduled(loader=ScriptedLoader(scripts={"a": script})) as scheduler:
        running = scheduler.submit(request(model=ref("a"), max_tokens=3000))
        await until(lambda: scheduler.snapshot().running)
        order = scheduler.unload("a")
        await until(lambda: [one.state for one in scheduler.snapshot().models] == [ModelState.DRAINING])
        script.decode_s = 0.0
        assert await error_of(running) is None and await asyncio.wrap_future(order) is not None


async def test_a_second_model_is_loaded_while_the_first_streams() -> None:
    script = Script(decode_s=0.02)
    made = ScriptedLoader(scripts={"a": script, "b": Script(load_s=0.05)})
    with scheduled(loader=made, max_models=2) as scheduler:
        stream = scheduler.submit(request(model=ref("a"), max_tokens=3000))
        await until(lambda: scheduler.snapshot().running)
        await loaded(scheduler, "b")
        assert scheduler.snapshot().running == 1 and not stream.ended
        assert await error_of(scheduler.submit(request(model=ref("b")))) is None
        script.decode_s = 0.0
        assert await error_of(stream) is None


async def test_models_change_places_while_another_streams() -> None:
    """Two may stay: the one that streams does, and the others take turns beside it."""
    script = Script(decode_s=0.02)
    made = ScriptedLoader(scripts={"a": script, "b": Script(), "c": Script()})
    with scheduled(loader=made, max_models=2) as scheduler:
        stream = scheduler.submit(request(model=ref("a"), max_tokens=3000))
        await until(lambda: scheduler.snapshot().running)
        for name in "bcbc":
            assert await error_of(scheduler.submit(request(model=ref(name)))) is None
        assert scheduler.snapshot().running and made.loaded == {"a": 1, "b": 2, "c": 2}
        script.decode_s = 0.0
        assert await error_of(stream) is None


async def test_pinned_models_stay_and_who_finds_no_place_is_told_the_figures() -> None:
    made = ScriptedLoader(limit_bytes=5_000_000)
    with scheduled(loader=made, max_models=2) as scheduler:
        await loaded(scheduler, "a", "b")
        scheduler.rule(PoolRules(2, pinned=frozenset("a")))
        assert await error_of(scheduler.submit(request(model=ref("c")))) is None
        await until(lambda: resident(scheduler) == {"a", "c"})  # b was used last, and a may not go
        scheduler.rule(PoolRules(2, pinned=frozenset("ac")))
        error = await error_of(scheduler.submit(request(model=ref("b"))))
        assert isinstance(error, MemoryPressure) and "5000000 bytes and 2 models" in error.message
        with pytest.raises(MemoryPressure, match="may not leave"):
            await loaded(scheduler, "b")
        assert await error_of(scheduler.submit(request(model=ref("c")))) is None
        assert await asyncio.wrap_future(scheduler.unload("a")) is not None, "an order is an order"


async def test_idle_models_leave_after_their_time_but_never_in_the_middle_of_a_request() -> None:
    clock = Hands()
    script = Script(decode_s=0.02)
    made = ScriptedLoader(scripts={"a": script, "b": Script(), "c": Script()}, clock=clock)
    rules = PoolRules(4, ttl_s=60.0, pinned=frozenset("d"), ttl_of={"c": 0.0})
    settings = {"max_models": 4, "tidy_after_s": 0.02, "watchdog_s": 1e6}
    with scheduled(loader=made, scheduler={"clock": clock}, **settings) as scheduler:
        scheduler.rule(rules)
        await loaded(scheduler, *"abcd")
        stream = scheduler.submit(request(model=ref("a"), max_tokens=3000))
        await until(lambda: scheduler.snapshot().running)
        clock.ahead_s += 61
        await until(lambda: resident(scheduler) == set("acd"))
        script.decode_s = 0.0
        assert await error_of(stream) is None
        await until(lambda: not scheduler.snapshot().running)  # its row is freed by the clock of now
        assert resident(scheduler) == set("acd"), "it was used until now"
        clock.ahead_s += 61
        await until(lambda: resident(scheduler) == set("cd"))


async def test_fewer_models_may_stay_from_now_on() -> None:
    with scheduled(max_models=3, tidy_after_s=0.02) as scheduler:
        await loaded(scheduler, *"abc")
        assert await error_of(scheduler.submit(request(model=ref("a")))) is None
        scheduler.rule(PoolRules(1))
        await until(lambda: resident(scheduler) == {"a"})  # used last
        await loaded(scheduler, "b")
        await until(lambda: resident(scheduler) == {"b"})


async def test_a_model_that_keeps_failing_is_left_alone_until_it_is_ordered() -> None:
    clock = Hands()
    script = Script(load_faults=dict.fromkeys(range(5), Fault.INVALID_MODEL))
    settings = {"load_retry_s": 10.0, "watchdog_s": 1e6, "queue_deadline_s": 1e6}
    with scheduled(loader=ScriptedLoader(script), scheduler={"clock": clock}, **settings) as scheduler:

        async def failure(after_s: float) -> str:
            clock.ahead_s += after_s
            error = await error_of(scheduler.submit(request(model=ref("a"))))
            assert isinstance(error, InvalidModel) and "shard" in error.message
            return error.message

        assert "admin" not in await failure(0)  # long ago by the time of the next, so it does not count
        for number in range(1, FAILURES + 1):
            message = await failure(11 if number > 1 else FAILURE_WINDOW_S + 1)
            assert ("before an admin orders it" in message) == (number == FAILURES)
        assert script.loads == FAILURES + 1
        assert "before an admin orders it" in await failure(100 * FAILURE_WINDOW_S) and script.loads == FAILURES + 1
        with pytest.raises(InvalidModel):
            await loaded(scheduler, "a")
        await loaded(scheduler, "a")
        assert await error_of(scheduler.submit(request(model=ref("a")))) is None


async def test_memory_that_does_not_come_back_is_an_error() -> None:
    class Leaking(ScriptedLoader):
        held_bytes = 0

        def memory(self) -> DeviceMemory:
            told = super().memory()
            return DeviceMemory(told.active_bytes + self.held_bytes, 0, told.peak_bytes, told.limit_bytes)

        def release_unused(self) -> None:
            super().release_unused()
            self.held_bytes = 20_000_000

    big = Script()
    made = Leaking(big)
    with scheduled(loader=made) as scheduler:
        await loaded(scheduler, "a")
        with pytest.raises(MemoryNotReturned) as raised:
            await asyncio.wrap_future(scheduler.unload("a"))
        receipt = raised.value.receipt
        assert not receipt.returned and receipt.after.active_bytes > receipt.before.active_bytes
        await until(lambda: not resident(scheduler))


async def test_requests_are_listed_in_their_order_and_one_can_be_ended() -> None:
    script = Script(decode_s=0.005)
    with scheduled(script, max_batch=1) as scheduler:
        first = scheduler.submit(request(model=ref("a"), max_tokens=5000, id="one"))
        second = scheduler.submit(request(model=ref("a"), id="two", client="key"))
        third = scheduler.submit(request(model=ref("a"), id="three"))
        wanted = [Stage.DECODE, Stage.WAITING, Stage.WAITING]
        await until(lambda: [view.stage for view in scheduler.requests()] == wanted)
        one, two, _ = scheduler.requests()
        assert (one.id, one.model, one.completion_tokens > 0) == ("one", "a", True)
        assert (two.id, two.client, two.completion_tokens) == ("two", "key", 0)
        assert scheduler.end("two") == 1 and scheduler.end("two") == 0 and scheduler.end("nobody") == 0
        assert isinstance(await error_of(second), Ended)
        assert scheduler.end("one") == 1
        assert isinstance(await error_of(first), Ended) and await error_of(third) is None
        await until(lambda: not scheduler.requests() and not scheduler.snapshot().rows)
