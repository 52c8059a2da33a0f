"""Calls on their way through a scheduler: events in pieces, their tokens, and what a model can do wrong."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence

from inference.engine.scripted import Script, saying
from inference.events import Channel, Delta, Event, Finished, FinishReason, ToolCallDelta
from inference.messages import Tool
from inference.ports import Job
from inference.scheduler import Thinking
from tests.scripted import events, final_of, request, scheduled

LOOK = Tool("look", "", {"type": "object", "properties": {"text": {"type": "string"}}})
LONG = "<think> is a word, and </tool_call> too. " * 20
CALLS = (
    f'<tool_call>\n{{"name": "look", "arguments": {{"text": "{LONG}"}}}}\n</tool_call>',
    f"<tool_call><function=look><parameter=text>{LONG}</parameter></function></tool_call>",
    f"<tool_call>look<arg_key>text</arg_key><arg_value>{LONG}</arg_value></tool_call>",
    f'[TOOL_CALLS]look[ARGS]{{"text": "{LONG}"}}',
)


def calls(told: Sequence[Event]) -> list[ToolCallDelta]:
    return [event for event in told if isinstance(event, ToolCallDelta)]


async def test_long_arguments_are_streamed_and_every_token_is_told_once() -> None:
    for call in CALLS:
        said = f"<think>I look.</think>Wait.\n{call}"
        with scheduled(Script(reply=saying(said))) as scheduler:
            told = await events(
                scheduler.submit(request(max_tokens=5000, thinking=Thinking(), tools=(LOOK,))),
            )
        first, *rest = calls(told)
        assert first.name == "look" and first.id.isalnum() and len(first.arguments) < 140
        assert len(rest) > len(LONG) / 2 and all((one.id, one.name, one.index) == ("", "", 0) for one in rest)
        assert json.loads("".join(one.arguments for one in (first, *rest))) == {"text": LONG}
        texts = [(one.channel, one.text) for one in told if isinstance(one, Delta)]
        assert "".join(text for channel, text in texts if channel is Channel.CONTENT) == "Wait.\n"
        final = final_of(told)
        assert isinstance(final, Finished) and final.reason is FinishReason.TOOL_CALLS and final.malformed_calls == 0
        assert final.usage.reasoning_tokens == len("<think>I look.</think>") - len("<think>") + 1
        spoken = sum(one.token_count for one in told if isinstance(one, Delta | ToolCallDelta))
        assert final.usage.completion_tokens == spoken == len(said)


def spoilt(text: str, chance: random.Random) -> str:
    at = chance.randrange(1, len(text))
    return (
        text[:at] + chance.choice(['"', "}", "<", "</tool_call>", "<think>", "\\", "\n", "é"]) + text[at:],
        text[: at - 1] + text[at:],
        text[:at],
        text[:at] + text[max(0, at - 9) :],
    )[chance.randrange(4)]


async def test_five_hundred_broken_calls_end_as_answers() -> None:
    """Whatever a model makes of a call, the request ends well and the text that is no call is told."""
    chance = random.Random(57)
    texts = [spoilt(call.replace(LONG, LONG[: chance.choice([10, 40, 300])]), chance) for call in CALLS * 125]

    def reply(job: Job, position: int) -> int:
        return saying(texts[int(bytes(job.prompt.ids))])(job, position)

    with scheduled(Script(reply=reply), max_batch=16, max_queue=600, max_queue_per_client=600) as scheduler:
        wanted = [request(str(n), max_tokens=2000, tools=(LOOK,)) for n in range(len(texts))]
        answers = await asyncio.gather(*(events(scheduler.submit(one)) for one in wanted))
        malformed = scheduler.snapshot().counters.malformed_tool_calls
    reasons = set()
    for text, told in zip(texts, answers, strict=True):
        final = final_of(told)
        assert isinstance(final, Finished)
        reasons.add(final.reason)
        assert (final.reason is FinishReason.TOOL_CALLS) == bool(calls(told))
        said = "".join(one.text for one in told if isinstance(one, Delta))
        assert said == text or calls(told)
        whole = "".join(one.arguments for one in calls(told))
        assert len(whole) > 128 or not whole or isinstance(json.loads(whole), dict)
    assert reasons == {FinishReason.STOP, FinishReason.TOOL_CALLS}
    assert 100 < malformed < 500
