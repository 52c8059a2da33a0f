"""Clients that leave at random moments of queue, prefill and decode must leave nothing behind.

The engine is the real one with a tiny model, at most three rows at once, so that others wait in the queue. Two caches
grow by design until they are full, and neither is what is asked about: encoded texts (64 MB) and MLX's pool of freed
buffers (a sixteenth of the memory limit). So the prompts are few, and the limit is low enough to fill its pool soon.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx

from inference.scheduler import SchedulerSettings
from tests.benchmarks import machine
from tests.benchmarks.client import begin, chat
from tests.benchmarks.figure import Figure
from tests.benchmarks.models import words
from tests.benchmarks.processes import mlxd, module
from tests.e2e.daemon import ServedDaemon
from tests.tiny_models import build

WARM_UP, MORE = 50, 150
AT_ONCE = 6
ROUNDS = 3
LIMIT_BYTES = 1_000_000
PROMPT_WORDS = (5, 400, 1200)
MEMORY_LIMIT = ("--memory-limit-bytes", str(256 << 20))


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the daemon holds while nobody asks."""

    rss_bytes: int
    fds: int
    threads: int
    tasks: int
    rows: int
    waiting: int


def run() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made:
        model = build(Path(made) / "model", "dense")
        tasks_file = Path(made) / "tasks"
        command = module("tests.benchmarks.watched_daemon")
        with mlxd(model, "--max-batch", "3", *MEMORY_LIMIT, command=command, TASKS_FILE=str(tasks_file)) as served:
            rng, stages = Random(3), Counter[str]()
            asyncio.run(leave_often(served.url, WARM_UP, rng, stages))
            levels = [holdings(served, tasks_file)]
            for _ in range(ROUNDS):
                asyncio.run(leave_often(served.url, MORE, rng, stages))
                levels.append(holdings(served, tasks_file))
    yield verdict(levels, stages)


def verdict(levels: list[Holdings], stages: Counter[str]) -> Figure:
    """The first 150 count; the later ones tell a leak from a heap that is still finding its size."""
    first, after = levels[0], levels[1]
    grown = [later.rss_bytes - earlier.rss_bytes for earlier, later in itertools.pairwise(levels)]
    added = (after.fds - first.fds, after.tasks - first.tasks, after.rows + after.waiting)
    each = ", ".join(f"{bytes_ / 1e6:+.2f}" for bytes_ in grown)
    last = levels[-1]
    left = ", ".join(f"{count} {stage}" for stage, count in sorted(stages.items()))
    return Figure(
        "disconnects",
        f"{grown[0] / 1e6:+.2f} MB RSS, {added[0]:+d} fds, {added[1]:+d} tasks, {added[2]} rows",
        f"after {WARM_UP}, {MORE} more add < 1 MB RSS and 0 fds, tasks, rows",
        grown[0] < LIMIT_BYTES and added == (0, 0, 0),
        f"three times {MORE}: {each} MB; {last.fds - first.fds:+d} fds, {last.threads - first.threads:+d} threads, "
        f"{last.tasks - first.tasks:+d} tasks over all; left in: {left}; RSS {after.rss_bytes / 1e6:.0f} MB",
    )


async def leave_often(url: str, times: int, rng: Random, stages: Counter[str]) -> None:
    """`AT_ONCE` clients at a time; each leaves after a random part of a second or after a few tokens."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def come_and_go() -> None:
        async with gate:
            exchange = await begin(url, chat(words(rng.choice(PROMPT_WORDS)), 4000))
            if rng.random() < 0.5:
                await asyncio.sleep(rng.uniform(0, 0.6))
            else:
                await asyncio.wait([asyncio.ensure_future(exchange.tokens(rng.randrange(1, 20)))], timeout=3)
            decoding = b'"content":' in b"".join(data for _, data in exchange.blocks)
            stages["decode" if decoding else "prefill or queue"] += 1
            exchange.leave()

    await asyncio.gather(*(come_and_go() for _ in range(times)))


def holdings(served: ServedDaemon, tasks_file: Path) -> Holdings:
    """Once the daemon has been idle for long enough to have given back what it keeps for speed."""
    until_s = time.monotonic() + 40
    while (load := load_of(served)) != (0, 0) and time.monotonic() < until_s:
        time.sleep(0.1)
    time.sleep(SchedulerSettings().tidy_after_s + 2.0)
    tasks_file.unlink(missing_ok=True)
    served.process.send_signal(signal.SIGUSR1)
    while not tasks_file.exists() and time.monotonic() < until_s:
        time.sleep(0.05)
    pid = served.process.pid
    tasks = int(tasks_file.read_text())
    return Holdings(machine.rss_bytes(pid), machine.open_fds(pid), machine.threads(pid), tasks, *load)


def load_of(served: ServedDaemon) -> tuple[int, int]:
    """(running, waiting), asked on a connection that is closed again."""
    token = (served.state_dir / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Connection": "close"}
    scheduler = httpx.get(f"{served.url}/api/status", headers=headers).raise_for_status().json()["scheduler"]
    return len(scheduler["rows"]), int(scheduler["queue_depth"])
