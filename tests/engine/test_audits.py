"""Audits: what is stored and untrue is found, whatever it went through; what is true is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from inference.cache.disk_records import Stored
from inference.cache.node import Node
from inference.cache.verdict import VerdictName
from inference.engine import assembly, store
from inference.engine.auditor import WORK_S, Allowance
from inference.engine.block_file import SafetensorsCodec
from inference.engine.blocks import KVBlock
from inference.engine.kv import KVState
from inference.engine.kv_columns import attention_leaves
from inference.engine.settings import CacheSettings
from inference.engine.snapshots import RecurrentSnapshot
from inference.ports import Job
from inference.prefix_store import AuditResult
from inference.tokens import TokenIds
from tests import tiny_models
from tests.device import settled_bytes
from tests.engine.disk_process import SOON_S, Process, question
from tests.engine.harness import Loaded
from tests.engine.test_zero_counters import blocks_of
from tests.engine.warm_rows import CLOSE, Answer, WarmModel, ask

Load = Callable[[str], Loaded]
ids = tiny_models.prompt_ids
ALL = CacheSettings(audit_every=1)


def audited(warm: WarmModel, steps: int = 10_000, room_bytes: int | None = None) -> list[AuditResult]:
    """What comes of all that waits."""
    auditor, told = warm.runner.auditor, []
    assert auditor is not None
    while auditor.waits and (steps := steps - 1) >= 0:
        if (result := auditor.step(room_bytes)) is not None:
            told.append(result)
    return told


def conversation(warm: WarmModel, kind: str, turns: int = 2, length: int = 300) -> Answer:
    """Turns on top of each other; the last one begins warm."""
    text: TokenIds = ids(length)
    for turn in range(turns):
        answer = warm.ask(question(kind, f"t{turn}", text, tokens=9))
        text = (*answer.ids, *ids(40, seed=turn))
    return answer


@pytest.fixture
def model(load: Load, wide: Loaded) -> Callable[[str], WarmModel]:
    def make(kind: str) -> WarmModel:
        warm = WarmModel(wide if kind == "quantised" else load(kind))
        warm.load(cache=ALL)
        return warm

    return make


def next_turn(kind: str, answer: Answer, name: str = "next") -> Job:
    return question(kind, name, (*answer.ids, *ids(30, seed=77)), tokens=9)


# --- clean traffic ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "sliding", "sliding_sinks", "hybrid", "hybrid_moe", "quantised"])
def test_what_is_true_is_found_true_and_stays(model: Callable[[str], WarmModel], kind: str) -> None:
    warm = model(kind)
    conversation(warm, kind, turns=3)
    before = {node.digest for node in blocks_of(warm)}
    counted = replace(warm.cache.counters)
    told = audited(warm)
    assert len(told) == 2
    for result in told:
        assert not result.diverged and result.distance < result.tolerance / 5, result
        assert result.steps == 16 and result.depth_tokens > 256 and result.cold_from == 0
    assert {node.digest for node in blocks_of(warm)} == before and warm.cache.check_integrity() == []
    assert warm.cache.counters == replace(counted, audits=2), "an audit counts as no request"
    assert warm.cache.stats().leases == 0


def test_cold_requests_are_not_audited_and_nothing_is_without_a_store(load: Load) -> None:
    warm = WarmModel(load("dense"))
    warm.load(cache=ALL)
    for seed in range(3):
        warm.ask(ask(f"cold{seed}", ids(300, seed=seed)))
    assert audited(warm) == []
    assert load("dense").runner().auditor is None


def test_one_in_so_many_is_audited(load: Load) -> None:
    warm = WarmModel(load("dense"))
    warm.load(cache=CacheSettings(audit_every=4))
    for turn in range(10):
        warm.ask(ask(f"t{turn}", (*ids(256), *ids(3, seed=turn)), max_tokens=1))
    assert len(audited(warm)) == 3, "the first of its kind, and two of the next eight"


# --- planted faults ---------------------------------------------------------------------------------------------


def flip(array: Any) -> None:
    """The highest bit but one of the exponent, or the highest of a quantised word, as failing memory would."""
    array[0, 0, 1, 1] = array[0, 0, 1, 1] + ((1 << 31) if array.dtype == mx.uint32 else 1)


def spoil(node: Node) -> None:
    assert isinstance(node.handle, KVBlock)
    flip(next(array for array in node.handle.parts[0].packed.arrays if array is not None))


@pytest.mark.parametrize(
    "kind,at", [("dense", 0), ("dense", 256), ("sliding", 256), ("hybrid", 256), ("quantised", 256)]
)
def test_a_flipped_bit_in_memory_is_found_and_leaves_with_all_behind_it(
    model: Callable[[str], WarmModel], kind: str, at: int
) -> None:
    warm = model(kind)
    answer = conversation(warm, kind)
    spoil(next(node for node in blocks_of(warm) if node.start == at))
    [result] = audited(warm)
    assert result.diverged and result.quarantined_from == at and result.quarantined_blocks >= 1
    assert all(node.end <= at for node in blocks_of(warm)) and warm.cache.check_integrity() == []
    assert (warm.cache.counters.audits, warm.cache.counters.warm_cold_divergence) == (1, 1)
    told = like_cold(warm, next_turn(kind, answer))
    assert told.computed == len(told.job.prompt) - (0 if kind == "hybrid" else at)
    assert warm.cache.counters.verdicts[VerdictName.QUARANTINED] == 1
    assert like_cold(warm, next_turn(kind, told, "again")).computed <= 34, "fresh blocks have taken the place"
    assert {one.diverged for one in audited(warm)} == {False}


def test_a_flipped_bit_on_the_disk_under_a_right_digest_is_found(start: Callable[..., Process]) -> None:
    """As it is written by a machine whose memory fails before the digest is made."""
    before = start("dense")
    answer = conversation(before, "dense", length=480)
    before.terminate()
    [path] = before.directory.rglob("*-256-512.kv")
    rewrite(path)

    after = start("dense")
    after.load(cache=ALL)
    after.ask(next_turn("dense", answer))
    [result] = audited(after)
    assert "disk" in result.kinds and result.diverged and result.quarantined_from == 256
    assert after.disk.settle(SOON_S)
    assert not list(after.directory.rglob("*-256-512.kv")) and list(after.directory.rglob("*-0-256.kv"))
    told = like_cold(after, next_turn("dense", answer, "again"))
    assert told.computed == len(told.job.prompt) - 256
    assert after.cache.counters.verdicts[VerdictName.QUARANTINED] == 1
    after.terminate()


def rewrite(path: Path) -> None:
    codec = SafetensorsCodec()
    stored = codec.decode(path.read_bytes())
    assert isinstance(stored, Stored) and isinstance(stored.handle, KVBlock)
    flip(stored.handle.parts[0].packed.stacks[0])
    path.write_bytes(b"".join(codec.encode(stored.label, stored.handle)))


def test_a_wrong_recurrent_state_is_found_and_leaves_with_all_that_was_computed_from_it(
    model: Callable[[str], WarmModel],
) -> None:
    """The same question once more: all its keys and values are right, what its answer was drawn from is not."""
    warm = model("hybrid")
    conversation(warm, "hybrid", turns=1, length=600)
    held = min(warm.cache.books.tree.snapshots, key=lambda held: held.depth)
    assert isinstance(held.handle, RecurrentSnapshot) and held.depth == 599
    array = next(array for array in held.handle.packed.arrays if array is not None)
    array[0] = array[0] + 1
    wrong = warm.ask(question("hybrid", "again", ids(600), tokens=9))
    assert wrong.computed == 1
    [result] = audited(warm)
    assert result.diverged and result.kv_distance > result.tolerance
    like_cold(warm, next_turn("hybrid", wrong))
    assert {node.start for node in blocks_of(warm)} >= {0, 256} and warm.cache.check_integrity() == []


@pytest.mark.parametrize("kind", ["dense", "sliding"])
def test_a_row_put_together_wrongly_from_right_blocks_is_found(
    model: Callable[[str], WarmModel], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nobody knows which block it is, so the whole path goes."""
    warm, good = model(kind), assembly.assemble
    conversation(warm, kind)

    def bad(*given: Any, **more: Any) -> KVState:
        state = good(*given, **more)
        entry = attention_leaves(state)[-1]
        entry.keys = mx.concatenate([entry.keys[:, :, 1:], entry.keys[:, :, :1]], axis=2)
        return state

    monkeypatch.setattr(store, "assemble", bad)
    [result] = audited(warm)
    assert result.diverged and result.distance > result.tolerance and result.kv_distance < CLOSE
    assert (result.quarantined_from, blocks_of(warm)) == (0, [])


