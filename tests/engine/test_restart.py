"""A store that outlives its process: the next one goes on where the last one was, and answers as if it were cold."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inference.cache.disk import DiskStore
from inference.cache.disk_limits import DiskLimits
from inference.cache.disk_thread import DiskThread
from inference.cache.disk_tier import DiskTier
from inference.cache.limits import CacheLimits
from inference.cache.prefix_cache import PrefixCache
from inference.engine import memory
from inference.engine.block_file import SafetensorsCodec
from inference.engine.runner import MlxRunner
from inference.engine.settings import GRID_TOKENS
from inference.events import Warmth
from inference.params import KVQuantisation
from inference.ports import Job
from inference.tokens import Prompt, TokenIds
from tests.disk_shelf import SwiftFiles
from tests.engine.harness import Loaded
from tests.engine.test_kv_quantised import load as load_wide
from tests.engine.warm_rows import CLOSE, SCOPE, Answer, WarmModel, ask

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


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """With heads that can be quantised."""
    return load_wide(tmp_path_factory.mktemp("wide"))


@pytest.fixture
def start(load: Callable[[str], Loaded], wide: Loaded, tmp_path: Path) -> Callable[..., Process]:
    def make(kind: str, **settings: object) -> Process:
        loaded = wide if kind == "quantised" else load(kind)
        return Process(loaded, directory=tmp_path / "kv", **settings)  # type: ignore[arg-type]

    return make


def text(length: int, seed: int = 3) -> TokenIds:
    return tuple(5 + (seed * 7919 + at * at * 31 + at * 17) % 480 for at in range(length))


def question(kind: str, name: str, ids: TokenIds, tokens: int = 40) -> Job:
    """A chat turn: its header of three tokens is where a recurrent state is worth keeping."""
    return ask(name, Prompt(ids), max_tokens=tokens, kv=QUANTISED if kind == "quantised" else None)


def next_turn(answer: Answer, length: int = 20) -> TokenIds:
    return (*answer.ids, *text(length, seed=11))


@pytest.mark.parametrize("kind", KINDS)
def test_after_an_orderly_end_the_next_turn_begins_where_the_last_ended(start: Callable, kind: str) -> None:
    before = start(kind)
    first = before.ask(question(kind, "one", text(700)))
    before.terminate()

    after = start(kind)
    assert after.disk.settle(SOON_S)
    turn = question(kind, "two", next_turn(first))
    foreseen = after.runner.lookup(turn.prompt, turn.cache, turn.kv)
    second = after.ask(turn)
    assert (foreseen.cached_tokens, foreseen.verdict) == (len(turn.prompt) - second.computed, "extended")
    assert foreseen.warmth == (Warmth.SNAPSHOT if "hybrid" in kind else Warmth.HIT)
    assert second.computed <= 0.03 * len(turn.prompt) + 2, f"{second.computed} of {len(turn.prompt)}"
    assert second.gap(after.cold(turn)) < CLOSE
    assert after.dropped() == {}
    after.terminate()


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_kill_every_complete_block_is_found(start: Callable, kind: str) -> None:
    before = start(kind)
    first = before.ask(question(kind, "one", text(700)))
    before.kill()

    after = start(kind)
    turn = question(kind, "two", next_turn(first))
    second = after.ask(turn)
    whole = len(first.ids) // GRID_TOKENS * GRID_TOKENS
    assert len(turn.prompt) - second.computed >= whole
    assert second.gap(after.cold(turn)) < CLOSE
    after.terminate()


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_a_branch_within_a_stored_text_is_found_too(start: Callable, kind: str) -> None:
    before = start(kind)
    before.ask(question(kind, "one", text(2400)))
    before.terminate()
    after = start(kind)
    turn = question(kind, "two", (*text(2400)[:2200], *text(80, seed=5)))
    second = after.ask(turn)
    assert second.computed <= (80 if kind == "dense" else 2280 - 2048), "states are kept every 2,048 tokens"
    assert second.gap(after.cold(turn)) < CLOSE
    after.terminate()


def test_what_memory_evicted_comes_back_from_the_disk(start: Callable) -> None:
    process = start("dense", limits=CacheLimits(budget_bytes=600_000))
    texts = [text(600, seed=number) for number in range(6)]
    answers = [process.ask(question("dense", f"job{at}", ids)) for at, ids in enumerate(texts)]
    assert process.cache.counters.evicted_tokens > 1000, "otherwise this shows nothing"
    for at, answer in enumerate(answers):
        turn = question("dense", f"again{at}", next_turn(answer))
        second = process.ask(turn)
        assert second.computed <= 25 and second.gap(process.cold(turn)) < CLOSE
    process.terminate()


def test_others_decode_while_a_job_waits_for_the_disk(start: Callable) -> None:
    before = start("dense")
    first = before.ask(question("dense", "one", text(900)))
    before.terminate()

    after = start("dense")
    waits = question("dense", "waits", next_turn(first))
    slow = after.disk._store.read

    def reads(key: bytes, root: bytes) -> object:
        while len(steps) < 5:
            time.sleep(0.001)
        return slow(key, root)

    steps: list[int] = []
    after.disk._store.read = reads
    answers = after.play(
        question("dense", "runs", text(40, seed=9)), waits, each_step=lambda runner: steps.append(runner.active_jobs)
    )
    assert answers["waits"].computed <= 25 and len(answers["runs"].tokens) == 40
    after.terminate()


def test_a_disk_that_never_answers_costs_patience_and_nothing_else(
    start: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = start("dense")
    first = before.ask(question("dense", "one", text(600)))
    before.terminate()
    monkeypatch.setattr("inference.cache.disk_tier.PATIENCE_S", 0.05)
    after = start("dense")
    released: list[bool] = []
    monkeypatch.setattr(
        after.disk._store, "read", lambda *_: [time.sleep(0.01) for _ in iter(released.__len__, 1)][:0] or None
    )
    turn = question("dense", "two", next_turn(first))
    try:
        second = after.ask(turn)
    finally:
        released.append(True)
    assert second.computed == len(turn.prompt) and second.gap(after.cold(turn)) < CLOSE
    after.disk.close(SOON_S)


def test_a_cancelled_job_leaves_the_disk_behind(start: Callable) -> None:
    before = start("dense")
    first = before.ask(question("dense", "one", text(600)))
    before.terminate()
    after = start("dense")
    turn = question("dense", "two", next_turn(first))
    after.runner.start(turn)
    after.runner.cancel("two")
    assert after.runner.active_jobs == 0
    again = question("dense", "three", next_turn(first))
    assert after.ask(again).computed <= 25
    after.terminate()


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_nothing_of_another_tree_is_read(start: Callable, kind: str) -> None:
    """Other weights, another salt: cold, and right."""
    before = start(kind)
    first = before.ask(question(kind, "one", text(600)))
    before.terminate()
    other = start(kind, fingerprint="other weights")
    turn = question(kind, "two", next_turn(first))
    assert other.ask(turn).computed == len(turn.prompt)
    other.terminate()
    salted = start(kind)
    turn = ask("three", next_turn(first), scope=type(SCOPE)(salt=b"another", template="chat"))
    assert salted.ask(turn).computed == len(turn.prompt)
    salted.terminate()


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_a_damaged_file_is_computed_again_and_right(start: Callable, kind: str) -> None:
    before = start(kind)
    first = before.ask(question(kind, "one", text(900)))
    before.terminate()
    for path in sorted((before.directory).rglob("*-256-512.kv")):
        raw = bytearray(path.read_bytes())
        raw[-100] ^= 8
        path.write_bytes(bytes(raw))
    after = start(kind)
    turn = question(kind, "two", next_turn(first))
    second = after.ask(turn)
    assert second.computed >= len(turn.prompt) - 256 and second.gap(after.cold(turn)) < CLOSE
    assert after.dropped() == {"corrupt": 1}
    assert after.cache.stats().counters["verdicts"]["disk_corrupt"] == 1
    third = after.ask(question(kind, "three", next_turn(second)))
    assert third.computed <= 25
    after.terminate()


def test_what_cannot_be_trusted_or_was_cleared_leaves_the_disk(start: Callable) -> None:
    process = start("dense")
    process.ask(question("dense", "one", text(600)))
    process.cache.clear()
    assert process.disk.settle(SOON_S) and process.disk.stats().files == 0
    process.runner.start(question("dense", "aborted", text(900, seed=5), 400))
    for _ in range(8):
        process.runner.step()
    process.runner.cancel("aborted", keep=False)
    assert process.disk.settle(SOON_S) and process.disk.stats().files == 0
    process.terminate()


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_a_one_shot_outlives_a_kill(start: Callable, kind: str) -> None:
    """A short first turn looks like a title, and may go on after the restart."""
    process = start(kind)
    title = ask("title", Prompt(text(700, seed=5)), scope=type(SCOPE)(template="chat", one_shot=True))
    first = process.ask(title)
    process.kill()
    after = start(kind)
    assert after.ask(question(kind, "two", next_turn(first))).computed <= 256 + 25
    after.terminate()


def test_a_fork_of_a_job_that_waits_for_the_disk_begins_with_it(start: Callable) -> None:
    before = start("dense")
    first = before.ask(question("dense", "one", text(600)))
    before.terminate()
    after = start("dense")
    ids = next_turn(first)
    answers = after.play(question("dense", "two", ids), ask("fork", ids, max_tokens=12, fork_of="two"))
    assert answers["two"].computed <= 25 and len(answers["fork"].tokens) == 12
    after.terminate()
