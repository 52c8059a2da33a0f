"""`mlxd` as it is, with what its disk costs summed up: SIGUSR1 has it written to the file `COST_FILE`.

Processor seconds of what is written, and the seconds that each answer's end was held back for its blocks.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlxd.cli
import mlxd.daemon
from inference.cache.disk import DiskStore
from inference.cache.disk_tier import DiskTier
from inference.scheduler.request import Generation

_begin = mlxd.daemon.Daemon.begin
spent_s: Counter[str] = Counter()
waited_s: list[float] = []


def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """`work`, the processor time of its thread noted: what it waits for the disk costs nobody anything."""

    def inner(*args: Any, **named: Any) -> Any:
        began_s = time.thread_time()
        try:
            return work(*args, **named)
        finally:
            spent_s[name] += time.thread_time() - began_s  # type: ignore[assignment]

    return inner


def waiting(work: Callable[..., Any]) -> Callable[..., Any]:
    async def inner(*args: Any) -> None:
        began_s = time.perf_counter()
        await work(*args)
        waited_s.append(time.perf_counter() - began_s)

    return inner


def write_costs() -> None:
    place = Path(os.environ["COST_FILE"])
    written = place.with_suffix(".new")
    written.write_text(json.dumps({"spent_s": spent_s, "waited_s": waited_s}))
    written.replace(place)


def begin(daemon: mlxd.daemon.Daemon) -> None:
    _begin(daemon)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, write_costs)


def main() -> None:
    DiskStore.write = timed("disk", DiskStore.write)  # type: ignore[method-assign]
    DiskStore.mark_used = timed("disk", DiskStore.mark_used)  # type: ignore[method-assign]
    DiskTier.released = timed("worker", DiskTier.released)  # type: ignore[method-assign]
    DiskTier.committed = timed("worker", DiskTier.committed)  # type: ignore[method-assign]
    Generation.kept = waiting(Generation.kept)  # type: ignore[method-assign]
    mlxd.daemon.Daemon.begin = begin  # type: ignore[method-assign,assignment]
    mlxd.cli.main()


if __name__ == "__main__":
    main()
