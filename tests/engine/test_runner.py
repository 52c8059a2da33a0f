"""What the runner says of its jobs, how they end, and what a fault costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inference.engine import memory
from inference.engine.runner import MlxRunner
from inference.errors import EngineFatal, GenerationFailed, InvalidParameter, MemoryPressure
from inference.events import FinishReason
from inference.params import SamplingParams
from inference.ports import Prefilled, Sampled
from tests import tiny_models
from tests.engine.harness import GREEDY, Faulty, Loaded, job, run, solo

PROMPT = tiny_models.prompt_ids(60)


# --- ends -----------------------------------------------------------------------------------------------------------


def test_max_tokens_ends_a_row_with_length(dense: Loaded) -> None:
    outcome = solo(dense, job("a", PROMPT, max_tokens=5))
    assert (len(outcome.tokens), outcome.finish) == (5, FinishReason.LENGTH)


def test_a_stop_id_ends_a_row_and_is_not_shown(dense: Loaded) -> None:
    free = solo(dense, job("a", PROMPT, max_tokens=10)).tokens
    at = next(at for at in range(3, 10) if free[at] not in free[:at])
    outcome = solo(dense, job("a", PROMPT, max_tokens=10, stop_ids=[free[at], 511]))
    assert (outcome.tokens, outcome.finish) == (free[:at], FinishReason.STOP)


def test_a_stop_id_as_last_token_allowed_is_a_stop(dense: Loaded) -> None:
    free = solo(dense, job("a", PROMPT, max_tokens=1)).tokens
    outcome = solo(dense, job("a", PROMPT, max_tokens=1, stop_ids=free))
    assert (outcome.tokens, outcome.finish) == ([], FinishReason.STOP)


def test_no_room_for_a_token_is_a_length_at_once(dense: Loaded) -> None:
    assert solo(dense, job("a", PROMPT, max_tokens=0)).finish is FinishReason.LENGTH


@pytest.mark.parametrize("ids", [(), (5, 512), (5, -1)])
def test_a_prompt_the_model_cannot_read_fails_alone(dense: Loaded, ids: tuple[int, ...]) -> None:
    good = job("good", PROMPT)
    outcomes = run(dense.runner(), [job("bad", ids), good])
    assert outcomes["bad"].failed is not None and isinstance(outcomes["bad"].failed.error, InvalidParameter)
    assert outcomes["good"].tokens == solo(dense, good).tokens


# --- prefill accounting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_tokens", [256, 512, 1024])
@pytest.mark.parametrize("length", [1, 2, 256, 257, 258, 513, 1500])
def test_every_prompt_token_is_counted_once(dense: Loaded, length: int, step_tokens: int) -> None:
    runner = dense.runner(prefill_step_tokens=step_tokens)
    progress = run(runner, [job("a", tiny_models.prompt_ids(length))])["a"].progress
    assert sum(one.computed_tokens for one in progress) == length == progress[-1].done_tokens
    assert all(one.total_tokens == length for one in progress)
    assert all(one.computed_tokens <= step_tokens + 1 for one in progress)  # + 1: decode's own first step
    assert all(one.done_tokens % 256 == 0 for one in progress[:-1])


def test_a_step_prefills_no_more_than_its_budget_over_all_rows(dense: Loaded) -> None:
    runner = dense.runner(prefill_step_tokens=512)
    for at in range(8):
        runner.start(job(f"r{at}", tiny_models.prompt_ids(200 + at), max_tokens=40))
    steps = []
    while len(runner._queue):
        done = [output for output in runner.step() if isinstance(output, Prefilled)]
        steps.append(len(done))
        assert sum(one.computed_tokens for one in done) <= 512 + len(done)
    assert max(steps) == 2  # short prompts share a step
    runner.close()


def test_a_short_prompt_does_not_wait_behind_a_long_one(dense: Loaded) -> None:
    runner = dense.runner(prefill_step_tokens=256)
    runner.start(job("long", tiny_models.prompt_ids(8000)))
    runner.step()
    runner.start(job("short", tiny_models.prompt_ids(100)))
    seen = [output for _ in range(2) for output in runner.step()]
    assert any(isinstance(output, Sampled) and output.job_id == "short" for output in seen)
    runner.close()


def test_decode_goes_on_while_a_long_prompt_prefills(dense: Loaded) -> None:
    runner = dense.runner(prefill_step_tokens=256)
    runner.start(job("talker", PROMPT, max_tokens=100))
    runner.step()
    runner.start(job("long", tiny_models.prompt_ids(2000)))
    for _ in range(7):
        assert [type(output) for output in runner.step()] == [Prefilled, Sampled]
    runner.close()


# --- cancel ---------------------------------------------------------------------------------------------------------


def test_cancel_in_prefill_frees_at_once(dense: Loaded) -> None:
    runner = dense.runner()
    runner.start(job("a", tiny_models.prompt_ids(5000)))
    runner.step()
    assert runner.kv_bytes > 0
    runner.cancel("a")
    assert (runner.active_jobs, runner.kv_bytes, list(runner.step())) == (0, 0, [])


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_cancel_in_decode_leaves_the_others(load: Callable[[str], Loaded], architecture: str) -> None:
    loaded = load(architecture)
    jobs = [job(f"r{at}", tiny_models.prompt_ids(50 + 10 * at), max_tokens=12) for at in range(3)]
    outcomes = run(runner := loaded.runner(), jobs, cancel_at={"r0": 4, "r2": 7})
    assert 0 < len(outcomes["r0"].tokens) < len(outcomes["r2"].tokens) < 12
    assert outcomes["r1"].tokens == solo(loaded, jobs[1]).tokens
    assert runner.kv_bytes == 0


def test_cancelled_memory_is_free_within_a_step(dense: Loaded) -> None:
    memory.release_unused()
    before = memory.read_device(0).active_bytes
    runner = dense.runner(prefill_step_tokens=4096)
    runner.start(job("keep", PROMPT, max_tokens=200))
    runner.start(job("big", tiny_models.prompt_ids(2000), max_tokens=200))
    for _ in range(4):
        runner.step()
    held = memory.read_device(0).active_bytes - before
    runner.cancel("big")
    runner.step()
    left = memory.read_device(0).active_bytes - before
    assert held > 2000 * dense.limits.kv_bytes_per_token > 4 * left
    runner.close()


def test_cancelling_the_unknown_and_the_finished_is_nothing(dense: Loaded) -> None:
    runner = dense.runner()
    runner.cancel("nobody")
    assert run(runner, [job("a", PROMPT, max_tokens=2)])["a"].finish is FinishReason.LENGTH
    runner.cancel("a")
    assert list(runner.step()) == []


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["dense", "hybrid", "sliding"])
def test_a_fault_at_any_step_of_a_lane_costs_no_row_its_answer(
    load: Callable[[str], Loaded], architecture: str
) -> None:
    """The rows are computed again from their tokens, with the draws they would have had."""
    loaded = load(architecture)
    sampling = [GREEDY, SamplingParams(seed=5), SamplingParams(temperature=0.7, top_p=0.8, seed=6)]
    jobs = [
        job(f"r{at}", tiny_models.prompt_ids(30 + at), sampling=one, max_tokens=6) for at, one in enumerate(sampling)
    ]
    expected = {one.id: solo(loaded, one).tokens for one in jobs}
    for nth in range(1, 7):
        batched = 0

        def fails(_call: int, inputs: Any, nth: int = nth) -> bool:
            nonlocal batched
            batched += inputs.shape[0] > 1
            return inputs.shape[0] > 1 and batched == nth

        outcomes = run(loaded.with_model(lambda model, fails=fails: Faulty(model, fails)), jobs)
        assert batched >= nth
        assert {name: outcome.tokens for name, outcome in outcomes.items()} == expected
        assert all(
            sum(one.computed_tokens for one in outcomes[name].progress) == 30 + at for at, name in enumerate(expected)
        )


def test_a_row_that_fails_alone_is_at_fault(dense: Loaded) -> None:
    runner = dense.with_model(lambda model: Faulty(model, lambda call, _inputs: call == 4))
    failed = run(runner, [job("a", PROMPT)])["a"].failed
    assert failed is not None and isinstance(failed.error, GenerationFailed)
    assert "private" not in failed.error.message
    assert runner.kv_bytes == 0


def test_a_row_that_breaks_every_batch_is_found(dense: Loaded) -> None:
    """Poison: any call that holds this row's token fails, in company and alone."""
    jobs = [job(f"r{at}", tiny_models.prompt_ids(40 + at), max_tokens=8) for at in range(3)]
    expected = {one.id: solo(dense, one).tokens for one in jobs}
    poison = expected["r1"][3]
    assert not any(poison in tokens for name, tokens in expected.items() if name != "r1")

    def fails(_call: int, inputs: Any) -> bool:
        return bool(inputs.shape[1] == 1 and poison in inputs[:, 0].tolist())

    poisoned = dense.with_model(lambda model: Faulty(model, fails))
    outcomes = run(poisoned, jobs)
    assert outcomes["r1"].failed is not None
    assert outcomes["r1"].tokens == expected["r1"][: len(outcomes["r1"].tokens)]
    assert outcomes["r0"].tokens == expected["r0"] and outcomes["r2"].tokens == expected["r2"]


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_fault_in_prefill_costs_that_row_only(dense: Loaded, call: int) -> None:
    jobs = [job("r0", tiny_models.prompt_ids(20)), job("r1", tiny_models.prompt_ids(600))]
    long_calls = 0

    def fails(_call: int, inputs: Any) -> bool:
        nonlocal long_calls
        long_calls += inputs.shape[1] > 50
        return bool(inputs.shape[1] > 50 and long_calls == call)

    outcomes = run(dense.with_model(lambda model: Faulty(model, fails)), jobs)
    assert outcomes["r1"].failed is not None
    assert outcomes["r0"].tokens == solo(dense, jobs[0]).tokens


