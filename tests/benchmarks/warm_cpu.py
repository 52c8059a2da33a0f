"""Processor time of a warm turn against a cold one, in mlxd and in mlx_lm.server in turn.

A round is a conversation that neither server knows: its long first turn is the cold one, a short second turn on top
of it the warm one. Both servers answer the same, one right behind the other, and who begins alternates (ABBA), so that
what slows the machine down for a while slows both. Lengths differ from round to round, for what a turn costs depends
on where its tokens fall on mlxd's grid. All write the same number of tokens.

The model has 34 million parameters: on one of a fifth of that size a tenth of a warm turn is what surrounds the model,
on those that people serve next to nothing. It has as many KV heads as heads, else MLX's attention copies KV on a CPU.

A round's ratio differs by 10 to 15 % from the next one's on a machine that does nothing else. So the median is told
with the interval that holds the true one 94 times in 100, whatever the noise is like (binomial order statistics).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

import psutil

from tests.benchmarks import machine
from tests.benchmarks.client import ask
from tests.benchmarks.figure import Figure, Spread, at_most, report
from tests.benchmarks.models import benchmark_model, words
from tests.benchmarks.processes import Peer, mlx_lm_server, mlxd

ROUNDS: Final = 100
FIRST_WORDS: Final = 460
LONGER_WORDS: Final = 41
"""Each first turn has so many words more than the one before, until it begins anew after `LENGTHS`."""
LENGTHS: Final = 6
TURN_WORDS: Final = 60
ANSWER_TOKENS: Final = 8
ANSWER: Final = "The file is read and closed."
"""What the history says the model answered: the same for both servers, whatever they really wrote."""
SETTLE_S: Final = 0.1
"""What a server does behind its last frame is counted too."""

type Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU milliseconds of one round's turns."""

    cold_ms: float
    warm_ms: float

    @property
    def share(self) -> float:
        return self.warm_ms / self.cold_ms


def run() -> Iterator[Figure]:
    """With one BLAS thread: idle ones spin, and their processor time is nobody's work."""
    model = benchmark_model(num_key_value_heads=4)
    with ExitStack() as stack:
        served = stack.enter_context(mlxd(model, threads=1))
        peer = stack.enter_context(mlx_lm_server(model, threads=1))
        servers = [Server(served.url, served.process.pid)]
        servers += [Server(peer.url, peer.pid)] if isinstance(peer, Peer) else []
        rounds = [played(servers, at) for at in range(-1, ROUNDS)][1:]  # the first one warms up
    ours, theirs = [mine[0] for mine in rounds], [both[-1] for both in rounds]
    if isinstance(peer, str):
        yield report("warm turn / cold turn, CPU", [one.share for one in ours], "x", told("mlxd", ours))
        yield Figure("the same of mlx_lm.server", not_run=peer)
        return
    pairs = list(zip(ours, theirs, strict=True))
    detail = f"{told('mlxd', ours)}; {told('mlx_lm.server', theirs)}"
    ratios = [mine.share / other.share for mine, other in pairs]
    yield at_most("warm / cold CPU vs mlx_lm.server", ratios, 1.0, f"{middle(ratios)}; {detail}")
    for name, ratios in (
        ("warm CPU vs mlx_lm.server", [mine.warm_ms / other.warm_ms for mine, other in pairs]),
        ("cold CPU vs mlx_lm.server", [mine.cold_ms / other.cold_ms for mine, other in pairs]),
    ):
        yield report(name, ratios, "x", middle(ratios))


def told(name: str, spent: Sequence[Spent]) -> str:
    warm, cold = Spread.of(one.warm_ms for one in spent), Spread.of(one.cold_ms for one in spent)
    return f"{name} warm {warm} ms, cold {cold} ms"


def middle(ratios: Sequence[float]) -> str:
    """Where the median is to be looked for, 94 times in 100."""
    ordered = sorted(ratios)
    aside = max(0, int(len(ordered) / 2 - 0.98 * len(ordered) ** 0.5))
    return f"median within {ordered[aside]:.3f} to {ordered[-1 - aside]:.3f}"


def played(servers: Sequence[Server], at: int) -> list[Spent]:
    """One round; in the order of `servers`, whoever began."""
    first_words = FIRST_WORDS + LONGER_WORDS * (at % LENGTHS)
    opening = [spoken("system", f"{at}", first_words), spoken("user", f"{at} first", TURN_WORDS)]
    second = [*opening, {"role": "assistant", "content": ANSWER}, spoken("user", f"{at} second", TURN_WORDS)]
    order = list(range(len(servers)))[:: 1 if at % 2 else -1]
    cold_ms = {place: spent_ms(servers[place], opening) for place in order}
    warm_ms = {place: spent_ms(servers[place], second) for place in reversed(order)}
    return [Spent(cold_ms[place], warm_ms[place]) for place in range(len(servers))]


def spoken(role: str, seed: str, count: int) -> Message:
    """A message of so many words, others for each seed."""
    return {"role": role, "content": words(count, seed=crc32(seed.encode()))}


def spent_ms(server: Server, messages: list[Message]) -> float:
    before_s = family_cpu_s(server.pid)
    body: dict[str, Any] = {
        "messages": messages,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    (reply,) = asyncio.run(ask(server.url, body))
    assert reply.completion_tokens == ANSWER_TOKENS, "an answer ended early"
    time.sleep(SETTLE_S)
    return (family_cpu_s(server.pid) - before_s) * 1e3


def family_cpu_s(pid: int) -> float:
    """The server and the processes it keeps: mlxd prepares large bodies in one."""
    children = psutil.Process(pid).children(recursive=True)
    return machine.cpu_s(pid) + sum(machine.cpu_s(child.pid) for child in children)
