"""What the disk's tier costs and gives: a start beside 100,000 files, reading against computing, writing in decode."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from inference.cache.blocks import Root
from inference.cache.disk_index import DiskEntry
from inference.cache.disk_place import path_of
from inference.engine.disk import disk_store
from inference.engine.settings import DiskSettings
from tests.benchmarks import machine
from tests.benchmarks.client import Reply, ask, chat
from tests.benchmarks.figure import Figure, Spread, at_least, at_most, percentile, report
from tests.benchmarks.models import SMALL, benchmark_model, words
from tests.benchmarks.processes import module
from tests.disk_shelf import chain
from tests.e2e.daemon import ServedDaemon

FILES: Final = 100_000
BLOCKS: Final = 50
"""Of a conversation."""
SCANS: Final = 3
STARTS: Final = 4
START_S: Final = 1.0
LOADS: Final = 3
PROMPT_WORDS: Final = 2800
LOAD: Final = 5.0
ROUNDS: Final = 4
STREAMS: Final = 4
TOKENS: Final = 216
"""With a prompt of 45 just beyond a block, which is written while the answer ends."""
COST: Final = 3.0


def run() -> Iterator[Figure]:
    yield from starts()
    yield from loads()
    yield from writing()


# --- the start --------------------------------------------------------------------------------------------------------


def starts() -> Iterator[Figure]:
    """Until requests are answered, of processes with and without what an earlier one left.

    By the clock, and by processor time, which other work on the machine disturbs less.
    """
    model = benchmark_model(**SMALL)
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made:
        empty, full = Path(made) / "empty", Path(made) / "full"
        fill(full / "prefixes")
        scan_s = [opened_s(full / "prefixes") for _ in range(SCANS)]
        more_s, more_cpu_s, empty_s = [], [], []
        for turn in range(-1, STARTS):  # the first one warms up
            took = {state: ready(model, state) for state in (empty, full)[:: 1 - 2 * (turn % 2)]}
            if turn >= 0:
                more_s.append(took[full][0] - took[empty][0])
                more_cpu_s.append(took[full][1] - took[empty][1])
                empty_s.append(took[empty][0])
    yield at_most(f"start beside {FILES:,} files, more", more_s, START_S, f"empty {Spread.of(empty_s)} s", "s")
    yield report("the same in processor time", more_cpu_s, "s", "of all threads until requests are answered")
    yield report("their scan, on the disk's thread", scan_s, "s", "its processor time; no file is opened")


def fill(directory: Path) -> None:
    """Names as a store gives them; what is in a file is of no account to a start."""
    for conversation in range(FILES // BLOCKS):
        root = Root("model", f"weights of {conversation % 4}")
        ids = range(conversation * 100_000, conversation * 100_000 + BLOCKS * 256)
        for label in chain(tuple(ids), root):
            path = path_of(directory, DiskEntry.of(label, 1))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    directory.parent.chmod(0o700)


def ready(model: Path, state: Path) -> tuple[float, float]:
    """(seconds, processor seconds) until requests are answered."""
    began_s = time.perf_counter()
    with ServedDaemon(state, ["--model", str(model)], environment=machine.blas(1)) as served:
        served.wait_ready()
        return time.perf_counter() - began_s, machine.cpu_s(served.process.pid)


def opened_s(directory: Path) -> float:
    """Processor seconds."""
    store = disk_store(DiskSettings(directory, 1 << 40))
    began_s = time.thread_time()
    store.open()
    assert len(store.index) == FILES
    return time.thread_time() - began_s


# --- reading ----------------------------------------------------------------------------------------------------------


def loads() -> Iterator[Figure]:
    """The first text of a prompt that no process has seen, and of the same with a new end in the next process.

    The files are not in the system's cache then. Each pair is of a text of its own.
    """
    model = benchmark_model()
    ratios, load_s, compute_s, tokens = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made:
        state = Path(made) / "state"
        for turn in range(-1, LOADS):
            content = words(PROMPT_WORDS, seed=500 + turn)
            computed = one_turn(model, state, content)
            forget_files(state / "prefixes")
            read = one_turn(model, state, content + " and then")
            usage = next(chunk["usage"] for _, chunk in reversed(read.chunks) if chunk.get("usage"))
            assert usage["prompt_tokens_details"]["cached_tokens"] > 0.97 * usage["prompt_tokens"]
            if turn >= 0:
                ratios.append(computed.ttft_s / read.ttft_s)
                load_s.append(read.ttft_s)
                compute_s.append(computed.ttft_s)
                tokens.append(usage["prompt_tokens"])
    detail = f"{Spread.of(tokens).median:.0f} tokens: computed {Spread.of(compute_s)} s, read {Spread.of(load_s)} s"
    yield at_least("computing / reading from the disk", ratios, LOAD, detail)


def one_turn(model: Path, state: Path, content: str) -> Reply:
    """In a process of its own that ends in order, behind a short question: nothing is done for the first time."""
    with ServedDaemon(state, ["--model", str(model)], environment=machine.blas(2)) as served:
        served.wait_ready()
        asyncio.run(ask(served.url, chat(words(30, seed=1), 8)))
        (reply,) = asyncio.run(ask(served.url, chat(content, 8)))
        served.terminate()
    return reply


def forget_files(directory: Path) -> None:
    """Takes files out of the system's cache, as far as it lets us."""
    for path in directory.glob("v1/*/*/*"):
        descriptor = os.open(path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


# --- writing ----------------------------------------------------------------------------------------------------------


def writing() -> Iterator[Figure]:
    """Streams with the disk and without, in turns; and what the disk's part takes of the processor's time by itself."""
    model = benchmark_model()
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made:
        costs = Path(made) / "costs"
        command = module("tests.benchmarks.timed_disk")
        timed = {**machine.blas(1), "COST_FILE": str(costs)}
        on, off = ["--model", str(model)], ["--model", str(model), "--ssd-cache-bytes", "0"]
        with (
            ServedDaemon(Path(made) / "on", on, command=command, environment=timed) as kept,
            ServedDaemon(Path(made) / "off", off, environment=machine.blas(1)) as bare,
        ):
            kept.wait_ready()
            bare.wait_ready()
            slower, shares, waited_ms = [], [], list[float]()
            for turn in range(-1, ROUNDS):
                before = spent(kept, costs)
                token_s = {one.url: decoded(one, turn) for one in (kept, bare)[:: 1 - 2 * (turn % 2)]}
                took = spent(kept, costs)
                if turn >= 0:
                    slower.append(100 * (token_s[kept.url][0] / token_s[bare.url][0] - 1))
                    cpu_s = sum(took["spent_s"].values()) - sum(before["spent_s"].values())
                    shares.append(100 * cpu_s / token_s[kept.url][1])
                    waited_ms += [1e3 * one for one in took["waited_s"][len(before["waited_s"]) :]]
    detail = (
        f"processor time of the disk's thread and of its calls by the worker, of {STREAMS} streams' {TOKENS} tokens"
    )
    yield at_most("writing, of the time of decode", shares, COST, detail, "%")
    yield report("an answer's end waits for its blocks", waited_ms, "ms", f"p95 {percentile(waited_ms, 0.95):.3g} ms")
    yield report("streams slower with the disk than without", slower, "%", "time per token, in turns")


def decoded(served: ServedDaemon, turn: int) -> tuple[float, float]:
    """(seconds per token of a stream in decode, seconds of it all)."""
    bodies = [chat(words(40, seed=7000 + 10 * turn + stream), TOKENS) for stream in range(STREAMS)]
    began_s = time.perf_counter()
    replies = asyncio.run(ask(served.url, *bodies))
    took_s = time.perf_counter() - began_s
    assert all(reply.completion_tokens == TOKENS for reply in replies)
    return Spread.of(reply.token_s for reply in replies).median, took_s


def spent(served: ServedDaemon, costs: Path) -> dict[str, Any]:
    """What the disk has cost a process since its start (see `timed_disk`)."""
    costs.unlink(missing_ok=True)
    served.process.send_signal(signal.SIGUSR1)
    until_s = time.monotonic() + 10
    while not costs.exists() and time.monotonic() < until_s:
        time.sleep(0.02)
    found: dict[str, Any] = json.loads(costs.read_text())
    return found
