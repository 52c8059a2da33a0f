"""What comes out of a scheduler with a scripted model: exact text, exact counts, whoever else is running."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.scripted import EOS, Fault, Script, letters, saying
from inference.events import (
    Admitted,
    Channel,
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    PrefillProgress,
    ToolCallDelta,
)
from inference.messages import Tool
from inference.ports import Job
from inference.scheduler import Thinking
from inference.streaming.splitter import ReasoningMode
from tests.scripted import ByteTokenizer, events, final_of, reply_ids, request, scheduled, text_of, until


def usage_of(told: Sequence[Event]) -> tuple[int, int, FinishReason]:
    final = final_of(told)
    assert isinstance(final, Finished), final
    return final.usage.prompt_tokens, final.usage.completion_tokens, final.reason


async def test_one_answer_in_the_promised_order() -> None:
    with scheduled(Script(reply=saying("Hi! 🙂"), chunk_tokens=4)) as scheduler:
        generation = scheduler.submit(request("0123456789", max_tokens=50, id="abc"))
        assert (generation.id, generation.model_id) == ("abc", "scripted")
        assert (generation.prompt_tokens, generation.max_tokens) == (10, 50)
        told = await events(generation)
    assert told[0] == Admitted("abc", 10, verdict="disabled", warmth="disabled")
    kinds = [type(event) for event in told]
    assert kinds == sorted(kinds, key=[Admitted, PrefillProgress, Delta, Finished].index)
    assert PrefillProgress(10, 10) in told
    assert text_of(told) == "Hi! 🙂"
    assert usage_of(told) == (10, len("Hi! 🙂".encode()), FinishReason.STOP)
    assert sum(event.token_count for event in told if isinstance(event, Delta)) == 8
    assert generation.ended


async def test_max_tokens_and_the_room_left_end_with_length() -> None:
    with scheduled() as scheduler:
        assert usage_of(await events(scheduler.submit(request(max_tokens=3)))) == (5, 3, FinishReason.LENGTH)
        cut = scheduler.submit(request(max_tokens=None, context_tokens=12))
        assert usage_of(await events(cut)) == (5, 7, FinishReason.LENGTH)


async def test_a_stop_id_of_the_request_ends_the_answer_unseen() -> None:
    with scheduled(Script(reply=saying("abcdef"))) as scheduler:
        told = await events(scheduler.submit(request(max_tokens=50, stop_ids=(ord("d"),))))
    assert text_of(told) == "abc" and usage_of(told)[1:] == (3, FinishReason.STOP)


async def test_a_stop_string_frees_the_row_in_the_step_that_completes_it() -> None:
    script = Script(reply=saying("one two STOP three"))
    with scheduled(script) as scheduler:
        told = await events(scheduler.submit(request(max_tokens=50, stop=("STOP",))))
        steps = script.steps
        assert text_of(told) == "one two " and usage_of(told)[1:] == (12, FinishReason.STOP)
        await asyncio.sleep(0.05)
        assert script.steps == steps  # the runner was told: nothing is drawn after it
        await until(lambda: scheduler.snapshot().running == 0)


def channels(told: Sequence[Event]) -> list[tuple[Channel, str]]:
    deltas = (event for event in told if isinstance(event, Delta))
    return [(key, "".join(one.text for one in run)) for key, run in groupby(deltas, key=lambda one: one.channel)]


@pytest.mark.parametrize(
    ("said", "mode", "thought", "content", "reasoning_tokens"),
    [
        ("<think>\nwhy\n</think>\n\nso", "auto", "why", "so", 1 + 5 + 8),  # the last byte of the opener opens
        ("why</think>so", "prefilled", "why", "so", 3 + 8),
        ("<think>cut </th", "auto", "cut </th", "", 1 + 8),
        ("so", "auto", "", "so", 0),
        ("<think>why</think>so", "off", "", "<think>why</think>so", 0),
    ],
)
async def test_thoughts_go_their_own_way_and_are_counted(
    said: str, mode: str, thought: str, content: str, reasoning_tokens: int
) -> None:
    with scheduled(Script(reply=saying(said))) as scheduler:
        thinking = Thinking(mode=ReasoningMode(mode))
        told = await events(scheduler.submit(request(max_tokens=100, thinking=thinking)))
    wanted = [(Channel.REASONING, thought), (Channel.CONTENT, content)]
    assert channels(told) == [(channel, text) for channel, text in wanted if text]
    final = final_of(told)
    assert isinstance(final, Finished)
    assert (final.usage.reasoning_tokens, final.usage.completion_tokens) == (reasoning_tokens, len(said))
    assert sum(event.token_count for event in told if isinstance(event, Delta)) == len(said)


async def test_a_request_that_tells_of_no_thinking_gets_its_tags_as_text() -> None:
    with scheduled(Script(reply=saying("<think>why</think>so"))) as scheduler:
        assert channels(await events(scheduler.submit(request(max_tokens=100)))) == [
            (Channel.CONTENT, "<think>why</think>so")
        ]


async def test_a_stop_string_counts_in_a_thought_too_and_what_waited_for_a_marker_is_shown() -> None:
    with scheduled(Script(reply=saying("<think>one </STOP"))) as scheduler:
        told = await events(scheduler.submit(request(max_tokens=100, stop=("STOP",), thinking=Thinking())))
    assert channels(told) == [(Channel.REASONING, "one </")]
    assert usage_of(told)[2] is FinishReason.STOP


@pytest.mark.parametrize(("end", "reason"), [(EOS, FinishReason.STOP), (ord("."), FinishReason.LENGTH)])
async def test_what_was_held_back_is_shown_at_the_end(end: int, reason: FinishReason) -> None:
    ids = [*b"wait ST", end]
    tokens = len(ids) - (end == EOS)
    with scheduled(Script(reply=lambda _job, position: ids[position])) as scheduler:
        told = await events(scheduler.submit(request(max_tokens=len(ids), stop=("STOP",))))
    assert text_of(told) == ByteTokenizer().decode(ids) and usage_of(told)[1:] == (tokens, reason)


async def test_half_a_character_at_the_end_is_not_lost_nor_torn() -> None:
    with scheduled(Script(reply=saying("né🙂"))) as scheduler:
        told = await events(scheduler.submit(request(max_tokens=5)))
    assert text_of(told) == "né\ufffd"
    assert all("\ufffd" not in event.text for event in told[:-2] if isinstance(event, Delta))


@settings(max_examples=40, deadline=None)
@given(st.text("aé🙂ST ", max_size=30), st.lists(st.text("ST aé", min_size=1, max_size=3), max_size=3).map(tuple))
def test_any_text_comes_out_as_it_went_in_up_to_its_stop_string(text: str, stop: tuple[str, ...]) -> None:
    async def run() -> list[Event]:
        with scheduled(Script(reply=saying(text))) as scheduler:
            return await events(scheduler.submit(request(max_tokens=200, stop=stop)))

    told = asyncio.run(run())
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(string) for string in stop)]
    if ends:
        longest = max(len(string) for string in stop if text[: ends[0]].endswith(string))
        assert text_of(told) == text[: ends[0] - longest]
        assert usage_of(told)[1] == len(text[: ends[0]].encode())
    else:
        assert text_of(told) == text and usage_of(told)[1] == len(text.encode())


async def test_several_tokens_of_one_step_are_counted_up_to_the_end_only() -> None:
    """A runner that draws more than it was asked for (speculation) changes neither text nor count."""
    from inference.engine.scripted import ScriptedLoader, ScriptedRunner
    from inference.ports import ModelRef, Sampled, StepOutput

    class Generous(ScriptedRunner):
        def _decode(self) -> list[StepOutput]:
            return [Sampled(job_id, tuple(b"abcdefgh")) for job_id in self._rows]

    class GenerousLoader(ScriptedLoader):
        def load(self, model: ModelRef) -> ScriptedRunner:
            super().load(model).close()
            self.runners.append(Generous(self._script))
            return self.runners[-1]

    with scheduled(loader=GenerousLoader()) as scheduler:
        cut = await events(scheduler.submit(request(max_tokens=11)))
        stopped = await events(scheduler.submit(request(max_tokens=50, stop=("ha",))))
        await until(lambda: scheduler.snapshot().running == 0)
    assert text_of(cut) == "abcdefghabc" and usage_of(cut)[1:] == (11, FinishReason.LENGTH)
    assert text_of(stopped) == "abcdefg" and usage_of(stopped)[1:] == (9, FinishReason.STOP)


async def test_usage_times_add_up() -> None:
    with scheduled(Script(prefill_s=0.05, decode_s=0.02, chunk_tokens=5), max_batch=1) as scheduler:
        began_s = time.monotonic()
        first = scheduler.submit(request("0123456789", max_tokens=5))
        second = scheduler.submit(request("0123456789", max_tokens=5))
        finals = [final_of(await events(generation)) for generation in (first, second)]
        took_s = time.monotonic() - began_s
    usages = [final.usage for final in finals if isinstance(final, Finished)]
    assert usages[0].prefill_s >= 0.1 and usages[0].decode_s >= 0.08
    assert usages[1].queue_s >= usages[0].prefill_s + usages[0].decode_s
    assert sum((usages[1].queue_s, usages[1].prefill_s, usages[1].decode_s)) <= took_s


async def test_the_deadline_of_a_generation_ends_it_with_length() -> None:
    """A step takes 10 ms at least, so that no machine draws more than a hundred tokens a second."""
    with scheduled(Script(decode_s=0.01), generation_deadline_s=0.5) as scheduler:
        told = await events(scheduler.submit(request(max_tokens=10_000)))
        own = await events(scheduler.submit(request(max_tokens=10_000, deadline_s=0.1)))
    assert usage_of(told)[2] is usage_of(own)[2] is FinishReason.LENGTH
    assert 0 < usage_of(told)[1] <= 50 + 1 and usage_of(own)[1] <= 10 + 1


def mixed(job: Job, position: int) -> int:
    """Letters, ended by the model itself here and there."""
    token = letters(job, position)
    return EOS if token == ord("q") and position > 5 else token


async def test_under_load_every_answer_is_what_it_is_alone() -> None:
    script = Script(reply=mixed, chunk_tokens=7)
    wanted = [
        request("x" * (1 + n % 40) + str(n), max_tokens=1 + n * 7 % 60, seed=n, client=f"c{n % 5}", stop=("zz", "ab"))
        for n in range(400)
    ]
    with scheduled(script, max_batch=16, max_queue=1000, max_queue_per_client=1000) as scheduler:
        loaded = await asyncio.gather(*(events(scheduler.submit(one)) for one in wanted))
        busy = scheduler.snapshot()
    for one, told in zip(wanted, loaded, strict=True):
        ids = reply_ids(one, script, one.params.max_tokens or 0)
        ids = ids[: ids.index(EOS)] if EOS in ids else ids
        text = ByteTokenizer().decode(ids)
        ends = [text.index(stop) for stop in ("zz", "ab") if stop in text]
        assert text_of(told) == text[: min(ends, default=len(text))]
        assert not isinstance(told[-1], Failed)
    assert busy.counters.finished == 400 and busy.counters.failed == busy.counters.cancelled == 0


@pytest.mark.parametrize("fault", ["crossed", "skipped", "repeated"])
async def test_the_comparison_catches_planted_faults(fault: str) -> None:
    def wrong(job: Job, position: int) -> int:
        if fault == "crossed" and position == 3:
            return letters(job, 100)
        return letters(job, position + {"skipped": position > 3, "repeated": -(position > 3)}.get(fault, 0))

    with scheduled(Script(reply=wrong)) as scheduler:
        one = request("compare", max_tokens=30)
        told = await events(scheduler.submit(one))
    assert text_of(told) != ByteTokenizer().decode(reply_ids(one, Script(), 30))


async def test_a_thousand_answers_of_one_token_none_stalled() -> None:
    with scheduled(max_batch=32, max_queue=2000) as scheduler:
        told = await asyncio.gather(*(events(scheduler.submit(request(f"p{n}", max_tokens=1))) for n in range(1000)))
    assert all(usage_of(one)[1] == 1 for one in told)


async def test_a_crowd_does_not_keep_a_single_client_waiting() -> None:
    script = Script(step_faults={0: Fault.HANG})
    with scheduled(script, max_batch=1, max_queue=100, max_queue_per_client=50) as scheduler:
        crowd = [scheduler.submit(request(id=f"c{n}", client="crowd", max_tokens=3)) for n in range(30)]
        late = scheduler.submit(request(id="late", client="late", max_tokens=3))
        script.release.set()
        await asyncio.gather(*(events(one) for one in (*crowd, late)))
    started = [job.split("#")[0] for job in script.started]
    assert started.index("late") <= 3
    assert [name for name in started if name != "late"] == [f"c{n}" for n in range(30)]


LOOK = Tool("look", "", {"type": "object", "properties": {"at": {"type": "integer"}}})
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'


async def test_calls_are_read_out_of_the_answer_and_end_it_as_such() -> None:
    said = f"<think>why</think>so\n{CALL}\n{CALL}"
    with scheduled(Script(reply=saying(said))) as scheduler:
        wanted = request(max_tokens=500, thinking=Thinking(), tools=(LOOK,))
        told = await events(scheduler.submit(wanted))
        assert scheduler.snapshot().counters.malformed_tool_calls == 0
    assert channels(told) == [(Channel.REASONING, "why"), (Channel.CONTENT, "so\n")]
    calls = [event for event in told if isinstance(event, ToolCallDelta)]
    assert [(call.index, call.name, call.arguments) for call in calls] == [
        (0, "look", '{"at": 1}'),
        (1, "look", '{"at": 1}'),
    ]
    assert all(call.id.isalnum() and call.id.startswith("call") for call in calls) and calls[0].id != calls[1].id
    assert usage_of(told)[1:] == (len(said), FinishReason.TOOL_CALLS)
    assert sum(event.token_count for event in told if isinstance(event, Delta | ToolCallDelta)) == len(said)


@pytest.mark.parametrize(
    ("said", "tools", "max_tokens", "reason", "malformed"),
    [
        (CALL, (), 500, FinishReason.STOP, 0),
        (CALL, (LOOK,), len(CALL) - 15, FinishReason.LENGTH, 1),
        (CALL.replace("look", "other"), (LOOK,), 500, FinishReason.STOP, 1),
        (f'a <tool_call>{{"name": "look", "arg</tool_call> {CALL[:20]}', (LOOK,), 500, FinishReason.STOP, 2),
    ],
)
async def test_what_is_no_call_stays_content_and_is_counted(
    said: str, tools: tuple[Tool, ...], max_tokens: int, reason: FinishReason, malformed: int
) -> None:
    with scheduled(Script(reply=saying(said))) as scheduler:
        told = await events(scheduler.submit(request(max_tokens=max_tokens, tools=tools)))
        assert scheduler.snapshot().counters.malformed_tool_calls == malformed
    assert text_of(told) == said[:max_tokens]
    assert usage_of(told)[2] is reason
