"""A model with a store on memory and a disk, from the start of its process to its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.cache.disk import DiskStore
from inference.cache.disk_limits import DiskLimits
from inference.cache.disk_thread import DiskThread
from inference.cache.disk_tier import DiskTier
from inference.cache.prefix_cache import PrefixCache
from inference.engine import memory
from inference.engine.block_file import SafetensorsCodec
from inference.engine.runner import MlxRunner
from inference.params import KVQuantisation
from inference.ports import Job
from inference.tokens import Prompt, TokenIds
from tests.disk_shelf import SwiftFiles
from tests.engine.warm_rows import Answer, WarmModel, ask

SOON_S = 20.0
ROOMY = DiskLimits(max_bytes=1 << 32, max_disk_share=1.0)
KINDS = ["dense", "sliding", "sliding_sinks", "hybrid", "hybrid_moe", "quantised"]
QUANTISED = KVQuantisation(bits=8, group_size=32)


@dataclass
class Process(WarmModel):
    """A model with a store on memory and a disk, from start to end."""

    directory: Path = field(kw_only=True)
    disk_limits: DiskLimits = field(default=ROOMY, kw_only=True)

    def __post_init__(self) -> None:
        store = DiskStore(self.directory, self.disk_limits, SafetensorsCodec(), time.time, SwiftFiles())
        self.disk = DiskThread(store, prepare=memory.release_streams_with_thread)
        self.disk.start()
        self.cache = PrefixCache(self.limits, lambda: self.now_s, DiskTier(self.disk, time.monotonic))
        self.load()

    def play(self, *jobs: Job, **schedule: Any) -> dict[str, Answer]:
        """With a pause in steps that wait for the disk alone, as the worker makes one."""
        watch = schedule.pop("each_step", lambda _runner: None)

        def each_step(runner: MlxRunner) -> None:
            time.sleep(0.002 if runner._entrance._reading else 0)
            watch(runner)

        answers = super().play(*jobs, each_step=each_step, **schedule)
        assert not any(answer.outcome.failed for answer in answers.values())
        return answers

    def terminate(self) -> None:
        assert self.cache.close(SOON_S)

    def kill(self) -> None:
        """What has reached the disk is all there is. (That no file is half there is the disk's own test.)"""
        assert self.disk.settle(SOON_S)
        self.disk.close(SOON_S)

    def dropped(self) -> dict[str, int]:
        return {why: count for why, count in self.disk.stats().dropped.items() if count}


def text(length: int, seed: int = 3) -> TokenIds:
    return tuple(5 + (seed * 7919 + at * at * 31 + at * 17) % 480 for at in range(length))


def question(kind: str, name: str, ids: TokenIds, tokens: int = 40) -> Job:
    """A chat turn: its header of three tokens is where a recurrent state is worth keeping."""
    return ask(name, Prompt(ids), max_tokens=tokens, kv=QUANTISED if kind == "quantised" else None)


def next_turn(answer: Answer, length: int = 20) -> TokenIds:
    return (*answer.ids, *text(length, seed=11))
