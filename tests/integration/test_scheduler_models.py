"""Several models: who is loaded, who must go, who waits, and what happens when one cannot be loaded or does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from inference.engine.scripted import Fault, Script, ScriptedLoader, saying
from inference.errors import EngineFatal, InvalidModel, MemoryPressure, ModelTooLarge, QueueTimeout
from inference.events import Event, Failed
from inference.ports import ModelLimits, ModelRef
from inference.scheduler import ModelState, Scheduler
from tests.scripted import events, final_of, request, scheduled, text_of, until


def ref(name: str) -> ModelRef:
    return ModelRef(name, Path(name))


def limits(weights_bytes: int = 1000, kv_bytes_per_token: int = 1) -> ModelLimits:
    return ModelLimits(65_536, 257, weights_bytes, kv_bytes_per_token)


def loader(limit_bytes: int = 0, **scripts: Script) -> ScriptedLoader:
    return ScriptedLoader(scripts=scripts, limit_bytes=limit_bytes)


def error_of(told: Sequence[Event]) -> Exception | None:
    final = final_of(told)
    return final.error if isinstance(final, Failed) else None


def resident(scheduler: Scheduler) -> set[str]:
    return {model.id for model in scheduler.snapshot().models if model.state is ModelState.READY}


async def test_a_request_brings_its_model_in_and_the_least_recently_used_leaves() -> None:
    made = loader(a=Script(reply=saying("I am a")), b=Script(reply=saying("I am b")), c=Script(reply=saying("I am c")))
    with scheduled(loader=made, max_models=2) as scheduler:
        for name, after in [("a", "a"), ("b", "ab"), ("a", "ab"), ("c", "ac"), ("b", "bc")]:
            assert text_of(await events(scheduler.submit(request(model=ref(name), max_tokens=50)))) == f"I am {name}"
            await until(lambda after=after: resident(scheduler) == set(after))
        assert made.loaded == {"a": 1, "b": 2, "c": 1}


async def test_a_model_does_not_leave_during_its_requests_and_both_in_turn_are_served() -> None:
    scripts = {name: Script(decode_s=0.002) for name in "abc"}
    made = loader(**scripts)
    with scheduled(loader=made, max_models=1) as scheduler:
        told = await asyncio.gather(
            *(events(scheduler.submit(request(model=ref(name), max_tokens=20))) for name in ("a", "b", "c", "a", "b"))
        )
    assert all(error_of(one) is None for one in told)
    assert sum(made.loaded.values()) <= 4  # those that wait for one model are served together
    assert all(script.open_runners == 0 for script in scripts.values())


async def test_a_stream_of_requests_cannot_keep_another_model_out() -> None:
    made = loader(a=Script(decode_s=0.002), b=Script(decode_s=0.002))
    with scheduled(loader=made, max_models=1, max_batch=4) as scheduler:
        stop = False

        async def pester() -> int:
            served = 0
            while not stop:
                assert error_of(await events(scheduler.submit(request(model=ref("a"), max_tokens=10)))) is None
                served += 1
            return served

        crowd = [asyncio.create_task(pester()) for _ in range(6)]
        await until(lambda: scheduler.snapshot().running == 4)
        for _ in range(3):
            assert error_of(await events(scheduler.submit(request(model=ref("b"), max_tokens=3)))) is None
        stop = True
        assert all(served > 0 for served in await asyncio.gather(*crowd))


async def test_a_model_is_not_pushed_out_before_it_served_who_waited_for_it() -> None:
    """All slots are taken, so that neither b nor c can start: they must not push each other out meanwhile."""
    made = loader(a=Script(decode_s=0.005), b=Script(), c=Script())
    with scheduled(loader=made, max_models=2, max_batch=1) as scheduler:
        long = scheduler.submit(request(model=ref("a"), max_tokens=60))
        await until(lambda: scheduler.snapshot().running)
        told = await asyncio.gather(*(events(scheduler.submit(request(model=ref(name)))) for name in "bc"))
        assert all(error_of(one) is None for one in (*told, await events(long)))
        assert made.loaded == {"a": 1, "b": 1, "c": 1}


async def test_an_engine_rebuilt_while_its_model_is_about_to_leave_is_not_forgotten() -> None:
    """In one look, the row of a kills the engine of a, which is built anew, and b wants a's place."""
    scripts = {"a": Script(start_faults={0: Fault.FATAL}), "b": Script(), "h": Script(step_faults={0: Fault.HANG})}
    with scheduled(loader=loader(**scripts), max_models=2) as scheduler:
        await asyncio.wrap_future(scheduler.load(ref("a")))
        hung = scheduler.submit(request(model=ref("h")))
        await until(lambda: scripts["h"].steps)
        first = [scheduler.submit(request(model=ref(name))) for name in "ab"]
        scripts["h"].release.set()
        told = [error_of(await events(generation)) for generation in (hung, *first)]
        assert [type(error) for error in told] == [type(None), EngineFatal, type(None)]
        await until(lambda: resident(scheduler) == {name for name in scripts if scripts[name].open_runners})
        assert all(script.open_runners <= 1 for script in scripts.values())


