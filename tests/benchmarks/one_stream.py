"""One stream through the daemon against the same tokens from a bare loop: what all of mlxd costs per token."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.benchmarks import machine
from tests.benchmarks.client import Reply, ask, chat
from tests.benchmarks.figure import Figure, Spread, at_most, report
from tests.benchmarks.models import benchmark_model, words
from tests.benchmarks.processes import BareLoop, mlxd

TOKENS = 128
PAIRS = 5
LIMIT = 1.05


def run() -> Iterator[Figure]:
    for threads in (1, 2):
        yield from measure(threads)


def measure(threads: int) -> Iterator[Figure]:
    model = benchmark_model()
    ratios, bare_s, ours_s, ttft_s, cpu_s = [], [], [], [], []
    with BareLoop(model, threads=threads) as bare, mlxd(model, threads=threads) as served:
        for pair in range(-1, PAIRS):  # the first one warms up
            content = words(40, seed=pair)
            theirs = bare.run(content, TOKENS)
            before_s = machine.cpu_s(served.process.pid)
            reply = one(served.url, content)
            used_s = machine.cpu_s(served.process.pid) - before_s
            assert reply.completion_tokens == theirs["tokens"] == TOKENS
            if pair < 0:
                continue
            ratios.append(reply.token_s / theirs["token_s"])
            bare_s.append(theirs["token_s"] * 1e3)
            ours_s.append(reply.token_s * 1e3)
            ttft_s.append(reply.ttft_s * 1e3)
            cpu_s.append(used_s / TOKENS * 1e3)
    name = f"one_stream ({threads} BLAS thread{'s' * (threads > 1)})"
    detail = f"per token: bare {Spread.of(bare_s)} ms, mlxd {Spread.of(ours_s)} ms"
    yield at_most(name, ratios, LIMIT, detail)
    if threads == 1:
        yield report("ttft of a short prompt", ttft_s, "ms", "45 tokens, alone, from send to first text")
        yield report("mlxd CPU per token, one stream", cpu_s, "ms", "all threads, model included")


def one(url: str, content: str) -> Reply:
    return asyncio.run(ask(url, chat(content, TOKENS)))[0]
