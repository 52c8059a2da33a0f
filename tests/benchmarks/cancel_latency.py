"""From the moment a client closes its connection to the moment its row is free, as /api/status tells. No target."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx

from tests.benchmarks.client import begin, chat
from tests.benchmarks.figure import Figure, Spread, percentile
from tests.benchmarks.models import benchmark_model, words
from tests.benchmarks.processes import mlxd
from tests.e2e.daemon import ServedDaemon

TIMES = 20
LIMIT_S = 20.0


def run() -> Iterator[Figure]:
    with mlxd(benchmark_model(), threads=1) as served:
        for stage, prompt_words, tokens in (("decode", 20, 5), ("prefill", 2500, 0)):
            found = [asyncio.run(leave(served, prompt_words, tokens, seed)) for seed in range(TIMES)]
            latencies_ms, steps_ms = [one[0] * 1e3 for one in found], [one[1] * 1e3 for one in found]
            step = f", one token {Spread.of(steps_ms)} ms" if tokens else ", within a chunk of 512 tokens"
            yield Figure(
                f"cancel in {stage}",
                f"p50 {percentile(latencies_ms, 0.5):.0f} ms, p99 {percentile(latencies_ms, 0.99):.0f} ms",
                detail=f"{TIMES} times, from client close to row freed{step}",
            )


async def leave(served: ServedDaemon, prompt_words: int, tokens: int, seed: int) -> tuple[float, float]:
    """Seconds until the row was free, and seconds per token before."""
    token = (served.state_dir / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=10) as http:
        exchange = await begin(served.url, chat(words(prompt_words, seed=seed), 4000))
        while not await rows(http):
            await asyncio.sleep(0.01)
        await exchange.tokens(tokens)
        await asyncio.sleep(0.001 * (seed % 20))
        times_s = [at_s for at_s, data in exchange.blocks if b'"content":' in data]
        left_s = exchange.leave()
        while await rows(http):
            assert time.perf_counter() - left_s < LIMIT_S, "the row was not freed"
        freed_s = time.perf_counter() - left_s
    per_token_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1) if len(times_s) > 1 else 0.0
    return freed_s, per_token_s


async def rows(http: httpx.AsyncClient) -> int:
    answer = await http.get("/api/status")
    return len(answer.raise_for_status().json()["scheduler"]["rows"])
