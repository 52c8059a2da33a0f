"""One process that prepares prompts and the one thread that speaks with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from inference.child import Child, ChildEnded
from inference.conversation.preparer_process import Answer, Job, Order, Packed, Room, Unknown
from inference.conversation.render import Rendered
from inference.conversation.text_model import TextModel
from inference.errors import EngineError, InferenceError, TemplateFailed

CONFINED_S = 2.0
"""For a small request, beside the time to read the model. Ordinary ones take a hundredth."""
_CONFINED_BYTES = 256 << 20
_BYTES_PER_S = 512 << 10
"""Slower than any real template on the slowest machine."""
_ROOM_PER_BYTE = 16


class Lane:
    """Requests that wait for a process of their own kind. The socket carries one order at a time."""

    def __init__(self, name: str, limit_s: float, count: Callable[[str], None], *, confined: bool = False) -> None:
        """`limit_s` bounds one request, with the start of the process and reading the model. `confined`: preparing
        alone is bounded besides, by time and memory that grow with the request's body."""
        self._speaker = ThreadPoolExecutor(1, name)
        self._limit_s = limit_s
        self._count = count
        self._confined = confined
        self.child = Child("inference.conversation.preparer_process", lambda: count("started"))

    def hand_over(self, path: Path, text: TextModel, job: Job, body_bytes: int) -> asyncio.Future[Rendered]:
        """To be called on the loop."""
        return asyncio.get_running_loop().run_in_executor(self._speaker, self._prepare, path, text, job, body_bytes)

    def kill_for_good(self) -> None:
        """What is being prepared fails and nothing is taken any more."""
        self.child.kill_for_good()

    def end(self) -> None:
        """Behind `kill_for_good`: waits for the thread, and leaves no process."""
        self._speaker.shutdown(wait=True, cancel_futures=True)
        self.child.end()

    def _prepare(self, path: Path, text: TextModel, job: Job, body_bytes: int) -> Rendered:
        """Blocks until the process answered, died or was killed at the deadline."""
        order = Order(f"{path}\0{text.digest}", None, job)
        answer = self._confine(order, text, body_bytes) if self._confined else self._exchange(order, text)
        if isinstance(answer, InferenceError):
            raise answer
        if not isinstance(answer, Packed):
            raise EngineError("The process that prepares prompts does not keep the model.")
        return answer.unpacked()

    def _exchange(self, order: Order, text: TextModel) -> Answer:
        """The process is asked by the model's key first: it usually holds the model already."""
        until_s = time.monotonic() + self._limit_s
        answer = self._ask(order, self._limit_s)
        if isinstance(answer, Unknown):
            answer = self._ask(replace(order, model=text), until_s - time.monotonic(), self._limit_s)
        return answer

    def _confine(self, order: Order, text: TextModel, body_bytes: int) -> Answer:
        """The process gets the model before the clock of the request runs."""
        limit_s = min(self._limit_s, CONFINED_S + body_bytes / _BYTES_PER_S)
        # A render that passes its own clock ends by itself and spares the next request the start of a process.
        room = Room(_CONFINED_BYTES + _ROOM_PER_BYTE * body_bytes, 0.75 * limit_s)
        asked = replace(order, room=room)
        answer = Unknown() if self.child.pid is None else self._ask(asked, limit_s)
        if isinstance(answer, Unknown):
            kept = self._ask(replace(order, model=text, job=None), self._limit_s)
            answer = kept if isinstance(kept, InferenceError) else self._ask(asked, limit_s)
        return answer

    def _ask(self, order: Order, limit_s: float, told_s: float = 0.0) -> Answer:
        try:
            answer: Answer = self.child.ask(order, limit_s)
        except ChildEnded as ended:
            self._count("overdue" if ended.overdue else "died")
            if ended.overdue:
                raise TemplateFailed(f"Preparing the prompt took longer than {told_s or limit_s:.3g} s.") from ended
            raise EngineError("The process that prepares prompts ended; send the request again.") from ended
        return answer