async def test_a_corrupt_model_fails_its_requests_and_the_earlier_one_still_serves() -> None:
    made = loader(good=Script(), bad=Script(load_faults=dict.fromkeys(range(99), Fault.INVALID_MODEL)))
    with scheduled(loader=made, max_models=1) as scheduler:
        assert error_of(await events(scheduler.submit(request(model=ref("good"))))) is None
        told = await asyncio.gather(*(events(scheduler.submit(request(model=ref("bad")))) for _ in range(3)))
        assert all(isinstance(error_of(one), InvalidModel) for one in told)
        await until(lambda: resident(scheduler) == {"good"})  # it is brought back unasked
        view = scheduler.snapshot().model("bad")
        assert view is not None and view.state is ModelState.FAILED and "shard" in view.error
        again = [error_of(await events(scheduler.submit(request(model=ref("bad"))))) for _ in range(20)]
        assert all(isinstance(error, InvalidModel) for error in again)
        assert made._scripts["bad"].loads == 1  # not tried, and nobody evicted, for each of them
        assert error_of(await events(scheduler.submit(request(model=ref("good"))))) is None


async def test_load_and_unload_are_orders_with_an_answer() -> None:
    script = Script(load_faults={0: Fault.HANG})
    made = loader(a=script, bad=Script(load_faults={0: Fault.RAISE, 1: Fault.INVALID_MODEL}))
    with scheduled(loader=made) as scheduler:
        both = [scheduler.load(ref("a")), scheduler.load(ref("a"))]
        await until(lambda: scheduler.snapshot().loading)
        assert scheduler.readiness() == (False, "loading")
        script.release.set()
        for order in both:
            assert (await asyncio.wrap_future(order)).weights_bytes == 1_000_000
        assert made.loaded["a"] == 1 and scheduler.readiness()[0]
        for message in ("could not be loaded", "shard is missing"):
            with pytest.raises(Exception, match=message):
                await asyncio.wrap_future(scheduler.load(ref("bad")))
        await asyncio.wrap_future(scheduler.load(ref("bad")))  # an order is always tried
        receipt = await asyncio.wrap_future(scheduler.unload("a"))
        assert receipt is not None and receipt.returned and receipt.freed_bytes == 1_000_000
        assert await asyncio.wrap_future(scheduler.unload("a")) is None
        await until(lambda: resident(scheduler) == {"bad"})


async def test_unloading_waits_for_the_rows_and_a_waiting_request_brings_the_model_back() -> None:
    script = Script(step_faults={3: Fault.HANG})
    made = loader(a=script)
    with scheduled(loader=made, max_batch=1) as scheduler:
        running = scheduler.submit(request(model=ref("a"), max_tokens=20))
        waiting = scheduler.submit(request(model=ref("a"), max_tokens=2))
        await until(lambda: script.steps > 3)
        order = scheduler.unload("a")
        script.release.set()
        assert error_of(await events(running)) is None
        assert await asyncio.wrap_future(order) is not None
        assert error_of(await events(waiting)) is None
        assert made.loaded["a"] == 2


