"""Plays scenarios against a server and records, turn by turn, what it computed and what was necessary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import httpx

from mlxd.probe.client import SILENCE_S, Answered, ProbeFailed, ask
from mlxd.probe.oracle import Oracle
from mlxd.probe.scenarios import SCENARIOS, Ask, Message, Wave


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a scenario. Tokens; `prefilled` is what the server computed of `prompt`.

    Not `reported` means that the answer has no word on its cache; some servers leave it out where nothing was cached.
    """

    scenario: str
    session: str
    prompt: int
    cached: int
    reported: bool
    necessary: int
    prefilled: int
    oracle_prompt: int
    completion: int
    verdict: str
    ttft_s: float

    @property
    def warm(self) -> bool:
        """At most half of it had to be computed: the turns over which the ratio is taken."""
        return 2 * self.necessary <= self.oracle_prompt

    @property
    def hidden(self) -> int:
        """Tokens that the server took from its cache beyond anything it had read: they must be 0."""
        return max(0, self.cached - (self.prompt - self.necessary))


@dataclass(frozen=True, slots=True)
class Target:
    """A server under test. `model` is the name it is asked by."""

    base_url: str
    model: str
    max_tokens: int = 32
    api_key: str = ""


def play(target: Target, names: Sequence[str], oracle: Oracle) -> Iterator[Turn]:
    """The turns of the named scenarios, as they are answered. Raises `ProbeFailed`."""
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    with httpx.Client(
        base_url=target.base_url, headers=headers, timeout=httpx.Timeout(SILENCE_S, connect=5.0), trust_env=False
    ) as client:
        reported = False
        for name in names:
            for turn in _scenario(name, partial(ask, client, target.model, max_tokens=target.max_tokens), oracle):
                reported |= turn.reported
                yield turn
            if not reported:
                raise ProbeFailed("The server does not say how many tokens of a prompt were cached.")


def _scenario(name: str, send: Callable[[Sequence[Message]], Answered], oracle: Oracle) -> Iterator[Turn]:
    waves = SCENARIOS[name]()
    wave = next(waves)
    while True:
        with ThreadPoolExecutor(max_workers=len(wave)) as threads:
            answers = list(threads.map(lambda one: send(one.messages), wave))
        needed = _needed(wave, answers, oracle)
        for one, answer, (necessary, total) in zip(wave, answers, needed, strict=True):
            oracle.answered(one.messages, answer.message, ended=answer.ended)
            yield _turn(name, one, answer, necessary, total)
        try:
            wave = waves.send([answer.message for answer in answers])
        except StopIteration:
            return


def _needed(wave: Wave, answers: Sequence[Answered], oracle: Oracle) -> list[tuple[int, int]]:
    """What `Oracle.necessary` says of each. Who came first in a wave is seen only by what was cached for it: least."""
    came = sorted(range(len(wave)), key=lambda at: answers[at].cached_tokens or 0)
    needed = {at: oracle.necessary(wave[at].messages) for at in came}
    return [needed[at] for at in range(len(wave))]


def _turn(scenario: str, asked: Ask, answer: Answered, necessary: int, total: int) -> Turn:
    cached = answer.cached_tokens or 0
    return Turn(
        scenario=scenario,
        session=asked.session,
        prompt=answer.prompt_tokens,
        cached=cached,
        reported=answer.cached_tokens is not None,
        necessary=necessary,
        prefilled=answer.prompt_tokens - cached,
        oracle_prompt=total,
        completion=answer.completion_tokens,
        verdict=answer.verdict,
        ttft_s=answer.ttft_s,
    )
