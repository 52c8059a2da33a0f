"""The last event of an answer waits for its blocks, and for nothing that does not come."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future

import pytest

from inference.events import Delta, Finished, FinishReason, Usage
from inference.scheduler.request import Generation
from inference.tokens import Prompt
from mlxd.ledger.ledger import Ledger
from mlxd.ledger.recorded import Known, Recorded
from mlxd.ledger.whose import Whose
from tests.integration.api_scripted import ScriptedGeneration

SOON_S = 20.0


class Answer(ScriptedGeneration):
    id = "req_1"
    prompt = Prompt((1, 2, 3))


def answer(*choices: int) -> Answer:
    ends = [Finished(FinishReason.STOP, Usage(3, completion_tokens=1), choice=choice) for choice in choices]
    return Answer([Delta("Hi"), 0.0, *ends])


@pytest.mark.parametrize("fails", [False, True])
async def test_only_the_end_of_an_answer_waits_until_it_is_kept(fails: bool) -> None:
    may_end, asked = asyncio.Event(), list[float]()

    async def keep(timeout_s: float) -> None:
        asked.append(timeout_s)
        await may_end.wait()
        if fails:
            raise RuntimeError("planted")

    recorded = Recorded(answer(0), Known(Whose()), Ledger(), keep=keep)
    assert len(await recorded.next_batch()) == 1 and not asked
    last = asyncio.ensure_future(recorded.next_batch())
    while not asked:
        await asyncio.sleep(0)
    assert not last.done() and 0 < asked[0] < 2
    may_end.set()
    assert isinstance((await last)[-1], Finished)


@pytest.mark.parametrize("future", [None, "done", "comes", "never"])
async def test_a_generation_waits_for_its_jobs_and_no_longer_than_it_is_told(future: str | None) -> None:
    class Ticket:
        job_ids, mailbox = ("req_1#7", "req_1#7.1"), None

    made: Future[None] = Future()
    if future == "done":
        made.set_result(None)
    asked: list[object] = []
    generation = Generation(Ticket(), lambda jobs: asked.append(jobs) or (None if future is None else made))  # type: ignore[arg-type]
    if future == "comes":
        asyncio.get_running_loop().call_later(0.01, made.set_result, None)
    began_s = time.monotonic()
    await generation.kept(0.05 if future == "never" else SOON_S)
    assert asked == [("req_1#7", "req_1#7.1")] and time.monotonic() - began_s < SOON_S / 2
    await asyncio.sleep(0)
    assert made.cancelled() == (future == "never"), "whoever would have told it is not to think that he is waited for"