async def test_stopping_in_the_middle_of_a_load_leaves_nothing() -> None:
    script = Script(load_s=0.2)
    with scheduled(loader=ScriptedLoader(script)) as scheduler:
        order = scheduler.load(ref("a"))
        later = scheduler.load(ref("b"))
        waiting = scheduler.submit(request(model=ref("a")))
        await until(lambda: script.loads)
        stopping = asyncio.create_task(asyncio.to_thread(scheduler.stop))
        assert error_of(await events(waiting)) is not None
        assert await stopping
        assert order.done() and later.exception() is not None
    assert script.open_runners == 0


# --- memory -----------------------------------------------------------------------------------------------------


async def test_rows_wait_for_memory_and_all_are_served() -> None:
    """Room for 1,000 of weights and 2 rows of 100 with the assembly copy, not for 3."""
    script = Script(limits=limits(), decode_s=0.002)
    made = ScriptedLoader(script, limit_bytes=1000 + 2 * 100 + 100)
    most = 0
    with scheduled(loader=made, max_batch=8) as scheduler:
        told = [asyncio.create_task(events(scheduler.submit(request("x" * 90, max_tokens=10)))) for _ in range(9)]
        while not all(task.done() for task in told):
            view = scheduler.snapshot()
            most = max(most, view.running)
            assert view.reserved_bytes <= made.limit_bytes
            await asyncio.sleep(0.001)
    assert all(error_of(task.result()) is None for task in told) and most == 2


async def test_what_can_never_fit_is_refused_when_its_model_is_known_and_before() -> None:
    made = ScriptedLoader(Script(limits=limits()), limit_bytes=1300)
    with scheduled(loader=made) as scheduler:
        told = await events(scheduler.submit(request("x" * 200, max_tokens=10)))  # the model is not loaded yet
        assert isinstance(error_of(told), ModelTooLarge) and len(told) == 1
        with pytest.raises(ModelTooLarge, match=r"1420 bytes .* 1300 bytes") as refused:
            scheduler.submit(request("x" * 200, max_tokens=10))
        assert refused.value.code == "model_too_large" and refused.value.param == "messages"
        with pytest.raises(ModelTooLarge, match=r"1440 bytes .* 1300 bytes") as refused:
            scheduler.submit(request("x" * 100, max_tokens=120))
        assert refused.value.param == "max_tokens", "the prompt alone would do"
        assert error_of(await events(scheduler.submit(request("x" * 100, max_tokens=10)))) is None


async def test_waiting_for_memory_ends_as_memory_pressure() -> None:
    script = Script(limits=limits(), decode_s=0.1)
    with scheduled(loader=ScriptedLoader(script, limit_bytes=1600), queue_deadline_s=0.2) as scheduler:
        big = scheduler.submit(request("x" * 200, max_tokens=60))
        await until(lambda: scheduler.snapshot().running)
        assert isinstance(error_of(await events(scheduler.submit(request("x" * 200, max_tokens=60)))), MemoryPressure)
        script.decode_s = 0.0
        assert error_of(await events(big)) is None


async def test_a_big_request_is_not_starved_by_small_ones() -> None:
    script = Script(limits=limits(), decode_s=0.001)
    with scheduled(loader=ScriptedLoader(script, limit_bytes=1000 + 700), max_queue=100) as scheduler:
        stop = False

        async def small(tokens: int) -> None:
            while not stop:
                assert error_of(await events(scheduler.submit(request("x" * 50, max_tokens=tokens)))) is None

        crowd = [asyncio.create_task(small(5 + 3 * number)) for number in range(8)]  # never all at an end together
        await until(lambda: scheduler.snapshot().running >= 4)
        assert error_of(await events(scheduler.submit(request("x" * 300, max_tokens=10)))) is None
        stop = True
        await asyncio.gather(*crowd)


