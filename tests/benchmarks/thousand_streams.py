"""A thousand streams at once, one token each every five seconds: held, complete and in order.

Daemon, transport, consumer, mailboxes, scheduler and sockets are the real ones, only the model is scripted. What each
stream must say follows from its seed, so a token that is lost, repeated or given to a neighbour shows.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import machine
from tests.benchmarks.client import Exchange, Reply, begin, chat
from tests.benchmarks.figure import Figure, percentile
from tests.benchmarks.paced_daemon import told
from tests.benchmarks.processes import mlxd, module
from tests.tiny_models import build

STREAMS = 1000
TOKENS = 8
PACE_S = 5.0
FILES = 8192
LIMITS = (
    "--max-batch",
    "1000",
    "--queue-size",
    "1000",
    "--max-connections",
    "2000",
    "--max-connections-per-address",
    "2000",
)


def run() -> Iterator[Figure]:
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made:
        model = build(Path(made) / "model", "dense")
        letters = letter_ids(model)
        pace = json.dumps({"pace_s": PACE_S, "ids": list(letters)})
        daemon = module("tests.benchmarks.paced_daemon")
        with mlxd(model, *LIMITS, command=daemon, PACE=pace) as served:
            pid = served.process.pid
            asyncio.run(hold(served.url, 50))  # what the first requests allocate stays
            before_bytes, before_cpu_s = machine.rss_bytes(pid), machine.cpu_s(pid)
            probe = subprocess.Popen(
                [*module("tests.benchmarks.health_probe"), served.url, str(PACE_S * (TOKENS - 1))],
                stdout=subprocess.PIPE,
                text=True,
                env=machine.environment(1),
            )
            began_s = time.perf_counter()
            replies, held_bytes = asyncio.run(hold(served.url, STREAMS, pid))
            wall_s = time.perf_counter() - began_s
            cpu_s = machine.cpu_s(pid) - before_cpu_s
            latencies_ms = json.loads(probe.communicate(timeout=60)[0])
    whole = [complete(reply, letters, seed) for seed, reply in enumerate(replies)]
    spans_s = [reply.text_times_s[-1] - reply.text_times_s[0] for reply in replies if reply.text_times_s]
    bursts_ms = [burst * 1e3 for burst in spreads(replies)]
    refused = sum(reply.status != 200 for reply in replies)
    yield Figure(
        "thousand_streams",
        f"{sum(whole)} of {STREAMS} complete and in order, {refused} refused",
        "0 lost, 0 reordered",
        all(whole) and len(whole) == STREAMS,
        f"held {min(spans_s):.0f} to {max(spans_s):.0f} s, all over after {wall_s:.0f} s; a token of all 1,000 reaches "
        f"its clients within {max(bursts_ms):.0f} ms; CPU {cpu_s / (STREAMS * TOKENS) * 1e3:.2f} ms per token",
    )
    yield Figure(
        "health beside 1,000 streams",
        f"p50 {percentile(latencies_ms, 0.5):.1f} ms, p99 {percentile(latencies_ms, 0.99):.1f} ms, "
        f"longest {max(latencies_ms):.1f} ms ({len(latencies_ms)} probes)",
    )
    yield Figure("RSS per stream", f"{(held_bytes - before_bytes) / STREAMS / 1024:.1f} KiB")


def raise_file_limit() -> None:
    """Here and in the children."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def letter_ids(model: Path) -> dict[int, str]:
    """Tokens of one lower-case letter, so that what a stream says can be foretold without a tokenizer."""
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    return {token: text for text, token in vocabulary.items() if len(text) == 1 and text.isascii() and text.islower()}


async def hold(url: str, streams: int, pid: int = 0) -> tuple[list[Reply], int]:
    """Opens all, in hundreds; the answers, and the daemon's RSS when all were running."""
    exchanges: list[Exchange] = []
    for first in range(0, streams, 100):
        bodies = [chat("hold on", TOKENS, seed=seed) for seed in range(first, min(first + 100, streams))]
        exchanges += await asyncio.gather(*(begin(url, body) for body in bodies))
    await asyncio.gather(*(exchange.tokens(4) for exchange in exchanges))
    held_bytes = machine.rss_bytes(pid) if pid else 0
    return [await exchange.reply() for exchange in exchanges], held_bytes


def complete(reply: Reply, letters: dict[int, str], seed: int) -> bool:
    """Whether a stream said all it had to, in order, and ended as it should."""
    ids = list(letters)
    wanted = "".join(letters[told(ids, seed, position)] for position in range(TOKENS))
    return reply.status == 200 and reply.done and reply.text == wanted and reply.completion_tokens == TOKENS


def spreads(replies: list[Reply]) -> Iterator[float]:
    """For each beat in which all streams got a token: seconds from the first client that had it to the last."""
    times_s = [reply.text_times_s for reply in replies if len(reply.text_times_s) == TOKENS]
    everything = sorted(at_s for one in times_s for at_s in one)
    start = 0
    for at in range(1, len(everything) + 1):
        if at == len(everything) or everything[at] - everything[at - 1] > PACE_S / 2:
            yield everything[at - 1] - everything[start]
            start = at
