"""The way from the worker thread to the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import GenerationFailed
from inference.events import (
    Channel,
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    PrefillProgress,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from inference.scheduler.mailbox import Doorbell, Mailbox, merged

DONE = Finished(FinishReason.STOP, Usage(1))


class Box:
    """A mailbox on the running loop that counts its cancellations."""

    def __init__(self, doorbell: Doorbell | None = None, **limits: int) -> None:
        self.cancelled = 0
        self.mailbox = Mailbox(doorbell or Doorbell(asyncio.get_running_loop()), self._count, **limits)

    def _count(self) -> None:
        self.cancelled += 1


async def read(mailbox: Mailbox) -> list[Event]:
    return [event async for batch in mailbox for event in batch]


def test_what_is_ready_together_becomes_one() -> None:
    events = [
        PrefillProgress(1, 9),
        PrefillProgress(9, 9),
        Delta("a", 1),
        Delta("b", 2),
        Delta("c", 1, Channel.REASONING),
        Delta("d", 0),
        DONE,
    ]
    assert merged(events) == (
        PrefillProgress(9, 9),
        Delta("ab", 3),
        Delta("c", 1, Channel.REASONING),
        Delta("d", 0),
        DONE,
    )


async def test_progress_alone_wakes_nobody_and_comes_with_what_follows() -> None:
    rung: list[Mailbox] = []

    class Counted(Doorbell):
        def ring(self, mailbox: Mailbox) -> bool:
            rung.append(mailbox)
            return super().ring(mailbox)

    mailbox = Box(Counted(asyncio.get_running_loop()), max_events=3).mailbox
    reading = asyncio.create_task(mailbox.next_batch())
    await asyncio.sleep(0)
    assert all(mailbox.put((PrefillProgress(at, 9),)) for at in range(1, 10)), "only the latest is kept"
    assert not rung
    assert not reading.done()
    mailbox.put((Delta("a", 1),))
    assert await reading == (PrefillProgress(9, 9), Delta("a", 1))
    mailbox.put((DONE,))
    assert not mailbox.put((PrefillProgress(9, 9),))


async def test_progress_is_read_when_the_reader_s_time_is_up() -> None:
    mailbox = Box().mailbox
    reading = asyncio.create_task(mailbox.next_batch(0.01))
    await asyncio.sleep(0)
    mailbox.put((PrefillProgress(3, 9),))
    assert await reading == (PrefillProgress(3, 9),)
    mailbox.cancel()


def test_answers_written_in_turn_become_one_run_each() -> None:
    scored = TokenLogprob(7, -1.0)
    events = [
        Delta("a", 1, logprobs=(scored,)),
        Delta("x", 1, choice=1),
        Delta("b", 1, logprobs=(scored, scored)),
        Delta("y", 1, choice=1),
        ToolCallDelta(0, "id", "f", "{", choice=1),
        Delta("c", 1),
        Delta("z", 1, choice=1),
        replace(DONE, choice=1),
        Delta("d", 1),
        DONE,
    ]
    assert merged(events) == (
        Delta("abcd", 4, logprobs=(scored,) * 3),
        Delta("xy", 2, choice=1),
        ToolCallDelta(0, "id", "f", "{", choice=1),
        Delta("z", 1, choice=1),
        replace(DONE, choice=1),
        DONE,
    )


@given(
    st.lists(
        st.builds(Delta, text=st.text("ab", max_size=2), channel=st.sampled_from(Channel), choice=st.integers(0, 2))
        | st.builds(ToolCallDelta, st.integers(0, 1), st.just(""), st.just(""), st.text("cd"), choice=st.integers(0, 2))
        | st.builds(PrefillProgress, st.integers(0, 9), st.just(9))
    )
)
def test_merging_changes_nothing_that_an_answer_says(events: list[Event]) -> None:
    """Each answer's text in each channel, its calls, and their order are what they were."""

    def told(some: Sequence[Event], choice: int) -> list[tuple[str, str]]:
        out: list[tuple[str, str]] = []
        for event in some:
            if isinstance(event, Delta) and event.choice == choice:
                if out and out[-1][0] == event.channel:
                    out[-1] = (event.channel, out[-1][1] + event.text)
                else:
                    out.append((event.channel, event.text))
            elif isinstance(event, ToolCallDelta) and event.choice == choice:
                out.append((f"call {event.index}", event.arguments))
        return out

    after = merged(events)
    assert len(after) <= len(events)
    for choice in range(3):
        assert told(after, choice) == told(events, choice)
    assert sum(getattr(event, "token_count", 0) for event in after) == sum(
        getattr(event, "token_count", 0) for event in events
    )


async def test_it_is_over_when_every_choice_is() -> None:
    ends: list[Finished | Failed] = []
    mailbox = Mailbox(Doorbell(asyncio.get_running_loop()), lambda: None, lambda end, _: ends.append(end), choices=2)
    assert mailbox.put((Delta("a", choice=1), replace(DONE, choice=1, malformed_calls=2)))
    assert not mailbox.closed and not ends
    assert mailbox.put((Delta("b"), replace(DONE, malformed_calls=1)))
    assert mailbox.closed and not mailbox.put((Delta("late"),))
    assert [end.malformed_calls for end in ends if isinstance(end, Finished)] == [3]
    assert [event.choice for event in await read(mailbox) if isinstance(event, Finished)] == [1, 0]


