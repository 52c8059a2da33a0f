"""Loading and unloading again and again leaves nothing: no memory, no thread, no open file.

`MLXD_LOAD_ROUNDS=200` runs it as long as it was shown with; a few rounds show a leak as well, only less of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from inference.engine.loader import MlxLoader
from inference.engine.settings import CacheSettings, EngineSettings
from inference.ports import ModelRef
from inference.scheduler import Scheduler, SchedulerSettings
from mlxd.footprint import footprint_bytes
from tests.device import settled_bytes
from tests.scripted import events, request

ROUNDS = int(os.environ.get("MLXD_LOAD_ROUNDS", "8"))
WARM_UP = 4
"""Rounds after which pools of threads and allocators have the size they keep."""
TOLERANCE = 0.02


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    device_bytes: int
    footprint_bytes: int
    files: int
    threads: int

    @classmethod
    def now(cls) -> Held:
        open_files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
        return cls(settled_bytes(), footprint_bytes(), open_files, threading.active_count())


@pytest.mark.parametrize("architecture", ["dense", "hybrid"])
async def test_nothing_is_left_behind(architecture: str, model_dir: Callable[[str], Path]) -> None:
    settings = EngineSettings(cache=CacheSettings(memory_bytes=0))
    scheduler = Scheduler(lambda: MlxLoader(settings), SchedulerSettings())
    scheduler.start()
    ref = ModelRef("m", model_dir(architecture))
    held: list[Held] = []
    try:
        for _ in range(WARM_UP + ROUNDS):
            scheduler.load(ref).result(60)
            told = await events(scheduler.submit(request("Once upon a time", model=ref, max_tokens=4)))
            assert len(told) > 2
            receipt = scheduler.unload("m").result(60)
            assert receipt is not None and receipt.returned
            held.append(Held.now())
    finally:
        assert scheduler.stop()
    first, last = held[WARM_UP - 1], held[-1]
    assert last.device_bytes <= first.device_bytes, held
    assert last.footprint_bytes <= first.footprint_bytes * (1 + TOLERANCE), held
    assert last.files <= first.files and last.threads <= first.threads, held
