"""Prompts off the event loop: small ones in a thread, large and doubtful ones in processes that can be killed.

Tokenising holds the interpreter for hundreds of milliseconds on a 500 KB body, which would stall streams and decode
alike (a busy Python thread cut decode from 79 to 34 steps/s on a tiny model). What may run in a thread are templates
and tokenizers whose every step is known to be small (`vetting`), and these only as far as a small request can need. All
others meet a request in a process that is killed after two seconds; the request gets an error and the next one a new
process. Large bodies have a process of their own, so that they do not wait for such.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from inference.conversation.allowance import SPARING, TooCostly, allowing
from inference.conversation.preparer_lane import Lane
from inference.conversation.preparer_process import Job, prepare_now
from inference.conversation.render import Rendered
from inference.conversation.text_model import TextModel
from inference.errors import Draining, InferenceError
from inference.tokens import Prompt

LARGE_BODY_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class PreparerStats:
    """Counts since the start. `in_process`: large bodies, `confined`: where nobody can tell what they cost. `overdue`
    processes were killed at the deadline, `died` ended by themselves."""

    in_threads: int = 0
    in_process: int = 0
    confined: int = 0
    refused: int = 0
    overdue: int = 0
    died: int = 0
    started: int = 0


class Preparer:
    """Turns conversations into prompts without blocking the loop. Any number of requests at a time."""

    def __init__(self, *, deadline_s: float = 30.0, threads: int = 2) -> None:
        """`deadline_s` bounds the work on one large body, the start of the process included."""
        self._threads = ThreadPoolExecutor(threads, "prepare")
        self._large = Lane("prepare-large", deadline_s, self._count)
        self._confined = Lane("prepare-confined", deadline_s, self._count, confined=True)
        self._stats = PreparerStats()
        self._closed = threading.Event()
        self._lock = threading.Lock()

    @property
    def stats(self) -> PreparerStats:
        return self._stats

    @property
    def process_pid(self) -> int | None:
        """The id of the process for large bodies, None while there is none."""
        return self._large.child.pid

    @property
    def confined_pid(self) -> int | None:
        """The id of the process for what may have to be killed."""
        return self._confined.child.pid

    async def prepare(self, model_path: Path, text: TextModel, job: Job, body_bytes: int) -> Prompt:
        """The prompt of a conversation, or of a raw completion. `body_bytes` is the size of the request's body.

        Raises `TemplateFailed`, `PromptTooLong`, `InvalidParameter`, `EngineError` when the process died, and
        `Draining` once closed.
        """
        return (await self.prepare_with_notes(model_path, text, job, body_bytes)).prompt

    async def prepare_with_notes(self, model_path: Path, text: TextModel, job: Job, body_bytes: int) -> Rendered:
        """As `prepare`, with a record of what was adapted for the template."""
        if self._closed.is_set():
            raise _draining()
        try:
            return await self._hand_over(model_path, text, job, body_bytes)
        except InferenceError:
            self._count("refused")
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed.is_set() and not (task and task.cancelling()):  # not this request, its executor was ended
                raise _draining() from None
            raise

    async def _hand_over(self, path: Path, text: TextModel, job: Job, body_bytes: int) -> Rendered:
        if not text.confined:
            if body_bytes > LARGE_BODY_BYTES:
                self._count("in_process")
                return await self._large.hand_over(path, text, job, body_bytes)
            self._count("in_threads")
            with suppress(TooCostly):
                return await asyncio.get_running_loop().run_in_executor(self._threads, _in_thread, text, job)
        self._count("confined")
        return await self._confined.hand_over(path, text, job, body_bytes)

    def close(self) -> None:
        """Ends the processes at once and takes no more work. Requests still waiting get `Draining`."""
        self._closed.set()
        for lane in (self._large, self._confined):
            lane.kill_for_good()
        for lane in (self._large, self._confined):
            lane.end()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _count(self, name: str) -> None:
        with self._lock:
            self._stats = replace(self._stats, **{name: getattr(self._stats, name) + 1})


def _in_thread(text: TextModel, job: Job) -> Rendered:
    with allowing(SPARING):
        return prepare_now(text, job)


def _draining() -> Draining:
    return Draining("The server is shutting down.")
