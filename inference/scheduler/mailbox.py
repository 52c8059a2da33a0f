"""From the worker thread to the event loop: a list per generation and one wake-up for all of them.

`call_soon_threadsafe` costs 4.6 us and a write to the loop's pipe, an append 0.1 us, so a `Doorbell` rings once for
every mailbox that got something until the loop answers. Progress alone rings for nobody, for no client is told of it.
The worker never waits for a reader: one that falls too far behind is cut off.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

from inference.errors import GenerationFailed, InferenceError
from inference.events import Delta, Event, Failed, Finished, PrefillProgress, ToolCallDelta


class Doorbell:
    """Wakes one event loop. `ring` is for any thread, the rest happens on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Mailbox] = deque()
        self._rung = False

    def ring(self, mailbox: Mailbox) -> bool:
        """Has `mailbox` looked at soon. False: the loop is closed and nobody will ever read."""
        self._waiting.append(mailbox)
        if self._rung:
            return not self._loop.is_closed()
        self._rung = True
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:
            return False
        return True

    def _answer(self) -> None:
        self._rung = False  # before the deque is emptied: what comes from now on rings again
        while self._waiting:
            self._waiting.popleft().wake()


class Mailbox:
    """The events of one generation on their way to its one reader. `put` and `cancel` are for any thread.

    It is over with a `Failed`, or with as many `Finished` as it has `choices`. `on_end` is called once with the final
    event (which then counts the malformed calls of all choices), before that can be read; it must not block.
    `on_cancel` is called after it if the generation ends because nobody wants it: cancelled, unread or its loop closed.
    """

    def __init__(
        self,
        doorbell: Doorbell,
        on_cancel: Callable[[], None],
        on_end: Callable[[Finished | Failed, bool], None] = lambda final, cancelled: None,
        *,
        choices: int = 1,
        max_events: int = 4096,
        max_chars: int = 262_144,
    ) -> None:
        self._doorbell = doorbell
        self._on_cancel: Callable[[], None] | None = on_cancel
        self._on_end = on_end
        self._open_choices = choices
        self._malformed_calls = 0
        self._max_events = max_events
        self._max_chars = max_chars
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._chars = 0
        self._closed = False
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        """The final event is in; nothing is accepted any more."""
        return self._closed

    @property
    def ended(self) -> bool:
        """The final event was read."""
        return self._ended

    def put(self, events: Sequence[Event]) -> bool:
        """Delivers events that belong together. False: the generation is over, make no more.

        Nothing but progress waits for what comes next, or until a reader's time is up; the latest is kept.
        """
        if all(isinstance(event, PrefillProgress) for event in events):
            return self._note(events[-1])
        with self._lock:
            if self._closed:
                return False
            self._events.extend(events)
            self._count(events)
            if isinstance(final := events[-1], Failed) or not self._open_choices:
                self._close(final)
            behind = len(self._events) > self._max_events or self._chars > self._max_chars
        if behind and not self._closed:
            self.cancel(GenerationFailed("The client reads more slowly than the model writes."))
            return False
        if not self._doorbell.ring(self):
            self.cancel()
            return False
        return True

    def _note(self, progress: Event) -> bool:
        with self._lock:
            if self._closed:
                return False
            if self._events and isinstance(self._events[-1], PrefillProgress):
                self._events.pop()
            self._events.append(progress)
        return True

    def _count(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Delta(text=text) | ToolCallDelta(arguments=text):
                    self._chars += len(text)
                case Finished(malformed_calls=calls):
                    self._open_choices -= 1
                    self._malformed_calls += calls

    def _close(self, final: Event) -> None:
        self._closed, self._on_cancel = True, None
        if isinstance(final, Finished):
            self._on_end(replace(final, malformed_calls=self._malformed_calls), False)
        elif isinstance(final, Failed):
            self._on_end(final, False)

    def fail(self, error: InferenceError) -> bool:
        """Ends the generation after what was delivered already. False: it was over."""
        return self.put((Failed(error),))

    def cancel(self, error: InferenceError | None = None) -> None:
        """Ends the generation with `Failed` in place of whatever was not read yet. Idempotent."""
        with self._lock:
            if self._closed:
                return
            on_cancel, self._closed, self._on_cancel = self._on_cancel, True, None  # it holds the ticket that holds us
            final = Failed(error or GenerationFailed("The generation was cancelled."))
            self._events = [final]
            self._on_end(final, True)
        self._doorbell.ring(self)
        if on_cancel is not None:
            on_cancel()

    def wake(self) -> None:
        """On the loop: lets the reader look."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next_batch(self, timeout_s: float | None = None) -> tuple[Event, ...]:
        """All events that are ready together; () when none came within `timeout_s`.

        Raises `StopAsyncIteration` once the final event was read, as `async for` expects.
        """
        if batch := self._take():
            return batch
        loop = asyncio.get_running_loop()
        until_s = None if timeout_s is None else loop.time() + timeout_s
        while not (batch := self._take()):
            waiter = self._waiter = loop.create_future()
            timer = None if until_s is None else loop.call_at(until_s, self.wake)
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
            if until_s is not None and loop.time() >= until_s:
                return self._take()
        return batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Event, ...]:
        return await self.next_batch()

    def _take(self) -> tuple[Event, ...]:
        if self._ended:
            raise StopAsyncIteration
        if not self._events:  # a read without the lock is safe: what comes later rings
            return ()
        with self._lock:
            events, self._events, self._chars = self._events, [], 0
            self._ended = self._closed
        return merged(events)


def merged(events: Sequence[Event]) -> tuple[Event, ...]:
    """The same events with runs of one kind made one: texts joined, token counts added, the latest progress kept.

    A run is of one choice; it stands where it began, so that choices written in turn become one run each.
    """
    if len(events) < 2:
        return tuple(events)
    out: list[Event | list[Delta]] = []
    runs: dict[int, list[Delta]] = {}
    for event in events:
        if isinstance(event, Delta):
            run = runs.get(event.choice)
            if run is None or run[0].channel is not event.channel:
                run = runs[event.choice] = []
                out.append(run)
            run.append(event)
        elif isinstance(event, ToolCallDelta | Finished):
            runs.pop(event.choice, None)
            out.append(event)
        elif isinstance(event, PrefillProgress) and out and isinstance(out[-1], PrefillProgress):
            out[-1] = event
        else:
            runs.clear()
            out.append(event)
    return tuple(_joined(one) if isinstance(one, list) else one for one in out)


def _joined(run: list[Delta]) -> Delta:
    if len(run) == 1:
        return run[0]
    return replace(
        run[0],
        text="".join(delta.text for delta in run),
        token_count=sum(delta.token_count for delta in run),
        logprobs=tuple(one for delta in run for one in delta.logprobs),
    )
