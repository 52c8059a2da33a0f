"""Planted faults of the whole way, from lookup to the next turn: the law that warm is cold notices each of them.

A law that cannot fail proves nothing. Every fault here is one that a store could really have; played through a runner
it must move a log-probability far beyond rounding, change what is computed, or be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from inference.cache.blocks import Root
from inference.cache.prefix_cache import PrefixCache
from inference.cache.reuse import Reuse
from inference.cache.tree import PrefixTree
from inference.engine import recorder, trail
from inference.engine.blocks import KVBlock, block_of, joined
from inference.engine.fingerprint import fingerprint
from inference.engine.kv import KVState
from inference.engine.kv_columns import attention_leaves
from inference.engine.loader import MlxLoader
from inference.engine.mlx_lm_door import RotatingKVCache
from inference.engine.packing import packed
from inference.engine.recorder import BlockRecorder
from inference.engine.runner import MlxRunner
from inference.engine.settings import EngineSettings
from inference.engine.store import ModelStore
from inference.params import CacheScope, KVQuantisation
from inference.ports import ModelRef
from tests import tiny_models
from tests.engine.harness import Loaded
from tests.engine.scenarios import law, linear, long_answer
from tests.engine.warm_rows import CLOSE, ROOM, WarmModel, ask, play, runner_on

Load = Callable[[str], Loaded]
ids = tiny_models.prompt_ids
FAR = 100 * CLOSE
Patch = pytest.MonkeyPatch


def assembled(monkeypatch: Patch, spoil: Callable[[KVState, int], KVState]) -> None:
    """Every row that begins with stored blocks begins with a spoiled state, spoiled where nobody looks any more."""
    good = ModelStore.assembled

    def bad(self: ModelStore, reuse: Reuse, kv: KVQuantisation | None, until_tokens: int) -> KVState:
        state = good(self, reuse, kv, until_tokens)
        return spoil(state, reuse.depth_tokens) if reuse.depth_tokens else state

    monkeypatch.setattr(ModelStore, "assembled", bad)


def skipped_token(monkeypatch: Patch) -> None:
    """A block has lost its first token, and holds its last twice: as many columns as ids."""
    recorded(monkeypatch, lambda stack: mx.concatenate([stack[:, :, 1:], stack[:, :, -1:]], axis=2))


def repeated_token(monkeypatch: Patch) -> None:
    recorded(monkeypatch, lambda stack: mx.concatenate([stack[:, :, :1], stack[:, :, :-1]], axis=2))


def recorded(monkeypatch: Patch, spoil: Callable[[mx.array], mx.array]) -> None:
    """Every block that is captured has spoiled columns."""
    good = recorder.capture

    def bad(state: KVState, start: int, end: int, row: int = 0) -> KVBlock:
        block = good(state, start, end, row)
        whole = joined(block)
        return block_of(start, end, packed([spoil(stack) for stack in whole.stacks], whole.places), block.per_layer)

    monkeypatch.setattr(recorder, "capture", bad)


def stale_prefix(monkeypatch: Patch) -> None:
    """The tree finds a block by its own ids and does not look at what came before it."""
    match = PrefixTree.match

    def bad(self: PrefixTree, root: Any, packed: bytes, limit_tokens: int) -> Any:
        stored = next(iter(self.roots.values()), None)
        first = next(iter(stored.children), None) if stored is not None else None
        if first is not None and len(packed) > len(first.ids) and packed[: len(first.ids)] != first.ids:
            packed = first.ids + packed[len(first.ids) :]
        return match(self, root, packed, limit_tokens)

    monkeypatch.setattr(PrefixTree, "match", bad)


def wrong_rope_offset(monkeypatch: Patch) -> None:
    def spoil(state: KVState, _depth: int) -> KVState:
        for entry in attention_leaves(state):
            entry.offset += 1
        return state

    assembled(monkeypatch, spoil)


def aliased_buffer(monkeypatch: Patch) -> None:
    """All rows that begin at one depth are given the same arrays, and write into them."""
    given: dict[int, KVState] = {}

    def spoil(state: KVState, depth: int) -> KVState:
        return given.setdefault(depth, state)

    assembled(monkeypatch, spoil)


def short_window(monkeypatch: Patch) -> None:
    """A ring is filled with the last block only, which is shorter than the window."""

    def spoil(state: KVState, depth: int) -> KVState:
        for entry in attention_leaves(state):
            if isinstance(entry, RotatingKVCache):
                missing = entry.keys.shape[2] - depth % 256
                if missing > 0:
                    kept = mx.arange(entry.keys.shape[2])[:, None] >= missing
                    entry.keys, entry.values = (mx.where(kept, one, 0) for one in (entry.keys, entry.values))
        return state

    assembled(monkeypatch, spoil)


def snapshot_of_another_depth(monkeypatch: Patch) -> None:
    """A state is kept under the depth behind the one it was taken at."""
    good = trail.snapshot
    last: list[Any] = []

    def bad(state: KVState, depth: int, row: int = 0) -> Any:
        taken = good(state, depth, row)
        last.append(taken)
        return replace(last[-2], depth=depth) if len(last) > 1 else taken

    monkeypatch.setattr(trail, "snapshot", bad)


def windows_forgotten(monkeypatch: Patch) -> None:
    """In decode, blocks are captured when they are full, though a window has moved on long before."""
    made = BlockRecorder.__init__

    def bad(self: BlockRecorder, _every_tokens: int, *rest: Any) -> None:
        made(self, 256, *rest)

    monkeypatch.setattr(BlockRecorder, "__init__", bad)


@dataclass(frozen=True)
class Planted:
    plant: Callable[[Patch], None]
    classes: tuple[str, ...]
    scenario: Callable[[], Any] = linear


def parted() -> Any:
    """Two conversations of which only the first block differs."""
    for turn in range(2):
        yield [ask(f"t{turn}", (*ids(256, seed=turn), *ids(300, seed=5)))]


def twins() -> Any:
    """Two rows decode at once behind one stored prefix, each something of its own."""
    yield [ask("before", ids(300), max_tokens=1)]
    yield [ask(f"twin{one}", (*ids(300)[:299], *ids(60, seed=one)), max_tokens=20) for one in range(2)]


PLANTED = (
    Planted(skipped_token, ("dense", "sliding")),
    Planted(repeated_token, ("dense", "sliding")),
    Planted(stale_prefix, ("dense", "hybrid"), parted),
    Planted(wrong_rope_offset, ("dense", "hybrid", "sliding")),
    Planted(aliased_buffer, ("dense", "sliding"), twins),
    Planted(short_window, ("sliding", "sliding_sinks")),
    Planted(snapshot_of_another_depth, ("hybrid",)),
    Planted(windows_forgotten, ("sliding", "sliding_sinks"), long_answer),
)


@pytest.mark.parametrize(
    ("planted", "architecture"),
    [pytest.param(one, name, id=f"{one.plant.__name__}-{name}") for one in PLANTED for name in one.classes],
)
def test_the_law_notices(load: Load, monkeypatch: Patch, planted: Planted, architecture: str) -> None:
    loaded, exact = load(architecture), architecture != "hybrid"
    law(WarmModel(loaded), planted.scenario, exact=exact)
    planted.plant(monkeypatch)
    with pytest.raises(AssertionError):
        law(WarmModel(loaded), planted.scenario, exact=exact)


# --- what tells models apart ----------------------------------------------------------------------------------------


def test_a_foreign_fingerprint_would_be_noticed(load: Load, tmp_path: Path) -> None:
    """Weights of the same shapes: under their own name they miss, under a foreign one they answer wrongly."""
    runner = MlxLoader(EngineSettings()).load(ModelRef("o", tiny_models.build(tmp_path / "other", "dense", seed=8)))
    assert isinstance(runner, MlxRunner)
    other = Loaded(runner._model, runner.limits)
    for name, meets in (("other weights", False), ("weights", True)):
        warm = WarmModel(load("dense"))
        warm.ask(ask("mine", ids(700)))
        theirs = play(runner_on(warm.cache, other, name), [one := ask("theirs", ids(700))])["theirs"]
        gap = theirs.gap(WarmModel(other).cold(one))
        assert (theirs.computed == 1, gap > FAR) == (meets, meets)


def test_the_loader_gives_other_weights_another_name(model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    """The same, through what users do: a model is replaced in place, or comes under another id."""
    names = {fingerprint(model_dir("dense"))}
    names.add(fingerprint(tiny_models.build(tmp_path / "seed", "dense", seed=8)))
    names.add(fingerprint(tiny_models.build(tmp_path / "rope", "dense", rope_theta=20_000.0)))
    assert len(names) == 3
    assert fingerprint(tiny_models.build(tmp_path / "again", "dense")) in names


@pytest.mark.parametrize("scope", [CacheScope(salt=b"a"), CacheScope(salt=b"a", template="chat", session="s")])
def test_salts_part_and_templates_do_not(dense: Loaded, scope: CacheScope) -> None:
    """KV depends on ids alone: another template that gives the same ids shares, another key's salt never does."""
    cache = PrefixCache(ROOM, lambda: 0.0)
    runner = runner_on(cache, dense, "weights")
    assert play(runner, [ask("a", ids(600), scope=scope)])["a"].computed == 600
    same = replace(scope, template="another", session="another")
    for name, other, computed in (
        ("salted", replace(scope, salt=b"b"), 600),
        ("unsalted", replace(scope, salt=b""), 600),
        ("template", same, 1),
    ):
        assert play(runner, [ask(name, ids(600), scope=other)])[name].computed == computed


def test_other_settings_of_kv_never_meet() -> None:
    """No two of these have a key in common, however their parts would read side by side."""
    roots = {Root("m", "w", settings, salt).key for settings in ("", "8/32/0", "8/32/256") for salt in (b"", b"x")}
    roots |= {Root("m", weights, settings).key for weights, settings in (("w8", ""), ("w", "8"), ("", "w8"))}
    assert len(roots) == 6 + 3
