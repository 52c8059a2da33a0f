"""The preparer: large bodies in a real process that is really killed, small ones in threads, the loop never blocked."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from inference.conversation.preparer import LARGE_BODY_BYTES, Preparer
from inference.conversation.preparer_process import Echoed
from inference.conversation.probe import probe
from inference.conversation.render import render, render_raw
from inference.conversation.template import JinjaTemplate
from inference.conversation.text_model import TextModel
from inference.conversation.vetting import is_plain
from inference.errors import Draining, EngineError, InvalidParameter, TemplateFailed
from tests.conversations import AGENT_LOOP, talk, user
from tests.tokenizers_in_code import template_source, tokenizer

LARGE = LARGE_BODY_BYTES + 1
PATH = Path("model")


def model_of(source: str) -> TextModel:
    own = tokenizer()
    template = JinjaTemplate(source, specials={"bos_token": "<s>"}, limit_s=600)
    return TextModel(own, template, 1 << 20, traits=probe(template, own.structural_texts), digest=str(hash(source)))


@pytest.fixture
def model() -> TextModel:
    return model_of(template_source("chatml"))


@pytest.fixture
async def preparer() -> AsyncIterator[Preparer]:
    made = Preparer()
    yield made
    made.close()


async def test_a_large_body_gives_the_same_prompt_as_a_small_one(preparer: Preparer, model: TextModel) -> None:
    large = await preparer.prepare(PATH, model, AGENT_LOOP, LARGE)
    small = await preparer.prepare(PATH, model, AGENT_LOOP, 100)
    assert large == small == render(model, AGENT_LOOP)
    assert (preparer.stats.in_process, preparer.stats.in_threads, preparer.stats.started) == (1, 1, 1)


async def test_notes_and_raw_prompts_cross_the_process_border(preparer: Preparer, model: TextModel) -> None:
    noted = await preparer.prepare_with_notes(PATH, model, talk(user("a\r\nb")), LARGE)
    assert noted.adaptations == {"crlf": 1}
    assert await preparer.prepare(PATH, model, Echoed(AGENT_LOOP), LARGE) == render(model, AGENT_LOOP)
    assert await preparer.prepare(PATH, model, "the dog", LARGE) == render_raw(model, "the dog")
    assert (await preparer.prepare(PATH, model, (1, 2, 3), LARGE)).ids == (1, 2, 3)


async def test_refusals_cross_the_process_border(preparer: Preparer, model: TextModel) -> None:
    without = dataclasses.replace(model, template=None, digest="without")
    for body_bytes in (100, LARGE):
        with pytest.raises(TemplateFailed, match="no chat template") as refused:
            await preparer.prepare(PATH, without, AGENT_LOOP, body_bytes)
        assert refused.value.param == "model"
        with pytest.raises(InvalidParameter):
            await preparer.prepare(PATH, model, (-1,), body_bytes)
    assert preparer.stats.refused == 4


async def test_several_models_share_the_process(preparer: Preparer) -> None:
    models = [model_of(template_source("chatml") + f"{{# {number} #}}") for number in range(6)]
    for one in models * 2:
        assert await preparer.prepare(PATH, one, AGENT_LOOP, LARGE) == render(one, AGENT_LOOP)
    assert preparer.stats.started == 1


async def test_many_at_a_time_and_the_loop_goes_on(preparer: Preparer, model: TextModel) -> None:
    big = talk(*[user(f"{number} " + "the quick brown fox " * 1000) for number in range(20)])
    await preparer.prepare(PATH, model, AGENT_LOOP, LARGE)
    gaps = asyncio.create_task(_longest_gap())
    jobs = [preparer.prepare(PATH, model, big, LARGE) for _ in range(4)]
    prompts = await asyncio.gather(*jobs, *[preparer.prepare(PATH, model, AGENT_LOOP, 100) for _ in range(8)])
    gaps.cancel()
    assert len({len(prompt) for prompt in prompts}) == 2
    with contextlib.suppress(asyncio.CancelledError):
        await gaps


async def _longest_gap() -> None:
    """Fails the test when the loop's own thread computes for half a second: what it prepares takes longer."""
    while True:
        before = time.thread_time()
        await asyncio.sleep(0.01)
        assert time.thread_time() - before < 0.5


