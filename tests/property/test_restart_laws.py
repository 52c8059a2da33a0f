"""What a request is told does not depend on whether the process began anew before it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.cache.blocks import BLOCK_TOKENS, Root
from inference.cache.disk import DiskStore
from inference.cache.disk_plan import WORTH_READING_TOKENS
from inference.cache.disk_thread import DiskThread
from inference.cache.disk_tier import DiskTier
from inference.cache.limits import CacheLimits
from inference.cache.node import Admission
from inference.cache.prefix_cache import PrefixCache
from inference.cache.reuse import Reuse
from inference.events import Parting
from inference.tokens import TokenIds
from tests.cache_driver import KV, State
from tests.disk_shelf import ROOM, SOON_S, SwiftFiles
from tests.label_codec import LabelCodec

ROOT = Root("m", "w", settings="kv16", template="t")
PLENTY = CacheLimits(budget_bytes=1 << 30, snapshot_budget_bytes=1 << 30, side_budget_bytes=1 << 30)
NAMES = ("a" * 32, "b" * 32, "")
HEADER_TOKENS = 3
Told = tuple[str, Parting | None]


class World:
    """A cache that lives on in memory, or one that is begun anew now and then on what the last one left."""

    def __init__(self, directory: Path | None, *, hybrid: bool) -> None:
        self._directory = directory
        self._hybrid = hybrid
        self._asked = 0
        self._earlier: set[str] = set()
        self._names: set[str] = set()
        self.excused = False
        self._begin()

    def _begin(self) -> None:
        self._thread: DiskThread | None = None
        if self._directory is not None:
            self._thread = DiskThread(DiskStore(self._directory, ROOM, LabelCodec(ROOT), time.time, SwiftFiles()))
            self._thread.start()
        tier = None if self._thread is None else DiskTier(self._thread, time.monotonic)
        self.cache = PrefixCache(PLENTY, lambda: float(self._asked), tier)

    def restart(self, *, kill: bool) -> None:
        assert self._thread is not None
        self._earlier |= self._names
        if kill:
            assert self._thread.settle(SOON_S) and self._thread.close(SOON_S)
        else:
            assert self.cache.close(SOON_S)
        self._begin()

    def ask(self, name: str, prompt: TokenIds, answer: TokenIds, *, one_shot: bool, root: Root) -> Told:
        self._asked += 1
        self._names |= {name} - {""}
        reuse, job = self._find(name, prompt, root), f"r{self._asked}"
        waits = self.cache.read_ahead(reuse, job)
        to_gain = len(prompt) - 1 - reuse.depth_tokens
        self.excused = not waits and to_gain < WORTH_READING_TOKENS and name not in self._earlier
        if waits:
            assert self._thread is not None and self._thread.settle(SOON_S)
            assert not self.cache.is_reading(job)
            reuse = self._find(name, prompt, root)
        lease = self.cache.hold(reuse, job, Admission.ONE_SHOT if one_shot else Admission.MAIN)
        ids, start = (*prompt, *answer), lease.reuse.depth_tokens // BLOCK_TOKENS
        handles = [KV(root, ids[: at + BLOCK_TOKENS], at, False) for at in range(start * 256, len(ids), 256)]
        depths = {max(1, len(prompt) - HEADER_TOKENS), len(ids)} if self._hybrid else set()
        states = [State(root, ids[:depth]) for depth in sorted(depths) if depth > lease.reuse.depth_tokens]
        self.cache.commit(lease, ids, start, handles, states)
        self.cache.release(lease)
        assert self.cache.check_integrity() == []
        verdict = lease.reuse.verdict
        return str(verdict), lease.reuse.parting

    def _find(self, name: str, prompt: TokenIds, root: Root) -> Reuse:
        return self.cache.lookup(root, prompt, needs_snapshot=self._hybrid, session=name)


PLACES = st.sampled_from([0, 1, 5, 15, 16, 40, 100, 255, 256, 257, 300, 500, 511, 512, 513, 700])
LENGTHS = st.sampled_from([1, 3, 14, 30, 100, 200, 255, 256, 300, 520])


@dataclass(frozen=True)
class Turn:
    """A request of a session, and whether the process is begun anew before it. It has the first `shared` tokens of what
    turn `of` read and said, then `own` ones of its own."""

    name: str
    of: int
    shared: int
    own: int
    said: int
    one_shot: bool
    restart: bool
    template: str


TURNS = st.lists(
    st.builds(
        Turn,
        name=st.sampled_from(NAMES),
        of=st.integers(0, 7),
        shared=PLACES | st.just(1 << 20),
        own=LENGTHS,
        said=LENGTHS,
        one_shot=st.sampled_from([False, False, False, True]),
        restart=st.booleans(),
        template=st.sampled_from(["t", "t", "t", "t2"]),
    ),
    min_size=2,
    max_size=7,
)


@given(turns=TURNS, hybrid=st.booleans())
@settings(max_examples=40, deadline=None)
def test_after_an_orderly_end_a_request_is_told_what_it_would_be_told_without(turns: list[Turn], hybrid: bool) -> None:
    same_words(turns, hybrid=hybrid, kill=False)


@given(turns=TURNS, hybrid=st.booleans())
@settings(max_examples=40, deadline=None)
def test_after_a_kill_so_is_it_of_all_that_had_been_completed(turns: list[Turn], hybrid: bool) -> None:
    same_words(turns, hybrid=hybrid, kill=True)


def _shared(turn: Turn, other: Turn, ids: TokenIds) -> TokenIds:
    """A session's end within a block that another has gone on in is that one's end, in memory as on the disk."""
    own = turn.name == other.name and not turn.one_shot
    return ids[: min(turn.shared, len(ids) if own else (len(ids) - 1) // BLOCK_TOKENS * BLOCK_TOKENS)]


def same_words(turns: list[Turn], *, hybrid: bool, kill: bool) -> None:
    """With `kill` every answer ends on the grid: of others the end is in memory alone. Of what is not worth reading for
    a session that is new, memory tells.
    """
    with TemporaryDirectory() as directory:
        steady, anew = World(None, hybrid=hybrid), World(Path(directory), hybrid=hybrid)
        try:
            read: list[TokenIds] = []
            for number, turn in enumerate(turns):
                before = _shared(turn, turns[turn.of % number], read[turn.of % number]) if number else ()
                prompt = (*before, *range(5000 * number + 1000, 5000 * number + 1000 + turn.own))
                said = turn.said if not kill else turn.said - (len(prompt) + turn.said) % -BLOCK_TOKENS
                answer = tuple(range(5000 * number + 3000, 5000 * number + 3000 + said))
                if turn.restart:
                    anew.restart(kill=kill)
                root = replace(ROOT, template=turn.template)
                told = [w.ask(turn.name, prompt, answer, one_shot=turn.one_shot, root=root) for w in (anew, steady)]
                assert told[0] == told[1] or anew.excused, f"turn {number}"
                read.append((*prompt, *answer))
        finally:
            anew.cache.close(SOON_S)


@pytest.mark.parametrize(
    ("other", "told"),
    [(replace(ROOT, weights="w2"), "model_reloaded"), (replace(ROOT, settings="kv8"), "settings_changed")],
)
def test_what_has_changed_about_a_model_is_told_by_whoever_comes_next(tmp_path: Path, other: Root, told: str) -> None:
    world = World(tmp_path, hybrid=False)
    world.ask(NAMES[0], tuple(range(600)), (1, 2), one_shot=False, root=ROOT)
    world.restart(kill=True)
    assert world.ask(NAMES[0], (*range(600), 7), (1,), one_shot=False, root=other) == (told, None)
    world.restart(kill=False)
    world.cache.close(SOON_S)


def test_a_disk_that_is_slow_to_tell_of_a_session_keeps_nobody_from_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, ids = World(tmp_path, hybrid=False), tuple(range(600))
    world.ask(NAMES[0], ids, (1, 2), one_shot=False, root=ROOT)
    world.restart(kill=True)
    world.ask("", (*ids, 7), (1,), one_shot=False, root=ROOT)
    monkeypatch.setattr("inference.cache.disk_tier.RECALL_PATIENCE_S", 0.0)
    reuse = world.cache.lookup(ROOT, (*ids[:500], 5, 5), session=NAMES[0])
    assert world.cache.read_ahead(reuse, "job"), "all it can reuse is in memory, but not what its session has read"
    assert not world.cache.is_reading("job")
    assert str(world.cache.lookup(ROOT, (*ids[:500], 5, 5), session=NAMES[0]).verdict) == "branched"
    assert world.cache.disk is not None and not world.cache.disk._late
    world.cache.close(SOON_S)
