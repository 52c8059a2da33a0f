"""One stream decodes while four bodies of 500 KB at a time are read, rendered and tokenised.

The bodies are refused, so that none of them is prefilled, but only once their prompts are there: `--max-context-tokens`
24,000 lets 500 KB pass the early estimate (one token for 24 bytes) and is below their real count, of which the refusal
tells. No body is sent twice: encoded texts are cached. One BLAS thread leaves a core for that work, as a GPU would.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks.client import Exchange, Reply, begin, begin_bytes, chat, request_bytes
from tests.benchmarks.figure import Figure, Spread, at_least, report
from tests.benchmarks.models import benchmark_model, words
from tests.benchmarks.processes import mlxd

BODIES = 4
BODY_BYTES = 500_000
CONTEXT_TOKENS = 64_000
LEAST_TOKENS = 40_000
NUMBER = b"number 00000000 "
WINDOW_S = 3.0
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which the stream was quiet (0 bodies) or `bodies` were prepared."""

    begin_s: float
    end_s: float
    bodies: int = 0


def run() -> Iterator[Figure]:
    model = benchmark_model()
    limits = ("--max-context-tokens", str(CONTEXT_TOKENS))
    with mlxd(model, *limits, threads=1) as served:
        reply, windows = asyncio.run(alternate(served.url))
    rates = [rate(reply, window) for window in windows]
    quiet, busy = rates[::2], rates[1::2]
    # The stream grows longer meanwhile, so a busy window is held against the quiet ones on both of its sides.
    ratios = [b / ((quiet[at] + quiet[at + 1]) / 2) for at, b in enumerate(busy)]
    each_s = [(window.end_s - window.begin_s) / window.bodies for window in windows[1::2]]
    detail = f"quiet {Spread.of(quiet)} tok/s, beside {BODIES} x 500 KB {Spread.of(busy)} tok/s"
    yield at_least("large_bodies", ratios, 0.8, detail, "of quiet")
    yield report("a 500 KB body prepared", [one * 1e3 for one in each_s], "ms", "beside a stream, 4 at a time")
    gaps = [longest_gap(reply, window) * 1e3 for window in windows]
    yield report("longest gap beside 500 KB bodies", gaps[1::2], "ms", f"quiet {Spread.of(gaps[::2])} ms")


async def alternate(url: str) -> tuple[Reply, list[Window]]:
    """Quiet, busy, quiet, busy, ..., quiet."""
    requests = Requests([request_bytes(url, body(seed)) for seed in range(BODIES)])
    await wave(url, requests.fresh())  # the process that prepares large prompts is started by the first of them
    stream = await begin(url, chat(words(20), 8000))
    await stream.tokens(20)
    windows = [await quiet()]
    for _ in range(ROUNDS):
        windows += [await busy(url, requests), await quiet()]
    stream.leave()
    return Reply(stream.sent_s, tuple(stream.blocks)), windows


class Requests:
    """The same large requests again and again, each time with another number in front of the text."""

    def __init__(self, requests: list[bytes]) -> None:
        self._requests = requests
        self._number = 0

    def fresh(self) -> list[bytes]:
        self._number += 1
        return [request.replace(NUMBER, b"number %08d " % self._number, 1) for request in self._requests]


def body(seed: int) -> dict[str, object]:
    text = words(BODY_BYTES // 5, seed=seed)[: BODY_BYTES - 300]
    return chat(NUMBER.decode() + text, 1)


async def quiet() -> Window:
    begin_s = time.perf_counter()
    await asyncio.sleep(WINDOW_S)
    return Window(begin_s, time.perf_counter())


async def busy(url: str, requests: Requests) -> Window:
    """Waves of four, one after the other, for as long as a quiet window at least."""
    begin_s, waves = time.perf_counter(), 0
    while time.perf_counter() - begin_s < WINDOW_S:
        await wave(url, requests.fresh())
        waves += 1
    return Window(begin_s, time.perf_counter(), waves * BODIES)


async def wave(url: str, requests: list[bytes]) -> None:
    exchanges: list[Exchange] = [await begin_bytes(url, request) for request in requests]
    for exchange in exchanges:
        reply = await exchange.reply()
        message = json.loads(reply.body)["error"]["message"]
        counts = [int(word) for word in message.replace(",", "").replace(".", "").split() if word.isdigit()]
        assert reply.status == 400 and max(counts) > LEAST_TOKENS and "about" not in message, (reply.status, message)


def within(reply: Reply, window: Window) -> list[float]:
    return [at_s for at_s in reply.text_times_s if window.begin_s <= at_s <= window.end_s]


def rate(reply: Reply, window: Window) -> float:
    """Tokens per second; every token of this model is one piece of text."""
    return len(within(reply, window)) / (window.end_s - window.begin_s)


def longest_gap(reply: Reply, window: Window) -> float:
    times_s = within(reply, window)
    return max(later - earlier for earlier, later in itertools.pairwise(times_s))
