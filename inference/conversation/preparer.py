"""Renders off the event loop: small bodies in a thread, large ones in a process that can be killed.

Tokenising holds the interpreter for hundreds of milliseconds on a 500 KB body, which would stall streams and decode
alike (a busy Python thread cut decode from 79 to 34 steps/s on a tiny model). A template that does not end is ended
with its process; the request gets an error and the next one a new process.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from inference.child import Child, ChildEnded
from inference.conversation.preparer_process import Answer, Job, Order, Packed, Unknown, prepare_now
from inference.conversation.render import Rendered
from inference.conversation.text_model import TextModel
from inference.errors import Draining, EngineError, InferenceError, TemplateFailed
from inference.tokens import Prompt

LARGE_BODY_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class PreparerStats:
    """Counts since the start. `overdue` processes were killed at the deadline, `died` ended by themselves."""

    in_threads: int = 0
    in_process: int = 0
    refused: int = 0
    overdue: int = 0
    died: int = 0
    started: int = 0


class Preparer:
    """Turns conversations into prompts without blocking the loop. Any number of requests at a time."""

    def __init__(self, *, deadline_s: float = 30.0, threads: int = 2) -> None:
        """`deadline_s` bounds the work on one large body, the start of the process included."""
        self._threads = ThreadPoolExecutor(threads, "prepare")
        # One thread speaks with the process: the socket carries one order at a time, the others wait as futures.
        self._speaker = ThreadPoolExecutor(1, "prepare-large")
        self._large = _PreparingProcess(deadline_s, self._count)
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
            return await self._hand_over(model_path, text, job, body_bytes > LARGE_BODY_BYTES)
        except InferenceError:
            self._count("refused")
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed.is_set() and not (task and task.cancelling()):  # not this request, its executor was ended
                raise _draining() from None
            raise

    def _hand_over(self, path: Path, text: TextModel, job: Job, large: bool) -> asyncio.Future[Rendered]:
        loop = asyncio.get_running_loop()
        self._count("in_process" if large else "in_threads")
        if large:
            return loop.run_in_executor(self._speaker, self._large.prepare, path, text, job)
        return loop.run_in_executor(self._threads, prepare_now, text, job)

    def close(self) -> None:
        """Ends the process at once and takes no more work. Requests still waiting get `Draining`."""
        self._closed.set()
        self._large.child.kill_for_good()
        self._speaker.shutdown(wait=True, cancel_futures=True)
        self._large.child.end()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _count(self, name: str) -> None:
        with self._lock:
            self._stats = replace(self._stats, **{name: getattr(self._stats, name) + 1})


class _PreparingProcess:
    """The process as seen from the one thread that speaks with it."""

    def __init__(self, deadline_s: float, count: Callable[[str], None]) -> None:
        self._deadline_s = deadline_s
        self._count = count
        self.child = Child("inference.conversation.preparer_process", lambda: count("started"))

    def prepare(self, path: Path, text: TextModel, job: Job) -> Rendered:
        """Blocks until the process answered, died or was killed at the deadline."""
        try:
            answer = self._exchange(Order(f"{path}\0{text.digest}", None, job), text)
        except ChildEnded as ended:
            self._count("overdue" if ended.overdue else "died")
            if ended.overdue:
                raise TemplateFailed(f"Preparing the prompt took longer than {self._deadline_s:g} s.") from ended
            raise EngineError("The process that prepares prompts ended; send the request again.") from ended
        if isinstance(answer, InferenceError):
            raise answer
        if not isinstance(answer, Packed):
            raise EngineError("The process that prepares prompts does not keep the model.")
        return answer.unpacked()

    def _exchange(self, order: Order, text: TextModel) -> Answer:
        """The process is asked by the model's key first: it usually holds the model already."""
        until_s = time.monotonic() + self._deadline_s
        answer: Answer = self.child.ask(order, self._deadline_s)
        if isinstance(answer, Unknown):
            answer = self.child.ask(replace(order, model=text), until_s - time.monotonic())
        return answer


def _draining() -> Draining:
    return Draining("The server is shutting down.")
