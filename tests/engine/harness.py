"""Drives a runner to the end of its jobs and compares what it computed with a plain forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.runner import MlxRunner
from inference.engine.sampler import LaneSampler, RowSampling
from inference.engine.settings import EngineSettings
from inference.events import FinishReason, TokenLogprob
from inference.params import SamplingParams
from inference.ports import Job, ModelLimits, Prefilled, RowFailed, Sampled, StepOutput
from inference.tokens import Prompt

GREEDY = SamplingParams(temperature=0.0)
MOST_STEPS = 2000


@dataclass
class Outcome:
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    failed: RowFailed | None = None
    progress: list[Prefilled] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def note(self, output: StepOutput) -> None:
        assert self.finish is None and self.failed is None, "nothing may follow a row's end"
        match output:
            case Prefilled():
                self.progress.append(output)
            case Sampled(tokens=tokens, finish=finish, logprobs=logprobs):
                assert len(logprobs) in (0, len(tokens))
                self.tokens += tokens
                self.logprobs += logprobs
                self.finish = finish
            case RowFailed():
                self.failed = output


def job(
    name: str,
    ids: Iterable[int],
    *,
    sampling: SamplingParams = GREEDY,
    max_tokens: int = 8,
    stop_ids: Iterable[int] = (),
) -> Job:
    return Job(name, Prompt(tuple(ids)), sampling, max_tokens, frozenset(stop_ids))


@dataclass(frozen=True)
class Loaded:
    """A loaded tiny model; runners over it are cheap."""

    model: Any
    limits: ModelLimits

    def runner(self, **settings: Any) -> MlxRunner:
        return MlxRunner(self.model, self.limits, EngineSettings(**settings))

    def with_model(self, wrap: Callable[[Any], Any], **settings: Any) -> MlxRunner:
        return MlxRunner(wrap(self.model), self.limits, EngineSettings(**settings))


def run(
    runner: MlxRunner,
    jobs: Iterable[Job],
    *,
    start_at: Mapping[str, int] | None = None,
    cancel_at: Mapping[str, int] | None = None,
    each_step: Callable[[MlxRunner], None] = lambda _runner: None,
) -> dict[str, Outcome]:
    """Starts (and cancels) jobs at given steps and steps until all have ended."""
    starts, cancels = dict(start_at or {}), dict(cancel_at or {})
    waiting = sorted(jobs, key=lambda one: starts.get(one.id, 0))
    outcomes = {one.id: Outcome() for one in waiting}
    for step in range(MOST_STEPS):
        while waiting and starts.get(waiting[0].id, 0) <= step:
            runner.start(waiting.pop(0))
        for name in [name for name, at in cancels.items() if at == step]:
            runner.cancel(name)
        if not waiting and not runner.active_jobs:
            return outcomes
        for output in runner.step():
            outcomes[output.job_id].note(output)
        each_step(runner)
    raise AssertionError("the runner did not finish its jobs")


class Faulty:
    """A model that raises at chosen calls: `fails(number of the call, its inputs)`."""

    def __init__(self, model: Any, fails: Callable[[int, Any], bool], error: Exception | None = None) -> None:
        self._model, self._fails, self._calls = model, fails, 0
        self._error = error or RuntimeError("private text of the prompt")

    def __call__(self, inputs: Any, cache: Any) -> Any:
        self._calls += 1
        if self._fails(self._calls, inputs):
            raise self._error
        return self._model(inputs, cache=cache)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def solo(loaded: Loaded, one: Job) -> Outcome:
    return run(loaded.runner(), [one])[one.id]


@contextmanager
def logprobs_seen() -> Iterator[dict[int, list[np.ndarray]]]:
    """Collects what every sampler was given: {seed of the row: log-probabilities of that, one array per draw}."""
    seen: dict[int, list[np.ndarray]] = {}
    original = LaneSampler.__call__

    def spy(self: LaneSampler, logits: Any) -> Any:
        logprobs = normalised(logits)
        for at, row in enumerate(self._rows):
            seen.setdefault(row.seed, []).append(logprobs[at])
        return original(self, logits)

    LaneSampler.__call__ = spy  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        LaneSampler.__call__ = original  # type: ignore[method-assign]


def normalised(logits: Any) -> np.ndarray:
    logits = logits.astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def plain_logprobs(model: Any, ids: Iterable[int]) -> np.ndarray:
    """Log-probabilities after each of `ids`, from one forward pass over all of them."""
    return normalised(model(mx.array(list(ids))[None], cache=make_prompt_cache(model))[0])


def teacher_forced_gap(loaded: Loaded, one: Job, runner: MlxRunner | None = None) -> float:
    """Largest difference between a row's log-probabilities as it ran and those of a plain pass over its text."""
    seeded = Job(one.id, one.prompt, SamplingParams(temperature=0.0, seed=424_242), one.max_tokens, one.stop_ids)
    with logprobs_seen() as seen:
        outcome = run(runner or loaded.runner(), [seeded])[one.id]
    assert outcome.failed is None
    drawn = seen[424_242][: len(outcome.tokens)]
    expected = plain_logprobs(loaded.model, (*one.prompt.ids, *outcome.tokens))[len(one.prompt) - 1 : -1]
    return float(np.abs(np.stack(drawn) - expected).max())


def sampling_rows(*params: SamplingParams) -> list[RowSampling]:
    return [RowSampling(one, position=0) for one in params]