def test_running_out_of_memory_is_said_so(dense: Loaded) -> None:
    error = RuntimeError("[malloc] Unable to allocate 123 bytes.")
    runner = dense.with_model(lambda model: Faulty(model, lambda call, _inputs: call == 3, error))
    failed = run(runner, [job("a", PROMPT)])["a"].failed
    assert failed is not None and isinstance(failed.error, MemoryPressure)


def test_a_sampler_that_breaks_for_one_row_fails_that_row(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.engine import sampler

    draw = sampler.draw

    def breaks(logprobs: Any, group: Any, keys: list[tuple[int, int]]) -> Any:
        if sampler.stream_key(99, 63) in keys:
            raise ValueError("cannot draw")
        return draw(logprobs, group, keys)

    jobs = [job(f"r{seed}", PROMPT, sampling=SamplingParams(seed=seed)) for seed in (97, 98, 99)]
    expected = {one.id: solo(dense, one).tokens for one in jobs}
    monkeypatch.setattr(sampler, "draw", breaks)
    outcomes = run(dense.runner(), jobs)
    assert outcomes["r99"].failed is not None
    assert outcomes["r99"].tokens == expected["r99"][: len(outcomes["r99"].tokens)]
    assert all(outcomes[name].tokens == expected[name] for name in ("r97", "r98"))


def test_a_penalty_that_breaks_fails_its_row(dense: Loaded) -> None:
    sampling = SamplingParams(temperature=0.0, repetition_penalty="x")  # type: ignore[arg-type]
    jobs = [job("bad", PROMPT, sampling=sampling), job("good", PROMPT)]
    outcomes = run(dense.runner(), jobs)
    assert outcomes["bad"].failed is not None and outcomes["bad"].tokens == []
    assert outcomes["good"].tokens == solo(dense, jobs[1]).tokens


def test_a_device_that_stops_answering_is_fatal(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = dense.with_model(lambda model: Faulty(model, lambda call, _inputs: call == 3))
    runner.start(job("a", PROMPT))
    monkeypatch.setattr(memory, "device_answers", lambda: False)
    with pytest.raises(EngineFatal):
        for _ in range(5):
            runner.step()


@pytest.mark.parametrize("operation", ["merge", "extract"])
def test_a_fault_while_rows_join_or_leave_costs_no_answer(
    dense: Loaded, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    from inference.engine import kv

    jobs = [job(f"r{at}", tiny_models.prompt_ids(30 + at), max_tokens=6 + 3 * at) for at in range(3)]
    expected = {one.id: solo(dense, one).tokens for one in jobs}
    original, calls = getattr(kv, operation), 0

    def once(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("no")
        return original(*arguments)

    monkeypatch.setattr(kv, operation, once)
    outcomes = run(dense.runner(), jobs)
    assert calls >= 1
    assert {name: outcome.tokens for name, outcome in outcomes.items()} == expected


# --- caches that cannot share a batch -------------------------------------------------------------------------------


def test_entries_that_cannot_be_merged_decode_in_lanes_of_one(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_lm.models.cache import CacheList, ChunkedKVCache, ConcatenateKVCache, KVCache, RotatingKVCache

    from inference.engine import kv, runner

    assert kv.can_batch([KVCache(), RotatingKVCache(8), CacheList(KVCache(), KVCache())])
    for entry in (ChunkedKVCache(8), RotatingKVCache(8, keep=4), CacheList(KVCache(), ConcatenateKVCache())):
        assert not kv.can_batch([KVCache(), entry])

    layers = len(dense.model.layers)
    monkeypatch.setattr(runner, "make_prompt_cache", lambda _model: [ConcatenateKVCache() for _ in range(layers)])
    jobs = [job(f"r{at}", tiny_models.prompt_ids(30 + at)) for at in range(3)]
    most_rows = 0

    def look(one: MlxRunner) -> None:
        nonlocal most_rows
        most_rows = max([most_rows, *(len(lane.rows) for lane in one._lanes)])

    outcomes = run(dense.runner(), jobs, each_step=look)
    assert most_rows == 1
    monkeypatch.undo()
    for one in jobs:
        assert outcomes[one.id].tokens == solo(dense, one).tokens


def test_close_frees_the_rows(dense: Loaded) -> None:
    runner = dense.runner()
    runner.start(job("a", tiny_models.prompt_ids(300)))
    runner.step()
    runner.close()
    assert (runner.active_jobs, runner.kv_bytes) == (0, 0)
