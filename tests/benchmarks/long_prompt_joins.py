"""Seven short streams go on while a prompt of 20,000 tokens joins and prefills: how far apart do their tokens come.

A token waits for one prefill chunk of `prefill_step_tokens` at most, and "one chunk" can be read in three ways: the
first of a prompt (the cheapest), the mean of the long prompt alone, and the one at 95 % of it. Chunks grow with what
they attend to, as a line, so the third follows from the other two; it is what a p95 of gaps has to be held against.
The model has 7 million parameters, for time's sake.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks.client import Exchange, Reply, ask, begin, chat
from tests.benchmarks.figure import Figure, Spread, at_most, percentile, report
from tests.benchmarks.models import SMALL, benchmark_model, words
from tests.benchmarks.processes import mlxd

SHORT = 7
LONG_TOKENS = 20_000
STEP_TOKENS = 512
QUIET_PIECES = 40
ROUNDS = 3
ENOUGH_S = 120.0
"""No round begins after this long: on a busy machine there are fewer than three, and the figure says so."""
THREADS = 1


@dataclass(frozen=True, slots=True)
class Joined:
    """Seconds. `busy` are all gaps between tokens of the short streams while the long prompt was prefilled."""

    quiet_p95: float
    busy_p95: float
    busy_max: float
    prefill: float
    tokens: int


def run() -> Iterator[Figure]:
    model, until_s = benchmark_model(**SMALL), time.monotonic() + ENOUGH_S
    with mlxd(model, "--prefill-step-tokens", str(STEP_TOKENS), threads=THREADS) as served:
        asyncio.run(ask(served.url, chat(words(400), 8)))
        alone = asyncio.run(ask(served.url, chat(long_prompt(99), 1)))[0]
        chunk_s = alone.ttft_s / (prompt_tokens(alone) / STEP_TOKENS)
        first_s = [first_chunk_s(served.url, turn) for turn in range(ROUNDS)]
        joins = [asyncio.run(join(served.url, 0))]
        while len(joins) < ROUNDS and time.monotonic() < until_s:
            joins.append(asyncio.run(join(served.url, len(joins))))
    ratios = [one.busy_p95 / (2 * one.quiet_p95 + chunk_s) for one in joins]
    detail = (
        f"p95 busy {_ms(one.busy_p95 for one in joins)}, quiet {_ms(one.quiet_p95 for one in joins)}, longest "
        f"{_ms(one.busy_max for one in joins)}; mean chunk {chunk_s * 1e3:.0f} ms; {joins[0].tokens} prompt tokens"
    )
    yield at_most("long_prompt_joins, mean chunk", ratios, 1.0, detail, "of 2 x quiet p95 + one chunk")
    strict = [one.busy_p95 / (2 * one.quiet_p95 + first) for one, first in zip(joins, first_s, strict=False)]
    yield at_most("long_prompt_joins, first chunk", strict, 1.0, f"first chunk {_ms(first_s)}", "of the same")
    late_s = [first + 0.95 * 2 * (chunk_s - first) for first in first_s]
    late = [one.busy_p95 / (2 * one.quiet_p95 + chunk) for one, chunk in zip(joins, late_s, strict=False)]
    yield at_most("long_prompt_joins, chunk at 95 %", late, 1.0, f"that chunk {_ms(late_s)}", "of the same")
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