async def test_a_failure_ends_all_choices() -> None:
    mailbox = Mailbox(Doorbell(asyncio.get_running_loop()), lambda: None, choices=3)
    mailbox.put((DONE,))
    assert mailbox.fail(GenerationFailed("broken")) and mailbox.closed
    assert isinstance((await read(mailbox))[-1], Failed)


async def test_events_come_in_order_and_end() -> None:
    box = Box().mailbox
    threading.Thread(target=lambda: [box.put((Delta(str(n)),)) for n in range(1000)] + [box.put((DONE,))]).start()
    events = await read(box)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "".join(map(str, range(1000)))
    assert sum(event.token_count for event in events if isinstance(event, Delta)) == 1000
    assert events[-1] is DONE and box.ended and box.closed
    with pytest.raises(StopAsyncIteration):
        await box.next_batch(0)


async def test_a_wait_can_time_out_and_go_on() -> None:
    box = Box().mailbox
    began_s = time.monotonic()
    assert await box.next_batch(0.02) == ()
    assert time.monotonic() - began_s >= 0.015
    box.put((Delta("x"),))
    assert await box.next_batch(0.02) == (Delta("x"),)
    asyncio.get_running_loop().call_later(0.01, box.put, (DONE,))
    assert await box.next_batch(10) == (DONE,)


async def test_nothing_is_accepted_after_the_final_event() -> None:
    box = Box()
    assert box.mailbox.put((Delta("x"), DONE))
    assert not box.mailbox.put((Delta("y"),))
    assert not box.mailbox.fail(GenerationFailed("late"))
    box.mailbox.cancel()
    assert await read(box.mailbox) == [Delta("x"), DONE] and box.cancelled == 0


async def test_cancelling_drops_what_was_not_read_and_happens_once() -> None:
    box = Box()
    box.mailbox.put((Delta("x"),))
    box.mailbox.cancel()
    box.mailbox.cancel()
    assert not box.mailbox.put((Delta("y"),))
    (event,) = await read(box.mailbox)
    assert isinstance(event, Failed) and box.cancelled == 1


@pytest.mark.parametrize("limits", [{"max_events": 10}, {"max_chars": 50}])
async def test_a_reader_that_falls_behind_is_cut_off(limits: dict[str, int]) -> None:
    box = Box(**limits)
    accepted = 0
    while box.mailbox.put((Delta("0123456789"),)):
        accepted += 1
        assert accepted < 100
    assert accepted == limits.get("max_events", 5) and box.cancelled == 1
    (event,) = await read(box.mailbox)
    assert isinstance(event, Failed)


async def test_reading_makes_room_again() -> None:
    box = Box(max_events=3, max_chars=30).mailbox
    for _ in range(50):
        assert box.put((Delta("0123456789"), Delta("0123456789")))
        assert await box.next_batch(1) == (Delta("01234567890123456789", 2),)


def test_a_closed_loop_cancels() -> None:
    async def make() -> Box:
        return Box()

    box = asyncio.run(make())
    assert not box.mailbox.put((Delta("x"),))
    assert box.cancelled == 1 and box.mailbox.closed


def test_a_loop_closed_with_the_bell_rung_cancels_too() -> None:
    async def make() -> Box:
        box = Box()
        box.mailbox.put((Delta("x"),))  # the loop ends before it answers
        return box

    loop = asyncio.new_event_loop()
    box = loop.run_until_complete(make())
    loop.close()
    assert not box.mailbox.put((Delta("y"),)) and box.cancelled == 1


async def test_one_wake_up_serves_all_mailboxes() -> None:
    loop = asyncio.get_running_loop()
    doorbell = Doorbell(loop)
    boxes = [Box(doorbell).mailbox for _ in range(50)]
    calls = []
    real = loop.call_soon_threadsafe

    def counting(*args: object) -> asyncio.Handle:
        calls.append(args)
        return real(*args)  # type: ignore[arg-type]

    loop.call_soon_threadsafe = counting  # type: ignore[method-assign, assignment]
    try:
        readers = [asyncio.create_task(read(box)) for box in boxes]
        await asyncio.sleep(0)
        for box in boxes:
            box.put((Delta("a"),))
            box.put((Delta("b"), DONE))
        assert all(told == [Delta("ab", 2), DONE] for told in await asyncio.gather(*readers))
    finally:
        del loop.call_soon_threadsafe
    assert len(calls) == 1


async def test_what_comes_while_the_bell_is_answered_rings_again() -> None:
    """The narrowest moment: the deque was found empty, and the loop is about to go back to sleep."""
    doorbell = Doorbell(asyncio.get_running_loop())
    first, second = Box(doorbell).mailbox, Box(doorbell).mailbox

    class Tricky(deque[Mailbox]):
        armed = False

        def __len__(self) -> int:
            found = super().__len__()
            if self.armed and not found:
                self.armed = False
                second.put((DONE,))
            return found

    doorbell._waiting = tricky = Tricky()
    reader = asyncio.create_task(read(second))
    await asyncio.sleep(0)
    first.put((DONE,))
    tricky.armed = True
    async with asyncio.timeout(5):
        assert await reader == [DONE]


async def test_many_short_generations_none_stalled() -> None:
    """The race that a lost wake-up would lose: the last event of one and the first wait of another."""
    doorbell = Doorbell(asyncio.get_running_loop())

    async def one(number: int) -> int:
        box = Box(doorbell).mailbox
        threads.submit(lambda: (box.put((Delta(str(number)),)), box.put((DONE,))))
        return len(await read(box))

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as threads:
        for start in range(0, 2000, 50):
            async with asyncio.timeout(10):
                assert all(await asyncio.gather(*(one(start + n) for n in range(50))))
