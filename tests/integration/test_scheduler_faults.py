"""Rows that fail, engines that fail, a worker that dies, a device that hangs: who is told what, and what goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from inference.engine.scripted import Fault, Script, ScriptedLoader, ScriptedRunner
from inference.errors import EngineFatal, GenerationFailed, GenerationStalled
from inference.events import Delta, Event, Failed, PrefillProgress
from inference.ports import ModelRef, Prefilled, StepOutput
from inference.scheduler import Scheduler
from tests.scripted import (
    ByteDetokenizer,
    ByteTokenizer,
    events,
    final_of,
    reply_ids,
    request,
    scheduled,
    text_of,
    until,
)

ROOT = Path(__file__).parents[2]


def error_of(told: Sequence[Event]) -> Exception | None:
    final = final_of(told)
    return final.error if isinstance(final, Failed) else None


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("fault", [Fault.ROW, Fault.RAISE, Fault.FATAL])
async def test_a_fault_at_any_step_ends_what_it_must_and_nothing_else(fault: Fault, batch: int) -> None:
    hits = 0
    for step in range(9):
        script = Script(step_faults={step: fault}, chunk_tokens=4)
        loader = ScriptedLoader(script)
        with scheduled(loader=loader, max_batch=batch) as scheduler:
            first = [request(f"prompt{n}", max_tokens=4) for n in range(batch)]
            told = await asyncio.gather(*(events(scheduler.submit(one)) for one in first))
            errors = [error for error in map(error_of, told) if error is not None]
            match fault:
                case Fault.ROW:
                    assert len(errors) <= 1 and all(type(error) is GenerationFailed for error in errors)
                case Fault.RAISE:
                    assert all(type(error) is GenerationFailed for error in errors)
                case Fault.FATAL:
                    assert all(type(error) is EngineFatal for error in errors)
            assert errors or script.steps <= step
            hits += bool(errors)
            for one, answer in zip(first, told, strict=True):
                whole = ByteTokenizer().decode(reply_ids(one, script, 4))
                assert text_of(answer) == whole if error_of(answer) is None else whole.startswith(text_of(answer))
            if not errors:
                break
            after = await events(scheduler.submit(first[0]))
            assert error_of(after) is None and scheduler.alive
            await until(lambda scheduler=scheduler: scheduler.snapshot().running == 0)
            view = scheduler.snapshot()
            assert view.counters.failed == len(errors)
            rebuilt = int(fault is Fault.FATAL)
            assert view.counters.engine_rebuilds == rebuilt and script.loads == 1 + rebuilt
            assert script.open_runners == 1
    assert hits >= 5  # two chunks and four tokens of a row, the last two in one step


async def test_readiness_is_false_while_an_engine_is_rebuilt() -> None:
    script = Script(step_faults={3: Fault.FATAL}, load_s=1.5)
    with scheduled(script) as scheduler:
        seen: set[tuple[bool, str]] = set()
        waiting = asyncio.create_task(events(scheduler.submit(request(max_tokens=50))))
        while not waiting.done():
            seen.add(scheduler.readiness())
            await asyncio.sleep(0.01)
        assert isinstance(error_of(waiting.result()), EngineFatal)
        later = scheduler.submit(request())
        await until(lambda: scheduler.readiness() == (False, "rebuilding"))
        assert scheduler.alive
        assert error_of(await events(later)) is None and scheduler.readiness() == (True, "")


async def test_a_rebuild_that_fails_tells_who_waits_and_the_next_try_serves() -> None:
    script = Script(step_faults={3: Fault.FATAL}, load_faults={1: Fault.INVALID_MODEL})
    with scheduled(script, max_batch=1, load_retry_s=0.2) as scheduler:
        told = await asyncio.gather(*(events(scheduler.submit(request(max_tokens=9))) for _ in range(3)))
        assert [type(error_of(one)).__name__ for one in told] == ["EngineFatal", "InvalidModel", "InvalidModel"]
        assert scheduler.alive
        await asyncio.sleep(0.25)
        assert error_of(await events(scheduler.submit(request()))) is None


@pytest.mark.parametrize("fault", [Fault.RAISE, Fault.FATAL])
async def test_a_job_that_cannot_be_started_fails_alone(fault: Fault) -> None:
    script = Script(start_faults={1: fault}, decode_s=0.002)
    with scheduled(script) as scheduler:
        told = await asyncio.gather(*(events(scheduler.submit(request(max_tokens=20))) for _ in range(3)))
        failed = [error for error in map(error_of, told) if error]
        assert failed and (len(failed) == 1 or fault is Fault.FATAL)
        assert error_of(await events(scheduler.submit(request()))) is None


class Stumbling(ByteDetokenizer):
    def push(self, token: int) -> str:
        raise KeyError(token)


class StumblingTokenizer(ByteTokenizer):
    def detokenizer(self, shown: frozenset[int] = frozenset()) -> ByteDetokenizer:
        return Stumbling()


class NoDetokenizer(ByteTokenizer):
    def detokenizer(self, shown: frozenset[int] = frozenset()) -> ByteDetokenizer:
        raise RuntimeError("secret prompt text")


@pytest.mark.parametrize("tokenizer", [StumblingTokenizer(), NoDetokenizer()])
async def test_a_tokenizer_that_fails_fails_its_request(
    tokenizer: ByteTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    with scheduled(Script(decode_s=0.002)) as scheduler:
        good = scheduler.submit(request(max_tokens=20))
        bad = await events(scheduler.submit(request(tokenizer=tokenizer)))
        assert isinstance(error_of(bad), GenerationFailed)
        assert error_of(await events(good)) is None
        await until(lambda: scheduler.snapshot().running == 0)
    assert "secret" not in caplog.text


async def test_a_runner_that_keeps_rows_it_was_told_to_free_is_rebuilt() -> None:
    script = Script(step_faults={2: Fault.RAISE})
    loader = ScriptedLoader(script)
    with scheduled(loader=loader) as scheduler:
        await asyncio.wrap_future(scheduler.load(ModelRef("scripted", Path("scripted"))))
        loader.runners[0].cancel = lambda job_id: None  # type: ignore[method-assign]
        assert isinstance(error_of(await events(scheduler.submit(request(max_tokens=9)))), GenerationFailed)
        assert error_of(await events(scheduler.submit(request(max_tokens=9)))) is None
        assert scheduler.snapshot().counters.engine_rebuilds == 1 and script.open_runners == 1


# --- death ------------------------------------------------------------------------------------------------------


async def test_a_worker_that_dies_silently_is_seen_and_everybody_is_told() -> None:
    causes: list[BaseException | None] = []
    script = Script(step_faults={4: Fault.EXIT}, decode_s=0.001)
    with scheduled(script, max_batch=2, scheduler={"on_death": causes.append}) as scheduler:
        generations = [scheduler.submit(request(max_tokens=50)) for _ in range(5)]
        order = scheduler.load(ModelRef("other", Path("other")))
        dead_s = await until(lambda: not scheduler.alive)
        assert dead_s < 30 and scheduler.readiness() == (False, "dead")
        for generation in generations:
            assert isinstance(error_of(await events(generation)), EngineFatal)
        await until(lambda: causes)
        assert len(causes) == 1 and isinstance(causes[0], SystemExit)
        with pytest.raises(EngineFatal):
            scheduler.submit(request())
        with pytest.raises(EngineFatal):
            await asyncio.wrap_future(scheduler.load(ModelRef("late", Path("late"))))
        assert order.done()
        assert not scheduler.snapshot().alive


async def test_a_loader_that_cannot_be_made_is_a_death() -> None:
    causes: list[BaseException | None] = []

    def broken() -> ScriptedLoader:
        raise ImportError("no engine")

    scheduler = Scheduler(broken, on_death=causes.append)
    scheduler.start()
    await until(lambda: causes)
    assert isinstance(causes[0], ImportError) and not scheduler.alive
    with pytest.raises(EngineFatal):
        scheduler.submit(request())
    assert scheduler.stop()


# --- hangs ------------------------------------------------------------------------------------------------------


async def test_a_hang_is_seen_while_the_worker_is_blocked(tmp_path: Path) -> None:
    hung = threading.Event()
    script = Script(step_faults={3: Fault.HANG})
    with (tmp_path / "dump").open("w+") as dump:
        needs = {"on_hang": hung.set, "dump_fd": dump.fileno()}
        with scheduled(script, max_batch=2, watchdog_s=0.3, scheduler=needs) as scheduler:
            generations = [scheduler.submit(request(max_tokens=50)) for _ in range(4)]
            told = await asyncio.gather(*(events(generation) for generation in generations))
            assert all(isinstance(error_of(one), GenerationStalled) for one in told)
            await until(hung.is_set)
            assert not scheduler.alive
            stacks = (tmp_path / "dump").read_text()
            assert "suffer" in stacks and "Thread" in stacks  # the call it hangs in
        assert script.steps == 4  # released later, it does no more work


async def test_an_engine_that_only_pretends_to_work_is_a_hang_too() -> None:
    hung = threading.Event()
    script = Script(step_faults=dict.fromkeys(range(100_000), Fault.SILENT))
    with (
        open(os.devnull, "w") as null,  # noqa: PTH123
        scheduled(script, watchdog_s=0.3, scheduler={"on_hang": hung.set, "dump_fd": null.fileno()}) as scheduler,
    ):
        assert isinstance(error_of(await events(scheduler.submit(request()))), GenerationStalled)


async def test_an_engine_that_computes_in_silence_is_not_hung() -> None:
    """After a fault an engine may compute rows again without a word; their progress is not shown twice either."""

    class Recomputing(ScriptedRunner):
        silent = 0

        def step(self) -> Sequence[StepOutput]:
            if self._script.steps == 5 and self.silent < 30:
                self.silent += 1
                time.sleep(0.05)
                return [Prefilled(job_id, 1, 5, 1) for job_id in self._rows] if self.silent == 30 else ()
            return super().step()

    class Loader(ScriptedLoader):
        def load(self, model: ModelRef) -> ScriptedRunner:
            super().load(model).close()
            return Recomputing(self._script)

    with scheduled(loader=Loader(), watchdog_s=1.0) as scheduler:
        told = await events(scheduler.submit(request(max_tokens=20)))
        assert error_of(told) is None and scheduler.alive
        kinds = [type(event) for event in told]
        assert PrefillProgress not in kinds[kinds.index(Delta) :]


async def test_slow_is_not_hung() -> None:
    """Chunks and loads that take their time raise no alarm: an idle minute, ten times the slowest step, the floor."""
    hung = threading.Event()
    script = Script(prefill_s=0.15, decode_s=0.05, chunk_tokens=1, load_s=0.8)
    needs = {"on_hang": hung.set}
    with scheduled(script, watchdog_s=1.0, load_floor_s=30.0, scheduler=needs) as scheduler:
        assert error_of(await events(scheduler.submit(request(max_tokens=10)))) is None
        await asyncio.sleep(1.5)  # idle for longer than the watchdog's time
        assert error_of(await events(scheduler.submit(request(max_tokens=2)))) is None
    assert not hung.is_set()


SLEEPER = """
    import asyncio, sys, time
    from inference.engine.scripted import Script
    from inference.events import Finished
    from tests.scripted import events, request, scheduled

    async def main():
        needs = {"on_hang": lambda: print("HUNG", flush=True)}
        with scheduled(Script(decode_s=0.02), watchdog_s=2.5, tick_s=0.1, scheduler=needs) as scheduler:
            generation = scheduler.submit(request(max_tokens=100))
            print("RUNNING", flush=True)
            print(type((await events(generation))[-1]).__name__, flush=True)

    asyncio.run(main())
"""


def child(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_was_stopped_raises_no_alarm() -> None:
    with child(SLEEPER) as sleeper:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "RUNNING\n"
        time.sleep(0.5)
        sleeper.send_signal(signal.SIGSTOP)
        time.sleep(4)
        sleeper.send_signal(signal.SIGCONT)
        out, err = sleeper.communicate(timeout=150)
    assert (out, sleeper.returncode) == ("Finished\n", 0), err


def test_a_native_abort_ends_the_process() -> None:
    code = SLEEPER.replace("Script(decode_s=0.02)", "Script(step_faults={5: Fault.ABORT})")
    with child(code.replace("import Script", "import Fault, Script")) as victim:
        victim.communicate(timeout=150)
    assert victim.returncode == -signal.SIGABRT
