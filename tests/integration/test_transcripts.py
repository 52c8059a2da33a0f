"""What a request is told of its finished answers: exactly the ids that were drawn and what the client got of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from inference.engine.scripted import EOS, Script, saying
from inference.events import Channel, Delta, Event, Finished, ToolCallDelta
from inference.messages import Tool
from inference.ports import Job
from inference.scheduler import Spoken, Thinking
from tests.scripted import events, final_of, request, scheduled, until

LOOK = Tool("look", "", {"type": "object", "properties": {"place": {"type": "string"}}})
CALL = '<tool_call>{"name": "look", "arguments": {"place": "here"}}</tool_call>'


async def answered(script: Script, **wanted: Any) -> tuple[list[Spoken], list[Event]]:
    spoken: list[Spoken] = []
    with scheduled(script) as scheduler:
        made = replace(request(**{"max_tokens": 500} | wanted), note=spoken.append)
        told = await events(scheduler.submit(made))
    return spoken, told


def shown(told: Sequence[Event], choice: int = 0) -> tuple[str, str, list[tuple[str, str, str]]]:
    """Text, reasoning and calls as a client puts them together."""
    said = {Channel.CONTENT: "", Channel.REASONING: ""}
    calls: dict[int, tuple[str, str, str]] = {}
    for event in told:
        if isinstance(event, Delta) and event.choice == choice:
            said[event.channel] += event.text
        elif isinstance(event, ToolCallDelta) and event.choice == choice:
            id_, name, arguments = calls.get(event.index, ("", "", ""))
            calls[event.index] = (id_ or event.id, name or event.name, arguments + event.arguments)
    return said[Channel.CONTENT], said[Channel.REASONING], list(calls.values())


def told_of(spoken: Spoken) -> tuple[str, str, list[tuple[str, str, str]]]:
    return spoken.text, spoken.reasoning, [(call.id, call.name, call.arguments) for call in spoken.calls]


async def test_a_thought_a_text_and_two_calls() -> None:
    reply = f"<think>\nI look é.\n</think>\n\nWait. 🙂\n{CALL}\n{CALL}"
    spoken, told = await answered(Script(reply=saying(reply)), thinking=Thinking(), tools=(LOOK,))
    assert len(spoken) == 1
    assert spoken[0].ids == tuple(reply.encode())
    assert told_of(spoken[0]) == shown(told)
    assert len(spoken[0].calls) == 2 and spoken[0].reasoning == "I look é."


async def test_half_a_character_and_a_marker_that_did_not_come_are_told_too() -> None:
    for reply in (b"caf\xc3", b"wait <tool_c", b"wait <thi"):
        script = Script(reply=lambda job, position, reply=reply: [*reply, EOS][min(position, len(reply))])  # type: ignore[misc]
        spoken, told = await answered(script, thinking=Thinking(), tools=(LOOK,))
        assert spoken[0].ids == tuple(reply)
        assert told_of(spoken[0]) == shown(told)


async def test_max_tokens_end_it_where_they_end_the_answer() -> None:
    spoken, told = await answered(Script(reply=saying("abcdefghij")), max_tokens=4)
    assert spoken == [Spoken(tuple(b"abcd"), "abcd", "", ())]
    assert isinstance(final_of(told), Finished)


async def test_each_choice_is_told_of() -> None:
    def reply(job: Job, position: int) -> int:
        text = f"choice {job.id[-1]}"
        return text.encode()[position] if position < len(text) else EOS

    spoken, told = await answered(Script(reply=reply), n=3)
    assert sorted(map(told_of, spoken)) == sorted(shown(told, choice) for choice in range(3))
    assert all(bytes(one.ids).decode() == one.text for one in spoken)


async def test_what_a_stop_string_cut_is_not_what_the_model_said() -> None:
    for reply in ("one STOP two", "one STOP", "one <think>a</think>STOP"):
        spoken, told = await answered(Script(reply=saying(reply)), stop=("STOP",), thinking=Thinking())
        assert not spoken
        assert isinstance(final_of(told), Finished)
    spoken, _ = await answered(Script(reply=saying("one STO")), stop=("STOP",))
    assert [one.text for one in spoken] == ["one STO"]


async def test_nobody_is_told_of_an_answer_that_was_given_up() -> None:
    spoken: list[Spoken] = []
    with scheduled(Script(reply=lambda _job, _position: 97, decode_s=0.002)) as scheduler:
        generation = scheduler.submit(replace(request(max_tokens=60_000), note=spoken.append))
        await generation.next_batch()
        await until(lambda: scheduler.snapshot().rows != ())
        generation.cancel()
        await until(lambda: not scheduler.snapshot().rows)
    assert not spoken


async def test_it_is_told_before_the_client_hears_of_the_end() -> None:
    noted_s: list[float] = []

    def slow(spoken: Spoken) -> None:
        time.sleep(0.1)
        noted_s.append(time.monotonic())

    with scheduled(Script(reply=saying("abc"))) as scheduler:
        generation = scheduler.submit(replace(request(), note=slow))
        async for batch in generation:
            if any(isinstance(event, Finished) for event in batch):
                assert noted_s and time.monotonic() >= noted_s[0]
    assert len(noted_s) == 1
