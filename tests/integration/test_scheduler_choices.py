"""Several answers of one request through the real worker thread: what they say, cost and leave behind."""

from __future__ import annotations

import asyncio

import pytest

from inference.engine.scripted import EOS, Fault, Script, ScriptedLoader, saying
from inference.errors import GenerationFailed, InvalidParameter, MemoryPressure, ModelTooLarge
from inference.events import Admitted, Channel, Delta, Failed, Finished, PrefillProgress
from inference.params import KVQuantisation
from inference.ports import Job, ModelLimits
from inference.scheduler import Thinking
from tests.scripted import ByteTokenizer, events, final_of, reply_ids, request, scheduled, text_of, until


def limits(**fields: object) -> ModelLimits:
    known = {"context_tokens": 65_536, "vocab_size": EOS + 1, "weights_bytes": 1_000_000, "kv_bytes_per_token": 1_000}
    return ModelLimits(**(known | fields))  # type: ignore[arg-type]


async def test_each_choice_is_what_its_seed_gives_alone() -> None:
    script = Script()
    with scheduled(script) as scheduler:
        many = request("hello", n=4, seed=10, max_tokens=30)
        told = await events(scheduler.submit(many))
        for choice in range(4):
            alone = await events(scheduler.submit(request("hello", seed=10 + choice, max_tokens=30)))
            assert text_of(told, choice) == text_of(alone)
            assert text_of(told, choice) == ByteTokenizer().decode(reply_ids(many, script, 30, choice))
    assert len({text_of(told, choice) for choice in range(4)}) == 4


async def test_without_a_seed_each_has_a_stream_of_its_own() -> None:
    jobs: list[Job] = []

    def reply(job: Job, position: int) -> int:
        if job not in jobs:
            jobs.append(job)
        return 97

    with scheduled(Script(reply=reply)) as scheduler:
        await events(scheduler.submit(request(n=3)))
    assert [job.sampling.seed for job in jobs] == [None] * 3
    assert [job.fork_of for job in jobs] == ["", jobs[0].id, jobs[0].id] and len({job.id for job in jobs}) == 3


async def test_one_prompt_one_progress_one_bill() -> None:
    with scheduled(Script(chunk_tokens=10)) as scheduler:
        told = await events(scheduler.submit(request("x" * 35, n=3, max_tokens=5)))
        view = scheduler.snapshot()
    assert sum(isinstance(event, Admitted) for event in told) == 1
    shown = [event.done_tokens for event in told if isinstance(event, PrefillProgress)]
    assert shown == sorted(set(shown)) and shown[-1] == 35
    final = final_of(told, 3)
    assert isinstance(final, Finished)
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (35, 15)
    others = [event for event in told if isinstance(event, Finished)][:-1]
    assert [other.usage.completion_tokens for other in others] == [5, 5]
    counters = view.counters
    assert (counters.submitted, counters.finished, counters.prompt_tokens, counters.completion_tokens) == (1, 1, 35, 15)


async def test_they_end_apart_and_the_last_one_ends_all() -> None:
    def reply(job: Job, position: int) -> int:
        seed = job.sampling.seed or 0
        return EOS if position >= 4 * (3 - seed) else 97 + seed

    with scheduled(Script(reply=reply, decode_s=0.002)) as scheduler:
        generation = scheduler.submit(request(n=3, seed=0, max_tokens=100))
        told = await events(generation)
        assert [event.choice for event in told if isinstance(event, Finished)] == [2, 1, 0]
        assert [text_of(told, choice) for choice in range(3)] == ["a" * 12, "b" * 8, "c" * 4]
        assert generation.ended
        await until(lambda: scheduler.snapshot().running == 0)


@pytest.mark.parametrize("after_steps", [0, 1, 3, 6])
async def test_cancel_frees_every_row_in_every_phase(after_steps: int) -> None:
    script = Script(prefill_s=0.005, decode_s=0.005, chunk_tokens=10)
    with scheduled(script) as scheduler:
        generation = scheduler.submit(request("x" * 30, n=4, max_tokens=1000))
        await until(lambda: script.steps >= after_steps)
        generation.cancel()
        assert isinstance(final_of(await events(generation), 4), Failed)
        await until(lambda: scheduler.snapshot().running == 0 and not scheduler._admission.running())
        assert scheduler.snapshot().counters.cancelled == 1
        assert isinstance(final_of(await events(scheduler.submit(request(n=8))), 8), Finished)


