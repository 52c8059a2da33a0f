"""Seven short streams go on while a prompt of 20,000 tokens joins and prefills: how far apart do their tokens come.

The share of a prefill chunk that a stream has to wait for is `prefill_step_tokens`. A chunk's time is measured in the
same run, twice: the mean chunk of the same long prompt alone (the one that counts: late chunks attend to more), and
the first chunk of a prompt, which is the cheapest there is.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks.client import Exchange, Reply, ask, begin, chat
from tests.benchmarks.figure import Figure, Spread, at_most, percentile, report
from tests.benchmarks.models import benchmark_model, words
from tests.benchmarks.processes import mlxd

SHORT = 7
LONG_TOKENS = 20_000
STEP_TOKENS = 512
QUIET_PIECES = 60
ROUNDS = 3
THREADS = 2


@dataclass(frozen=True, slots=True)
class Joined:
    """Seconds. `busy` are all gaps between tokens of the short streams while the long prompt was prefilled."""

    quiet_p95: float
    busy_p95: float
    busy_max: float
    prefill: float
    tokens: int


def run() -> Iterator[Figure]:
    model = benchmark_model()
    with mlxd(model, "--prefill-step-tokens", str(STEP_TOKENS), threads=THREADS) as served:
        asyncio.run(ask(served.url, chat(words(400), 8)))
        alone = asyncio.run(ask(served.url, chat(long_prompt(99), 1)))[0]
        chunk_s = alone.ttft_s / (prompt_tokens(alone) / STEP_TOKENS)
        first_s = [first_chunk_s(served.url, turn) for turn in range(ROUNDS)]
        joins = [asyncio.run(join(served.url, turn)) for turn in range(ROUNDS)]
    ratios = [one.busy_p95 / (2 * one.quiet_p95 + chunk_s) for one in joins]
    detail = (
        f"p95 busy {_ms(one.busy_p95 for one in joins)}, quiet {_ms(one.quiet_p95 for one in joins)}, longest "
        f"{_ms(one.busy_max for one in joins)}; mean chunk {chunk_s * 1e3:.0f} ms; {joins[0].tokens} prompt tokens"
    )
    yield at_most("long_prompt_joins, mean chunk", ratios, 1.0, detail, "of 2 x quiet p95 + one chunk")
    strict = [one.busy_p95 / (2 * one.quiet_p95 + first) for one, first in zip(joins, first_s, strict=True)]
    yield at_most("long_prompt_joins, first chunk", strict, 1.0, f"first chunk {_ms(first_s)}", "of the same")
    slower = [one.prefill / alone.ttft_s for one in joins]
    yield report("long prompt's TTFT beside 7", slower, "x alone", f"alone {alone.ttft_s:.1f} s")


def _ms(values: Iterator[float] | list[float]) -> str:
    return f"{Spread.of(value * 1e3 for value in values)} ms"


def long_prompt(seed: int) -> str:
    return words(int(LONG_TOKENS * 0.985), seed=seed)


def prompt_tokens(reply: Reply) -> int:
    told: int = next(chunk["usage"]["prompt_tokens"] for _, chunk in reply.chunks if chunk.get("usage"))
    return told


def first_chunk_s(url: str, turn: int) -> float:
    """A prompt one chunk longer than another takes one chunk longer."""
    small, large = (asyncio.run(ask(url, chat(words(size, seed=turn), 1)))[0] for size in (8, 8 + STEP_TOKENS))
    return (large.ttft_s - small.ttft_s) * STEP_TOKENS / (prompt_tokens(large) - prompt_tokens(small))


async def join(url: str, turn: int) -> Joined:
    shorts = [await begin(url, chat(words(20, seed=10 * turn + at), 4000)) for at in range(SHORT)]
    for exchange in shorts:
        await exchange.tokens(QUIET_PIECES)
    joined = await begin(url, chat(long_prompt(turn), 1))
    long = await joined.reply()
    assert long.status == 200 and long.done, long.body[:500]
    for exchange in shorts:
        exchange.leave()
    return summed(shorts, long)


def summed(shorts: list[Exchange], long: Reply) -> Joined:
    """Gaps that end before the long prompt came are quiet, those that begin before its first token are busy."""
    replies = [Reply(exchange.sent_s, tuple(exchange.blocks)) for exchange in shorts]
    settled_s = max(reply.text_times_s[0] for reply in replies)
    times_s = [reply.text_times_s for reply in replies]
    pairs = [(a, b) for one in times_s for a, b in itertools.pairwise(one) if a >= settled_s]
    quiet = [b - a for a, b in pairs if b <= long.sent_s]
    busy = [b - a for a, b in pairs if b > long.sent_s and a < long.text_times_s[0]]
    return Joined(percentile(quiet, 0.95), percentile(busy, 0.95), max(busy), long.ttft_s, prompt_tokens(long))
