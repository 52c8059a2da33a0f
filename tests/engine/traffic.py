"""Random traffic of many short jobs with shared prefixes, and the law that load changes no answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from inference.cache.limits import CacheLimits
from inference.params import CacheScope, SamplingParams
from inference.ports import Job
from inference.tokens import Prompt, TokenIds
from tests import tiny_models
from tests.engine.harness import Loaded, run
from tests.engine.warm_rows import WarmModel

SALTS = (b"", b"", b"", b"another client")
TIGHT = CacheLimits(
    budget_bytes=300_000,
    snapshot_budget_bytes=100_000,
    side_budget_bytes=60_000,
    ttl_s=7.0,
    max_sessions=5,
    max_entries_per_session=3,
    max_conversation_tokens=600,
)
"""Room for a few conversations only."""
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95)


class Traffic:
    """Jobs whose prompts are made of earlier prompts and answers, in whole or in part, and of something new."""

    def __init__(self, seed: int, longest_tokens: int = 420) -> None:
        self._rng = Random(seed)
        self._longest_tokens = longest_tokens
        self._said: list[TokenIds] = [tiny_models.prompt_ids(170 + 40 * at, seed=seed + at) for at in range(4)]

    def jobs(self, count: int) -> Iterator[Job]:
        for at in range(count):
            forks = 2 if self._rng.random() < 0.05 else 0
            job = self._job(f"j{at}")
            yield job
            for fork in range(forks):
                seeded = replace(job.sampling, seed=self._rng.randrange(1 << 30))
                yield replace(job, id=f"j{at}.{fork}", fork_of=job.id, sampling=seeded)

    def _job(self, name: str) -> Job:
        rng = self._rng
        said = rng.choice(self._said)
        kept = said if rng.random() < 0.5 else said[: rng.randrange(len(said))]
        new = tiny_models.prompt_ids(rng.randrange(1, 60), seed=rng.randrange(1 << 20))
        sampling = replace(
            SAMPLED if rng.random() < 0.5 else SamplingParams(temperature=0.0), seed=rng.randrange(1 << 30)
        )
        scope = CacheScope(salt=rng.choice(SALTS), one_shot=rng.random() < 0.1, session=f"s{rng.randrange(8)}")
        return Job(name, Prompt((*kept, *new)), sampling, rng.randrange(1, 25), frozenset([2, 5]), cache=scope)

    def heard(self, job: Job, tokens: TokenIds) -> None:
        """An answer: later prompts go on from it."""
        if len(job.prompt) + len(tokens) < self._longest_tokens:
            self._said[self._rng.randrange(len(self._said))] = (*job.prompt.ids, *tokens)

    def starts(self, jobs: list[Job]) -> dict[str, int]:
        """Steps; a fork starts with its origin."""
        at = {one.id: self._rng.randrange(2 * len(jobs)) for one in jobs if not one.fork_of}
        return at | {one.id: at[one.fork_of] for one in jobs if one.fork_of}

    def cancels(self, starts: dict[str, int]) -> dict[str, int]:
        """A job in ten is cancelled while it waits, prefills or decodes."""
        return {name: at + self._rng.randrange(12) for name, at in starts.items() if self._rng.random() < 0.1}


def wrong_answers(warm: WarmModel, loaded: Loaded, seed: int, waves: int, wave_jobs: int) -> tuple[int, list[str]]:
    """(answers compared, names of those that differ from what the job draws alone). Raises when a store breaks."""
    traffic, wrong, compared = Traffic(seed), list[str](), 0
    for wave in range(waves):
        jobs = list(traffic.jobs(wave_jobs))
        starts = traffic.starts(jobs)
        cancels = traffic.cancels(starts)
        warm.now_s += 1
        outcomes = run(warm.runner, jobs, start_at=starts, cancel_at=cancels)
        assert warm.cache.check_integrity() == [] and warm.cache.stats().leases == 0
        for one in jobs:
            alone = run(loaded.runner(), [replace(one, cache=None, fork_of="")])[one.id]
            drawn = outcomes[one.id].tokens
            expected = alone.tokens[: len(drawn)] if one.id in cancels else alone.tokens
            compared += 1
            if drawn != expected:
                wrong.append(f"{wave}/{one.id}")
            traffic.heard(one, tuple(alone.tokens))
    return compared, wrong