async def test_cancel_after_some_have_ended() -> None:
    def reply(job: Job, position: int) -> int:
        return EOS if job.sampling.seed == 0 and position == 2 else 97

    with scheduled(Script(reply=reply, decode_s=0.002)) as scheduler:
        generation = scheduler.submit(request(n=3, seed=0, max_tokens=10_000))
        await until(lambda: scheduler.snapshot().running == 2)
        generation.cancel()
        final_of(await events(generation), 3)
        await until(lambda: scheduler.snapshot().running == 0)


@pytest.mark.parametrize("fault", [Fault.ROW, Fault.RAISE, Fault.FATAL])
@pytest.mark.parametrize("at", [0, 2, 4])
async def test_a_fault_of_one_ends_the_request_and_frees_all(fault: Fault, at: int) -> None:
    script = Script(step_faults={at: fault}, chunk_tokens=3)
    with scheduled(script) as scheduler:
        told = await events(scheduler.submit(request("hello", n=3, max_tokens=50)))
        assert isinstance(final_of(told, 3), Failed)
        await until(lambda: scheduler.snapshot().running == 0 and not scheduler._admission.running())
        assert isinstance(final_of(await events(scheduler.submit(request(n=3))), 3), Finished)
        counters = scheduler.snapshot().counters
        assert (counters.failed, counters.finished) == (1, 1)


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_start_that_fails_leaves_none_behind(at: int) -> None:
    with scheduled(Script(start_faults={at: Fault.RAISE})) as scheduler:
        final = final_of(await events(scheduler.submit(request(n=3))), 3)
        assert isinstance(final, Failed) and isinstance(final.error, GenerationFailed)
        await until(lambda: scheduler.snapshot().running == 0)
        assert isinstance(final_of(await events(scheduler.submit(request(n=3))), 3), Finished)


async def test_the_deadline_ends_all_with_length() -> None:
    with scheduled(Script(decode_s=0.005)) as scheduler:
        told = await events(scheduler.submit(request(n=3, max_tokens=100_000, deadline_s=0.05)))
        assert {str(event.reason) for event in told if isinstance(event, Finished)} == {"length"}
        assert isinstance(final_of(told, 3), Finished)


async def test_rows_count_as_slots_and_no_one_overtakes() -> None:
    order: list[str] = []
    script = Script(decode_s=0.002, step_faults={5: Fault.HANG})
    with scheduled(script, max_batch=4) as scheduler:
        busy = scheduler.submit(request(n=2, max_tokens=30, id="busy"))
        await until(lambda: script.steps > 5)
        wide = scheduler.submit(request(n=4, max_tokens=5, id="wide"))
        small = scheduler.submit(request(max_tokens=5, id="small"))
        script.release.set()
        most = 0

        async def read(name: str, generation: object) -> None:
            await events(generation)  # type: ignore[arg-type]
            order.append(name)

        tasks = [asyncio.create_task(read(*pair)) for pair in (("busy", busy), ("wide", wide), ("small", small))]
        while not all(task.done() for task in tasks):
            most = max(most, scheduler.snapshot().running)
            await asyncio.sleep(0.001)
    assert order == ["busy", "wide", "small"] and most <= 4


async def test_more_answers_than_rows_are_refused() -> None:
    with scheduled(max_batch=2) as scheduler, pytest.raises(InvalidParameter) as refusal:
        scheduler.submit(request(n=3))
    assert refusal.value.param == "n" and "between 1 and 2" in refusal.value.message