async def test_idle_models_make_room_for_rows_and_for_models_that_do_not_fit_beside_them() -> None:
    class Tight(ScriptedLoader):
        def load(self, model: ModelRef):  # type: ignore[no-untyped-def]
            weights_bytes = self._scripts[model.id].limits.weights_bytes
            if weights_bytes > self.limit_bytes:
                raise ModelTooLarge("too large for this machine")
            if self.memory().active_bytes + weights_bytes > self.limit_bytes:
                raise MemoryPressure("too large beside the others")
            return super().load(model)

    made = Tight(
        scripts={"a": Script(limits=limits()), "b": Script(limits=limits()), "c": Script(limits=limits(2500))},
        limit_bytes=2900,
    )
    made._scripts["huge"] = Script(limits=limits(5000))
    with scheduled(loader=made, max_models=3) as scheduler:
        for name in "ab":
            assert error_of(await events(scheduler.submit(request(model=ref(name))))) is None
        await until(lambda: resident(scheduler) == {"a", "b"})
        assert error_of(await events(scheduler.submit(request("x" * 700, model=ref("b"))))) is None
        await until(lambda: resident(scheduler) == {"b"})  # a was idle and its weights were in the way
        assert error_of(await events(scheduler.submit(request(model=ref("c"))))) is None
        await until(lambda: resident(scheduler) == {"c"})
        assert isinstance(error_of(await events(scheduler.submit(request(model=ref("huge"))))), ModelTooLarge)
        assert error_of(await events(scheduler.submit(request(model=ref("a"))))) is None


async def test_an_idle_engine_gives_memory_back_once() -> None:
    made = ScriptedLoader(Script(limits=limits()))
    with scheduled(loader=made, tidy_after_s=0.05) as scheduler:
        await asyncio.sleep(0.3)
        assert made.released == 0, "nothing was done yet"
        for times in (1, 2):
            assert error_of(await events(scheduler.submit(request()))) is None
            await until(lambda times=times: made.released == times)
            await asyncio.sleep(0.3)
            assert made.released == times


async def test_memory_that_grows_ends_the_newest_and_refuses_new_ones() -> None:
    script = Script(limits=limits(), decode_s=0.005, growth_bytes=10)
    made = ScriptedLoader(script, limit_bytes=2000)
    with scheduled(loader=made, publish_s=0.01, reserve_tokens=8) as scheduler:
        old = scheduler.submit(request(max_tokens=10_000))
        await until(lambda: scheduler.snapshot().running == 1)
        new = scheduler.submit(request(max_tokens=10_000))
        assert isinstance(error_of(await events(new)), MemoryPressure)
        assert made.released > 0
        await until(lambda: scheduler.snapshot().pressure)
        with pytest.raises(MemoryPressure):
            scheduler.submit(request())
        assert isinstance(error_of(await events(old)), MemoryPressure)
        script.grown_bytes = 0  # somebody else gave memory back
        script.growth_bytes = 0
        await until(lambda: not scheduler.snapshot().pressure)
        assert error_of(await events(scheduler.submit(request()))) is None


async def test_answers_that_outgrow_their_reservation_go_on_while_there_is_room() -> None:
    script = Script(limits=limits())
    with scheduled(loader=ScriptedLoader(script, limit_bytes=1000 + 2 * 650), reserve_tokens=50) as scheduler:
        generation = scheduler.submit(request("x" * 100, max_tokens=500))
        assert error_of(await events(generation)) is None


async def test_the_queue_deadline_is_kept_while_the_worker_is_blocked() -> None:
    script = Script(step_faults={0: Fault.HANG})
    with scheduled(script, max_batch=1, queue_deadline_s=0.2) as scheduler:
        scheduler.submit(request())
        await until(lambda: script.steps)
        assert isinstance(error_of(await events(scheduler.submit(request()))), QueueTimeout)
        assert scheduler.snapshot().queue_depth == 0
