"""Grammars on their way through the runtime: refused before anything is queued, and never too many at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.conversation.preparer import Preparer
from inference.conversation.text_model import TextModel
from inference.engine.scripted import ScriptedLoader
from inference.errors import InvalidParameter, QueueFull, UnsupportedParameter
from inference.params import GenerationParams, Grammar
from inference.ports import CompiledGrammar, ModelRef
from inference.scheduler import Scheduler
from mlxd.runtime import MAX_COMPILING, Runtime, ServedModel
from tests.scripted import ByteTokenizer

MODEL = ServedModel("a", Path("a"), 1)


class SlowCompiler:
    """Compiles nothing; each grammar waits for `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.closed = False
        self.came = threading.Event()

    def compile(self, model: ModelRef, grammar: Grammar) -> CompiledGrammar:
        self.came.set()
        assert self.go.wait(100)
        raise InvalidParameter(f"{grammar.param} cannot be enforced: it is only a test.", param=grammar.param)

    def close(self) -> None:
        self.closed = True
        self.go.set()


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(ScriptedLoader)
    scheduler.start()
    yield scheduler
    scheduler.stop()


def served(scheduler: Scheduler, compiler: SlowCompiler | None) -> Runtime:
    def load(_: Path) -> TextModel:
        return TextModel(ByteTokenizer(), None, context_tokens=1000)

    make: Any = None if compiler is None else lambda _tokenizer_of: compiler
    return Runtime((MODEL,), scheduler, Preparer(), load, make_grammars=make)


async def ask(runtime: Runtime) -> Any:
    params = GenerationParams(max_tokens=3, grammar=Grammar('start: "a"', "guided_choice"))
    return await runtime.open(model="a", raw_prompt="hello", params=params, client="", request_id="r")


async def test_a_refused_grammar_is_never_queued(scheduler: Scheduler) -> None:
    compiler = SlowCompiler()
    compiler.go.set()
    runtime = served(scheduler, compiler)
    with pytest.raises(InvalidParameter) as refused:
        await ask(runtime)
    assert refused.value.param == "guided_choice"
    assert runtime.snapshot().scheduler.counters.submitted == 0


async def test_too_many_grammars_are_told_to_come_back(scheduler: Scheduler) -> None:
    compiler = SlowCompiler()
    runtime = served(scheduler, compiler)
    asked = [asyncio.create_task(ask(runtime)) for _ in range(MAX_COMPILING + 3)]
    async with asyncio.timeout(60):
        while sum(task.done() for task in asked) < 3:
            await asyncio.sleep(0.01)
    asked[0].cancel()  # a client that goes away does not make room: its grammar is being compiled
    with pytest.raises(QueueFull):
        await ask(runtime)
    compiler.go.set()
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(end, QueueFull) for end in ends) == 3
    assert sum(isinstance(end, InvalidParameter) for end in ends) == MAX_COMPILING - 1
    with pytest.raises(InvalidParameter):
        await ask(runtime)


async def test_without_a_compiler_no_format_is_offered(scheduler: Scheduler) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        await ask(served(scheduler, None))
    assert refused.value.param == "guided_choice"


async def test_closing_ends_the_compiler(scheduler: Scheduler) -> None:
    compiler = SlowCompiler()
    runtime = served(scheduler, compiler)
    asked = asyncio.create_task(ask(runtime))
    assert await asyncio.to_thread(compiler.came.wait, 60)
    await asyncio.to_thread(runtime.close)
    with pytest.raises(InvalidParameter):
        await asked
    assert compiler.closed