async def test_memory_is_reserved_for_each() -> None:
    script = Script(limits=limits())
    with scheduled(script, loader=ScriptedLoader(script, limit_bytes=2_000_000)) as scheduler:
        await events(scheduler.submit(request()))
        await until(lambda: scheduler.snapshot().running == 0)  # what is shown lags behind the last event
        script.decode_s = 0.5
        one = scheduler.submit(request("x" * 100, max_tokens=100))
        await until(lambda: scheduler.snapshot().running == 1)
        single = scheduler.snapshot().reserved_bytes - 1_000_000
        one.cancel()
        await until(lambda: scheduler.snapshot().running == 0)
        three = scheduler.submit(request("x" * 100, max_tokens=100, n=3))
        await until(lambda: scheduler.snapshot().running == 3)
        assert scheduler.snapshot().reserved_bytes - 1_000_000 == 2 * single  # rows and one copy: 4 against 2
        three.cancel()
        with pytest.raises(ModelTooLarge, match="memory"):
            scheduler.submit(request("x" * 100, max_tokens=100, n=6))


async def test_memory_that_ends_ends_the_whole_request() -> None:
    script = Script(limits=limits(), growth_bytes=4_000, decode_s=0.001)
    with scheduled(script, loader=ScriptedLoader(script, limit_bytes=1_500_000), publish_s=0.01) as scheduler:
        final = final_of(await events(scheduler.submit(request(n=3, max_tokens=100))), 3)
        assert isinstance(final, Failed) and isinstance(final.error, MemoryPressure)
        await until(lambda: scheduler.snapshot().running == 0)


async def test_quantised_rows_reserve_less_and_only_where_they_can() -> None:
    script = Script(limits=limits(kv_group_sizes=(64,)), decode_s=0.002)
    loader = ScriptedLoader(script, limit_bytes=2_000_000)
    with scheduled(script, loader=loader) as scheduler:
        await events(scheduler.submit(request()))
        with pytest.raises(ModelTooLarge, match="memory"):
            scheduler.submit(request("x" * 300, max_tokens=300))
        final = final_of(await events(scheduler.submit(request("x" * 300, max_tokens=300, kv=KVQuantisation(8)))))
        assert isinstance(final, Finished)
        told = await events(scheduler.submit(request(kv=KVQuantisation(8, 32))))
        (only,) = told  # before it was admitted: still an HTTP status
        assert isinstance(only, Failed) and only.error.param == "kv_group_size"
    with scheduled() as scheduler:
        (only,) = await events(scheduler.submit(request(kv=KVQuantisation(8))))
        assert isinstance(only, Failed) and only.error.param == "kv_bits"


async def test_logprobs_go_with_the_text_of_their_tokens() -> None:
    with scheduled(Script(reply=saying("a é 😀 z"))) as scheduler:
        told = await events(scheduler.submit(request(max_tokens=100, top_logprobs=2, n=2)))
        plain = await events(scheduler.submit(request(max_tokens=100)))
    for choice in range(2):
        said = [event for event in told if isinstance(event, Delta) and event.choice == choice]
        for delta in said:
            assert bytes(one.token for one in delta.logprobs).decode() == delta.text
            assert len(delta.logprobs) == delta.token_count
            assert all(len(one.top) == 2 and one.top[0] == (one.token, one.logprob) for one in delta.logprobs)
    assert not any(event.logprobs for event in plain if isinstance(event, Delta))


@pytest.mark.parametrize(
    ("said", "content"),
    [
        ("<think>why</think>so", "so"),
        ("so<think>why</think>, then", "so, then"),
        ("a <b> c", "a <b> c"),
        ("<thin air", "<thin air"),
        ("<think>never ends", ""),
    ],
)
async def test_logprobs_are_those_of_the_content(said: str, content: str) -> None:
    """Each byte is a token, so that markers are many tokens, held back until it is known what they are."""
    with scheduled(Script(reply=saying(said))) as scheduler:
        told = await events(scheduler.submit(request(max_tokens=100, top_logprobs=0, thinking=Thinking())))
    deltas = [event for event in told if isinstance(event, Delta)]
    assert not any(delta.logprobs for delta in deltas if delta.channel is Channel.REASONING)
    assert bytes(one.token for delta in deltas for one in delta.logprobs).decode() == content
    assert "".join(delta.text for delta in deltas if delta.channel is Channel.CONTENT) == content
