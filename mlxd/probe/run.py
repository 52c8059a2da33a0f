"""Plays scenarios against a server and records, turn by turn, what it computed and what was necessary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from mlxd.probe import forced
from mlxd.probe.asks import Ask, Play, Wave
from mlxd.probe.client import SILENCE_S, Answered, ProbeFailed, ask
from mlxd.probe.oracle import Needed, Oracle
from mlxd.probe.scenarios import SCENARIOS


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a scenario. Tokens; `prefilled` is what the server computed of `prompt`.

    Not `reported` means that the answer has no word on its cache; some servers leave it out where nothing was cached.
    `reread_thoughts` and `reread_tools` are of the necessary ones, `bound` says that volatile text was not counted
    twice, and who computes fewer than `floor` has not read what was sent (see `oracle.Needed`). `foreign` counts
    answers in the request that are not this server's; not `obeyed`, it answered something else than it was asked to.
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
    reread_thoughts: int = 0
    reread_tools: int = 0
    bound: bool = False
    foreign: int = 0
    obeyed: bool = True
    floor: int | None = None

    @property
    def warm(self) -> bool:
        """At most half of it had to be computed: the turns over which the ratio is taken."""
        return 2 * self.necessary <= self.oracle_prompt

    @property
    def hidden(self) -> int:
        """Tokens that the server took from its cache beyond anything it had read: they must be 0."""
        least = self.necessary if self.floor is None else self.floor
        return max(0, self.cached - (self.prompt - least))


@dataclass(frozen=True, slots=True)
class Target:
    """A server under test. `model` is the name it is asked by.

    `salt` parts this run from everything that was computed before, on servers that know vLLM's `cache_salt`.
    """

    base_url: str
    model: str
    max_tokens: int = 32
    api_key: str = ""
    salt: str = ""


def play(target: Target, names: Sequence[str], oracle: Oracle) -> Iterator[Turn]:
    """The turns of the named scenarios, as they are answered. Raises `ProbeFailed`."""
    return play_all(target, {name: SCENARIOS[name] for name in names}, oracle)


def play_all(target: Target, plays: Mapping[str, Callable[[], Play]], oracle: Oracle) -> Iterator[Turn]:
    """The turns of scenarios by name, as they are answered. Raises `ProbeFailed`."""
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    with httpx.Client(
        base_url=target.base_url, headers=headers, timeout=httpx.Timeout(SILENCE_S, connect=5.0), trust_env=False
    ) as client:
        reported = False
        for name, begin in plays.items():
            for turn in _scenario(name, begin(), partial(_send, client, target, oracle), oracle):
                reported |= turn.reported
                yield turn
            if not reported:
                raise ProbeFailed("The server does not say how many tokens of a prompt were cached.")


def _send(client: httpx.Client, target: Target, oracle: Oracle, one: Ask) -> Answered:
    fields: dict[str, Any] = {**one.fields, **forced.fields(oracle.text, one.say, target.max_tokens)}
    max_tokens = fields.pop("max_tokens", target.max_tokens)
    fields |= {"cache_salt": target.salt} if target.salt else {}
    return ask(client, target.model, one.messages, max_tokens, fields)


def _scenario(name: str, waves: Play, send: Callable[[Ask], Answered], oracle: Oracle) -> Iterator[Turn]:
    wave = next(waves, ())
    while wave:
        with ThreadPoolExecutor(max_workers=len(wave)) as threads:
            answers = list(threads.map(send, wave))
        needed = _needed(wave, answers, oracle)
        for one, answer, least in zip(wave, answers, needed, strict=True):
            said_tokens = answer.completion_tokens - answer.reasoning_tokens
            oracle.answered(one, answer.message, ended=answer.ended, said_tokens=said_tokens)
            yield _turn(name, one, answer, least)
        try:
            wave = waves.send([answer.message for answer in answers])
        except StopIteration:
            return


def _needed(wave: Wave, answers: Sequence[Answered], oracle: Oracle) -> list[Needed]:
    """What `Oracle.necessary` says of each. Who came first in a wave is seen only by what was cached for it: least."""
    came = sorted(range(len(wave)), key=lambda at: answers[at].cached_tokens or 0)
    needed = {at: oracle.necessary(wave[at]) for at in came}
    return [needed[at] for at in range(len(wave))]


def _turn(scenario: str, asked: Ask, answer: Answered, needed: Needed) -> Turn:
    cached = answer.cached_tokens or 0
    return Turn(
        scenario=scenario,
        session=asked.session,
        prompt=answer.prompt_tokens,
        cached=cached,
        reported=answer.cached_tokens is not None,
        necessary=needed.tokens,
        prefilled=answer.prompt_tokens - cached,
        oracle_prompt=needed.total,
        completion=answer.completion_tokens,
        verdict=answer.verdict,
        ttft_s=answer.ttft_s,
        reread_thoughts=needed.reread_thoughts,
        reread_tools=needed.reread_tools,
        bound=needed.bound,
        floor=needed.floor,
        foreign=asked.foreign,
        obeyed=asked.say is None or forced.obeyed(asked.say, answer.message),
    )
