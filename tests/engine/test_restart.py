"""A store that outlives its process: the next one goes on where the last one was, and answers as if it were cold."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from inference.cache.limits import CacheLimits
from inference.engine.settings import GRID_TOKENS
from inference.events import Warmth
from inference.tokens import Prompt
from tests.engine.disk_process import KINDS, SOON_S, next_turn, question, text
from tests.engine.warm_rows import CLOSE, SCOPE, ask


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


@pytest.mark.parametrize(("kind", "kill"), [("dense", True), ("sliding", False), ("hybrid", True)])
def test_a_session_is_told_where_it_was_edited_also_behind_a_restart(start: Callable, kind: str, kill: bool) -> None:
    before = start(kind)
    scope = replace(SCOPE, session="a" * 32)
    first = before.ask(replace(question(kind, "one", text(700)), cache=scope))
    if kill:
        before.kill()
    else:
        before.terminate()

    after = start(kind)
    turn = replace(question(kind, "two", (*first.ids[:300], 7, *first.ids[301:600])), cache=scope)
    second = after.ask(turn)
    assert second.gap(after.cold(turn)) < CLOSE
    # Early in a prompt a hybrid has no state yet, and that is what it is told.
    told = "no_snapshot" if kind == "hybrid" else "diverged"
    assert after.cache.stats().counters["verdicts"][told] == 1
    after.terminate()