# --- in the way -------------------------------------------------------------------------------------------------


def test_what_is_abandoned_frees_its_memory_and_is_tried_once_more(model: Callable[[str], WarmModel]) -> None:
    warm = model("dense")
    conversation(warm, "dense")
    auditor = warm.runner.auditor
    assert auditor is not None
    for _ in range(2):
        before = settled_bytes()
        assert audited(warm, steps=5) == [] and mx.get_active_memory() > before
        auditor.abandon()
        assert mx.get_active_memory() == before
    assert not auditor.waits and warm.cache.counters.audits == 0


def test_none_begins_without_room_or_beyond_its_hour(model: Callable[[str], WarmModel]) -> None:
    warm = model("dense")
    conversation(warm, "dense")
    assert audited(warm, room_bytes=1000) == [] and warm.cache.counters.audits == 0
    clock = iter([0.0, 0.0, 0.0, 0.0, 0.0, 3601.0])
    allowance = Allowance(lambda: next(clock))
    seen = []
    for spent_s in (WORK_S - 1, 2.0):
        allowance.spend(spent_s)
        seen.append(allowance.is_spent)
    assert seen == [False, True]
    assert [allowance.is_spent, allowance.is_spent] == [True, False]


def test_a_long_prompt_is_looked_at_in_pieces(
    model: Callable[[str], WarmModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.engine.audit_run.SEGMENT_TOKENS", 512)
    warm = model("dense")
    conversation(warm, "dense", length=1200)
    told = audited(warm)
    assert [(one.cold_from, one.prompt_tokens) for one in told] == [(0, 513), (512, 1025), (1024, 1249)]
    assert not any(one.diverged for one in told)
    warm.ask(question("dense", "more", ids(1200), tokens=1))
    spoil(next(node for node in blocks_of(warm) if node.start == 768))
    told = audited(warm)
    assert [one.diverged for one in told] == [False, True] and told[1].quarantined_from == 768


def like_cold(warm: WarmModel, job: Job) -> Answer:
    told = warm.ask(job)
    assert told.gap(warm.cold(job)) < CLOSE
    return told


def test_where_a_recurrent_state_is_rare_a_piece_reaches_to_the_next(
    model: Callable[[str], WarmModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.engine.audit_run.SEGMENT_TOKENS", 256)
    warm = model("hybrid")
    conversation(warm, "hybrid", length=560)
    told = audited(warm)
    assert told and not any(one.diverged for one in told)
    assert told[0].cold_from == 0 and told[0].depth_tokens > 256, "no state is kept before"
    assert told[-1].prompt_tokens > 600, "all of it was looked at"


def test_what_an_hour_ends_in_the_middle_holds_nothing(
    model: Callable[[str], WarmModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = model("dense")
    conversation(warm, "dense")
    before = settled_bytes()
    monkeypatch.setattr("inference.engine.auditor.perf_counter", iter(range(0, 10_000, 100)).__next__)
    assert audited(warm) == [] and mx.get_active_memory() == before
    auditor = warm.runner.auditor
    assert auditor is not None and not auditor.waits
