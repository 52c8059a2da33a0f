"""Eight requests at once, to mlxd and to mlx_lm.server in turn, and one alone to mlxd: what batching gives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks import machine
from tests.benchmarks.client import ask, chat
from tests.benchmarks.figure import Figure, Spread, at_least, report
from tests.benchmarks.models import benchmark_model, words
from tests.benchmarks.processes import Peer, mlx_lm_server, mlxd

STREAMS = 8
TOKENS = 64
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Taken:
    """Tokens per second of all streams together, prefill included, and processor milliseconds per token."""

    tps: float
    cpu_ms: float


def run() -> Iterator[Figure]:
    for threads in (1, 2):
        yield from measure(threads)


def measure(threads: int) -> Iterator[Figure]:
    model = benchmark_model()
    ours, alone, theirs = [], [], []
    with mlxd(model, threads=threads) as served, mlx_lm_server(model, threads=threads) as peer:
        for turn in range(-1, ROUNDS):  # the first one warms up
            found = (
                take(served.url, served.process.pid, STREAMS, turn),
                take(served.url, served.process.pid, 1, turn),
                take(peer.url, peer.pid, STREAMS, turn) if isinstance(peer, Peer) else None,
            )
            if turn >= 0:
                ours.append(found[0])
                alone.append(found[1])
                theirs.append(found[2])
    label = f"({threads} BLAS thread{'s' * (threads > 1)})"
    peers = [one for one in theirs if one is not None]
    if not peers:
        yield Figure(f"eight_streams vs mlx_lm.server {label}", not_run=str(peer))
    else:
        ratios = [mine.tps / other.tps for mine, other in zip(ours, peers, strict=True)]
        detail = f"mlxd {Spread.of(o.tps for o in ours)} tok/s, mlx_lm.server {Spread.of(p.tps for p in peers)} tok/s"
        yield at_least(f"eight_streams vs mlx_lm.server {label}", ratios, 1.0, detail)
        cpu = f"mlx_lm.server {Spread.of(p.cpu_ms for p in peers)} ms"
        yield report(f"CPU per token, 8 streams {label}", [o.cpu_ms for o in ours], "ms", cpu)
    gains = [many.tps / one.tps for many, one in zip(ours, alone, strict=True)]
    yield at_least(f"eight_streams vs one {label}", gains, 2.0, f"one {Spread.of(o.tps for o in alone)} tok/s")


def take(url: str, pid: int, streams: int, turn: int) -> Taken:
    """Different prompts each time: no server may answer from what it computed before."""
    bodies = [chat(words(40, seed=1000 * turn + 10 * streams + stream), TOKENS) for stream in range(streams)]
    before_s = machine.cpu_s(pid)
    replies = asyncio.run(ask(url, *bodies))
    used_s = machine.cpu_s(pid) - before_s
    tokens = sum(reply.completion_tokens for reply in replies)
    assert tokens == streams * TOKENS, "an answer ended early"
    wall_s = max(reply.blocks[-1][0] for reply in replies) - min(reply.sent_s for reply in replies)
    return Taken(tokens / wall_s, used_s / tokens * 1e3)