ENDLESS = (
    "{% for m in messages %}{{ m.content }}{% endfor %}{% if spin is defined %}"
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
)


async def test_a_template_without_end_is_killed_and_the_next_request_works(model: TextModel) -> None:
    preparer = Preparer(deadline_s=8)
    try:
        start = time.perf_counter()
        with pytest.raises(TemplateFailed, match="took longer than 8 s"):
            await preparer.prepare(PATH, model_of(ENDLESS), talk(user("a"), template_args={"spin": 1}), LARGE)
        assert time.perf_counter() - start < 60
        assert (preparer.stats.overdue, preparer.process_pid) == (1, None)
        assert await preparer.prepare(PATH, model, AGENT_LOOP, LARGE) == render(model, AGENT_LOOP)
        assert preparer.stats.started == 2
    finally:
        preparer.close()


async def _running(preparer: Preparer) -> int:
    for _ in range(600):
        if preparer.process_pid is not None:
            return preparer.process_pid
        await asyncio.sleep(0.05)
    raise AssertionError("the process did not start")


def _processor_s(pid: int) -> float:
    return psutil.Process(pid).cpu_times().user


async def test_killed_in_the_middle_that_request_fails_and_the_next_works(preparer: Preparer, model: TextModel) -> None:
    spinning = talk(user("a"), template_args={"spin": 1})
    await preparer.prepare(PATH, model, AGENT_LOOP, LARGE)
    pid = await _running(preparer)
    began_s = _processor_s(pid)
    victim = asyncio.create_task(preparer.prepare(PATH, model_of(ENDLESS), spinning, LARGE))
    waiting = asyncio.create_task(preparer.prepare(PATH, model, AGENT_LOOP, LARGE))
    while _processor_s(pid) < began_s + 0.3:
        await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineError):
        await victim
    assert await waiting == render(model, AGENT_LOOP)
    assert (preparer.stats.died, preparer.stats.started) == (1, 2)
    assert preparer.process_pid != pid


async def test_killed_between_requests_nobody_notices(preparer: Preparer, model: TextModel) -> None:
    await preparer.prepare(PATH, model, AGENT_LOOP, LARGE)
    pid = await _running(preparer)
    os.kill(pid, signal.SIGKILL)
    for _ in range(1200):
        if preparer.process_pid is None:
            break
        await asyncio.sleep(0.05)
    assert await preparer.prepare(PATH, model, AGENT_LOOP, LARGE)
    assert preparer.stats.died == 0


async def test_closing_ends_the_process_and_waiting_requests(model: TextModel) -> None:
    preparer = Preparer()
    spinning = talk(user("a"), template_args={"spin": 1})
    running = asyncio.create_task(preparer.prepare(PATH, model_of(ENDLESS), spinning, LARGE))
    waiting = asyncio.create_task(preparer.prepare(PATH, model, AGENT_LOOP, LARGE))
    pid = await _running(preparer)
    await asyncio.to_thread(preparer.close)
    for request in (running, waiting, preparer.prepare(PATH, model, AGENT_LOOP, 100)):
        with pytest.raises(Draining):
            await request
    assert preparer.process_pid is None
    assert not _alive(pid)


LONG = "{% set n = namespace(x='a' * 4000) %}{% for i in range(TIMES) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
HOLDS = {
    "loops in loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "longer than"),
    "memory": (
        LONG.replace("TIMES", "13") + "".join(f"{{% set x{number} = n.x[1:] %}}" for number in range(12)),
        r"failed \(MemoryError\)",
    ),
    "long steps": (
        LONG.replace("TIMES", "10")
        + "{% for i in range(30) %}{{ n.x.split('a') | map('upper') | sort | length }}{% endfor %}",
        "longer than 2 s",
    ),
    "output": ("{% for i in range(99999) %}{{ 'x' * 4000 }}{% endfor %}", "wrote more than"),
}
"""What it does, and what the client is told."""


