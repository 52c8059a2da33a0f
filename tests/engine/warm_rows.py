"""Requests played through a runner with a store, and beside it the same requests cold and what of them was necessary.

What is necessary is found by brute force: every sequence that any row has read is kept whole and compared token by
token. Nothing of the tree, its blocks or its locks is used for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import mlx.core as mx
import numpy as np

from inference.cache.limits import CacheLimits
from inference.cache.prefix_cache import PrefixCache
from inference.cache.reuse import ReuseMode
from inference.engine import kv
from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.runner import MlxRunner
from inference.engine.settings import EngineSettings
from inference.engine.store import ModelStore
from inference.params import CacheScope, SamplingParams
from inference.ports import Job, ModelLimits
from inference.tokens import Prompt, TokenIds
from tests.engine.harness import Loaded, Outcome, logprobs_seen, run

CLOSE = 1e-4
"""What rounding in float32 stays below, in log-probabilities."""
SCOPE = CacheScope(template="chat")
ROOM = CacheLimits(budget_bytes=1 << 30, snapshot_budget_bytes=1 << 30, side_budget_bytes=1 << 28)
_seeds = count(1_000_000)


def ask(
    name: str,
    ids: Iterable[int] | Prompt,
    *,
    max_tokens: int = 10,
    scope: CacheScope | None = SCOPE,
    sampling: SamplingParams | None = None,
    **fields: Any,
) -> Job:
    """A job with a seed of its own, by which its draws are told apart."""
    prompt = ids if isinstance(ids, Prompt) else Prompt(tuple(ids))
    drawn = replace(sampling or SamplingParams(temperature=0.0), seed=next(_seeds))
    return Job(name, prompt, drawn, max_tokens, cache=scope, **fields)


@dataclass(frozen=True)
class Answer:
    """What became of a job. `read` is all that its row has fed to the model; `logprobs` (draws, vocabulary)."""

    job: Job
    outcome: Outcome
    logprobs: np.ndarray

    @property
    def tokens(self) -> TokenIds:
        return tuple(self.outcome.tokens)

    @property
    def ids(self) -> TokenIds:
        """The prompt and the answer."""
        return (*self.job.prompt.ids, *self.tokens)

    @property
    def computed(self) -> int:
        """Tokens of the prompt that the model was called with."""
        return sum(one.computed_tokens for one in self.outcome.progress)

    def gap(self, other: Answer) -> float:
        """Largest difference of the two rows' log-probabilities; infinite when they drew different tokens."""
        if self.tokens != other.tokens or self.outcome.finish != other.outcome.finish:
            return float("inf")
        return float(np.abs(self.logprobs - other.logprobs).max(initial=0.0))


def play(
    runner: MlxRunner,
    jobs: Sequence[Job],
    *,
    start_at: Mapping[str, int] | None = None,
    cancel_at: Mapping[str, int] | None = None,
    each_step: Callable[[MlxRunner], None] = lambda _runner: None,
) -> dict[str, Answer]:
    """Runs jobs to their ends, with every log-probability they drew from."""
    with logprobs_seen() as seen:
        outcomes = run(runner, jobs, start_at=start_at, cancel_at=cancel_at, each_step=each_step)
    return {one.id: _answer(one, outcomes[one.id], seen) for one in jobs}


def _answer(job: Job, outcome: Outcome, seen: Mapping[int, list[np.ndarray]]) -> Answer:
    assert job.sampling.seed is not None
    drawn = seen.get(job.sampling.seed, [])[: len(outcome.tokens)]
    return Answer(job, outcome, np.stack(drawn) if drawn else np.zeros((0, 0)))


@dataclass
class WarmModel:
    """One model with a store of its own, or one store of several (`beside`)."""

    loaded: Loaded
    limits: CacheLimits = ROOM
    mode: ReuseMode = ReuseMode.TOKEN
    fingerprint: str = "weights"
    cache: PrefixCache = field(init=False)
    runner: MlxRunner = field(init=False)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.cache = PrefixCache(self.limits, lambda: self.now_s)
        self.load()

    def load(self, wrap: Callable[[Any], Any] = lambda model: model, **settings: Any) -> MlxRunner:
        """A runner in the place of the last one, on the same store."""
        self.runner = runner_on(
            self.cache, self.loaded, self.fingerprint, self.mode, EngineSettings(**settings), wrap(self.loaded.model)
        )
        return self.runner

    def play(self, *jobs: Job, **schedule: Any) -> dict[str, Answer]:
        self.now_s += 1
        answers = play(self.runner, jobs, **schedule)
        assert self.cache.check_integrity() == []
        assert self.cache.stats().leases == 0, "a row that has ended still holds its path"
        return answers

    def ask(self, job: Job) -> Answer:
        return self.play(job)[job.id]

    def cold(self, job: Job) -> Answer:
        """The same without any store."""
        alone = replace(job, cache=None, fork_of="")
        return play(self.loaded.runner(), [alone])[job.id]


def runner_on(
    cache: PrefixCache,
    loaded: Loaded,
    fingerprint: str,
    mode: ReuseMode = ReuseMode.TOKEN,
    settings: EngineSettings | None = None,
    model: Any = None,
) -> MlxRunner:
    tried = make_prompt_cache(loaded.model)
    kv.wait(tried, loaded.model(mx.array([[0]]), cache=tried))
    store = ModelStore(cache, fingerprint, fingerprint, lambda: make_prompt_cache(loaded.model), tried, mode)
    limits: ModelLimits = loaded.limits
    return MlxRunner(model or loaded.model, limits, settings or EngineSettings(), store)


@dataclass
class BruteForce:
    """Every sequence a model has read."""

    read: list[TokenIds] = field(default_factory=list)

    def necessary(self, ids: TokenIds) -> int:
        """Tokens of a prompt that must be computed; its last always is."""
        return len(ids) - min(len(ids) - 1, max((common(ids, one) for one in self.read), default=0))

    def saw(self, answer: Answer, *stop: int) -> None:
        self.read.append((*answer.ids, *stop))


def common(left: TokenIds, right: TokenIds) -> int:
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
