"""The process that tries grammars out: killed when overdue, started anew, and never in anybody's way."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from inference.engine.grammar import LlgCompiler
from inference.engine.grammar_limits import COMPILE_S
from inference.engine.grammar_trial import TrialProcess
from inference.engine.tokenizer import JsonTokenizer
from inference.errors import Draining, InvalidParameter
from inference.params import Grammar
from inference.ports import ModelRef
from tests.grammars import json_lark, tiny_tokenizer

MODEL = ModelRef("tiny", Path("tiny"))
GOOD = json_lark({"const": "fine"})


def endless(number: int) -> str:
    """Never compiled; another one for each number."""
    return json_lark({"allOf": [{"type": "string", "pattern": f".*{number}.{{{at}}}"} for at in range(10, 30)]})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def trial(tokenizer: JsonTokenizer) -> Iterator[TrialProcess]:
    made = TrialProcess()
    yield made
    made.close()


def judged(trial: TrialProcess, tokenizer: JsonTokenizer, lark: str) -> str:
    return trial.judge("tiny", lambda: tokenizer, lark).fault


def gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


def once_it_computes(pid: int, act: Callable[[], None]) -> None:
    """Does something in a thread when a process has computed for a moment from now on."""
    process = psutil.Process(pid)
    begun_s = process.cpu_times().user

    def wait() -> None:
        while process.cpu_times().user < begun_s + 0.1:
            time.sleep(0.01)
        act()

    threading.Thread(target=wait, daemon=True).start()


def test_an_overdue_grammar_costs_its_process_and_no_more(trial: TrialProcess, tokenizer: JsonTokenizer) -> None:
    assert not judged(trial, tokenizer, GOOD)
    first = trial.pid
    began_s = time.monotonic()
    assert "longer than 2 s" in judged(trial, tokenizer, endless(1))
    assert COMPILE_S <= time.monotonic() - began_s < 60
    assert first is not None and gone(first)
    assert not judged(trial, tokenizer, GOOD)
    assert (trial.stats.started, trial.stats.overdue, trial.stats.died) == (2, 1, 0)


def test_a_process_that_dies_is_a_refusal_and_not_a_way_out(trial: TrialProcess, tokenizer: JsonTokenizer) -> None:
    assert not judged(trial, tokenizer, GOOD)
    pid = trial.pid
    assert pid is not None
    once_it_computes(pid, lambda: os.kill(pid, signal.SIGSEGV))
    assert judged(trial, tokenizer, endless(2)) == "it takes too much memory"
    assert trial.stats.died == 1
    assert not judged(trial, tokenizer, GOOD)


def test_the_process_holds_several_models_and_asks_for_those_it_does_not_know(
    trial: TrialProcess, tokenizer: JsonTokenizer
) -> None:
    asked: list[str] = []

    def give(key: str) -> JsonTokenizer:
        asked.append(key)
        return tokenizer

    for key in ("a", "b", "a", "c", "d", "a", "e", "a"):  # four are kept, the oldest goes
        assert not trial.judge(key, lambda key=key: give(key), GOOD).fault  # type: ignore[misc]
    assert asked == ["a", "b", "c", "d", "e", "a"]


def test_closing_ends_the_process_while_it_works(tokenizer: JsonTokenizer) -> None:
    trial = TrialProcess()
    assert not judged(trial, tokenizer, GOOD)
    pid = trial.pid
    assert pid is not None
    once_it_computes(pid, trial.close)
    with pytest.raises(Draining):
        judged(trial, tokenizer, endless(3))
    assert gone(pid)
    with pytest.raises(Draining):
        judged(trial, tokenizer, GOOD)


async def test_the_event_loop_goes_on_while_bombs_are_refused(tokenizer: JsonTokenizer) -> None:
    """Compiled in two threads, as the runtime does. The loop is asked every 5 ms whether it is there."""
    compiler, threads = LlgCompiler(lambda _model: tokenizer), ThreadPoolExecutor(2)
    loop = asyncio.get_running_loop()
    late_s: list[float] = []

    async def watch() -> None:
        while True:
            asked_s = loop.time()
            await asyncio.sleep(0.005)
            late_s.append(loop.time() - asked_s - 0.005)

    def refused(lark: str) -> bool:
        with suppress(InvalidParameter):
            compiler.compile(MODEL, Grammar(lark, "response_format"))
            return False
        return True

    compiler.compile(MODEL, Grammar(GOOD, "x"))
    watching = asyncio.create_task(watch())
    schemas: list[dict[str, Any]] = [
        {"type": "integer", "multipleOf": 999_983},
        {"type": "string", "pattern": "(" * 60_000},
        {"enum": [f"value{number}" for number in range(100_000)]},
        {"const": "x " * 100_000},
    ]
    bombs = [endless(4), *map(json_lark, schemas)]
    assert all(await asyncio.gather(*[loop.run_in_executor(threads, refused, lark) for lark in bombs]))
    watching.cancel()
    compiler.close()
    threads.shutdown()
    p99_s = statistics.quantiles(late_s, n=100)[98]
    print(f"{len(late_s)} ticks, 99 % late by less than {p99_s * 1e3:.1f} ms, all than {max(late_s) * 1e3:.0f} ms")
    assert p99_s < 1.0