@pytest.mark.parametrize("kind", HOLDS)
async def test_what_a_confined_template_holds_on_to_ends_with_it(preparer: Preparer, kind: str) -> None:
    """Small bodies: the request is answered in time, others are answered meanwhile, and the next of the same model."""
    head = "{% for m in messages %}{{ m.content }}{% endfor %}{% if spin is defined %}"
    source, told = HOLDS[kind]
    if kind == "memory" and sys.platform != "linux":
        pytest.skip("only Linux holds a process to a size")
    bad = dataclasses.replace(model_of(f"{head}{source}{{% endif %}}"), confined=True)
    good = model_of(template_source("chatml"))
    spinning, ordinary = talk(user("a"), template_args={"spin": 1}), talk(user("a"))
    await preparer.prepare(PATH, bad, ordinary, 100)  # the process has started and holds the model
    assert (preparer.stats.in_threads, preparer.stats.confined) == (0, 1)
    start = time.perf_counter()
    held = asyncio.create_task(preparer.prepare(PATH, bad, spinning, 100))
    while not held.done():
        assert await asyncio.wait_for(preparer.prepare(PATH, good, AGENT_LOOP, 100), 60)
    with pytest.raises(TemplateFailed, match=told):
        await held
    assert time.perf_counter() - start < 60
    assert await preparer.prepare(PATH, bad, ordinary, 100) == render(bad, ordinary)


async def test_a_small_request_that_wants_much_is_prepared_where_it_can_be_killed(preparer: Preparer) -> None:
    """Plain steps may add up; nothing is refused for that alone."""
    source = (
        "{% set n = namespace(x='abcd') %}{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% for i in range(messages | length + 18) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x[:9] }}"
    )
    doubling = dataclasses.replace(model_of("{% for m in messages %}{{ m.content }}{% endfor %}"), digest="doubling")
    doubling = dataclasses.replace(doubling, template=JinjaTemplate(source))
    assert is_plain(source)
    assert (await preparer.prepare(PATH, doubling, talk(user("a")), 100)).ids
    assert (preparer.stats.in_threads, preparer.stats.confined) == (1, 1)


async def test_a_confined_process_killed_in_the_middle_fails_one_request(preparer: Preparer) -> None:
    bad = dataclasses.replace(model_of(ENDLESS), confined=True)
    ordinary = talk(user("a"))
    await preparer.prepare(PATH, bad, ordinary, 100)
    victim = asyncio.create_task(preparer.prepare(PATH, bad, talk(user("a"), template_args={"spin": 1}), 100))
    assert preparer.confined_pid is not None
    process = psutil.Process(preparer.confined_pid)
    begun_s = process.cpu_times().user
    while process.cpu_times().user < begun_s + 0.1:  # it renders: 1.5 s before it ends by itself
        await asyncio.sleep(0.01)
    process.kill()
    with pytest.raises(EngineError):
        await victim
    assert await preparer.prepare(PATH, bad, ordinary, 100) == render(bad, ordinary)
    assert (preparer.stats.died, preparer.stats.started, preparer.stats.overdue) == (1, 2, 0)


async def test_a_cancelled_request_is_cancelled(preparer: Preparer, model: TextModel) -> None:
    first = asyncio.create_task(preparer.prepare(PATH, model, AGENT_LOOP, LARGE))
    second = asyncio.create_task(preparer.prepare(PATH, model, AGENT_LOOP, LARGE))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert await first == await preparer.prepare(PATH, model, AGENT_LOOP, LARGE)


ORPHAN = """
import asyncio, sys
from pathlib import Path
from inference.conversation.preparer import Preparer
from inference.conversation.text_model import TextModel

async def main():
    preparer = Preparer()
    await preparer.prepare(Path("m"), TextModel(None, None, 9), (), 1 << 20)
    print(preparer.process_pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_process_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _alive(pid)
        parent.kill()
    for _ in range(1200):
        if not _alive(pid):
            break
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    """Running, and not only waiting to be collected."""
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(status) and not status.startswith("Z")


def test_the_process_imports_neither_mlx_nor_a_framework() -> None:
    code = "import sys, inference.conversation.preparer_process, inference.engine.tokenizer; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"mlx", "mlx.core", "transformers", "django", "pydantic", "numpy"} & set(loaded.split())
