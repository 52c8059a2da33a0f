"""One audit: a row made of what is stored, then one computed from nothing, reading and drawing the same tokens.

It is a generator that does a short piece of work between two yields: assembling a row, 256 tokens of prefill, or one
token. Whoever closes it gets its memory back at once. Only one of the two rows is there at a time, and neither leaves
anything in the store. The cold one is compared with the stored blocks as it passes them, so that it is known where the
two part; what they draw tells whether a row is put together rightly from blocks that are right.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

import mlx.core as mx

from inference.cache.audit import AuditCase
from inference.cache.blocks import unpack
from inference.cache.reuse import Reuse
from inference.engine import kv
from inference.engine.audit_compare import (
    Draw,
    Tolerance,
    block_distance,
    distance,
    draw,
    parts,
    state_distance,
    tolerance,
)
from inference.engine.blocks import capture
from inference.engine.kv import KVState
from inference.engine.prefill import pieces
from inference.engine.settings import GRID_TOKENS
from inference.engine.snapshots import snapshot
from inference.engine.store import ModelStore
from inference.prefix_store import AuditResult

STEPS: Final = 16
SEGMENT_TOKENS: Final = 8192
"""A longer prompt is looked at in pieces of so many tokens, each behind what was found true before."""
FARTHEST: Final = 4
"""Pieces in one, where nothing in between can be gone on from."""


@dataclass(slots=True)
class Seen:
    """What a cold row has found on its way: how far stored values lie from its own, and where that is too far."""

    kv_distance: float = 0.0
    bad_from: int | None = None
    bad_state: bool = False
    draws: list[Draw] = field(default_factory=list)
    tolerance: Tolerance = field(default_factory=lambda: Tolerance(0.0, 0.0))

    def block(self, start: int, apart: float) -> None:
        self.kv_distance = max(self.kv_distance, apart)
        if apart > self.tolerance.kv and self.bad_from is None:
            self.bad_from = start

    def state(self, apart: float) -> None:
        self.kv_distance = max(self.kv_distance, apart)
        self.bad_state = apart > self.tolerance.kv


class AuditRun:
    """`model` is called with the tokens of a case; `routed`: it has experts to choose from."""

    def __init__(self, model: Any, store: ModelStore, case: AuditCase, context_tokens: int, *, routed: bool) -> None:
        self.case = case
        self._ids = unpack(case.packed)
        self._model = model
        self._store = store
        self.end = self._end()
        self.rest = case.behind(self.end) if self.end < len(self._ids) - 1 else None
        self._steps = max(1, min(STEPS, context_tokens - self.end))
        self._routed = routed

    def _end(self) -> int:
        """How far it looks: recurrent layers cannot go on in every piece, and then the next place where they can is
        taken."""
        begin, last = self.case.from_tokens, len(self._ids) - 1
        end = min(last, begin + SEGMENT_TOKENS)
        if end == last or self._found(end).depth_tokens > begin:
            return end
        depth = self._found(last).depth_tokens
        return depth if begin < depth <= begin + FARTHEST * SEGMENT_TOKENS else end

    def _found(self, end: int) -> Reuse:
        return self._store.found(self._ids[: end + 1], self.case.scope, self.case.kv)

    def run(self) -> Generator[None, None, AuditResult | None]:
        """None: what was to be looked at is not stored any more, or the model itself gives no numbers."""
        began_s = perf_counter()
        warm = yield from self._warm()
        if warm is None:
            return None
        reuse, draws = warm
        seen, cold_from = yield from self._cold(reuse, draws)
        if not all(one.is_sound for one in seen.draws):
            return None
        return self._judged(reuse, draws, seen, cold_from, perf_counter() - began_s)

    def _warm(self) -> Generator[None, None, tuple[Reuse, list[Draw]] | None]:
        reuse = self._found(self.end)
        if reuse.depth_tokens <= self.case.from_tokens:
            return None
        state = self._store.assembled(reuse, self.case.kv, self.end + self._steps)
        yield
        for start, stop in pieces(reuse.depth_tokens, self.end):
            self._read(state, start, stop)
            yield
        draws = yield from self._draws(state)
        return reuse, draws

    def _cold(self, reuse: Reuse, warm: Sequence[Draw]) -> Generator[None, None, tuple[Seen, int]]:
        seen, state, cold_from = Seen(), self._store.empty(), 0
        if self.case.from_tokens:
            base = self._found(self.case.from_tokens)
            state, cold_from = self._store.assembled(base, self.case.kv, self.end + self._steps), base.depth_tokens
            yield
        cuts = () if reuse.snapshot is None else (reuse.depth_tokens,)
        for start, stop in pieces(cold_from, self.end, cuts):
            self._read(state, start, stop)
            seen.tolerance = tolerance(state, self.case.kv, routed=self._routed)
            self._compare(seen, reuse, state, start, stop)
            yield
        seen.tolerance = tolerance(state, self.case.kv, routed=self._routed)
        seen.draws = yield from self._draws(state, warm)
        return seen, cold_from

    def _read(self, state: KVState, start: int, stop: int) -> None:
        kv.quantise(state, self.case.kv)
        self._model(mx.array(self._ids[start:stop])[None], cache=state)
        kv.wait(state)

    def _compare(self, seen: Seen, reuse: Reuse, state: KVState, start: int, stop: int) -> None:
        until = min(stop, reuse.depth_tokens)
        if start < until:
            stored: Any = reuse.handles[start // GRID_TOKENS]
            cold = capture(state, start, until)
            seen.block(start, block_distance(stored, cold, self.case.kv))
        taken: Any = reuse.snapshot
        if taken is not None and stop == taken.depth:
            seen.state(state_distance(taken, snapshot(state, stop)))

    def _draws(self, state: KVState, told: Sequence[Draw] = ()) -> Generator[None, None, list[Draw]]:
        """Greedy, or along what another row has drawn."""
        draws: list[Draw] = []
        token = self._ids[self.end]
        for step in range(self._steps):
            kv.quantise(state, self.case.kv)
            logits = self._model(mx.array([[token]]), cache=state)[0, -1]
            draws.append(draw(logits, told[step].ids if told else ()))
            kv.wait(state)
            token = (told or draws)[step].best
            yield
        return draws

    def _judged(self, reuse: Reuse, warm: Sequence[Draw], seen: Seen, cold_from: int, took_s: float) -> AuditResult:
        near = seen.tolerance.logprob
        pairs = list(zip(warm, seen.draws, strict=True))
        apart = max(distance(*pair) for pair in pairs)
        parted = next((step for step, pair in enumerate(pairs) if parts(*pair, near)), None)
        diverged = apart > near or parted is not None or seen.kv_distance > seen.tolerance.kv
        bad_from = _bad_from(reuse, seen, cold_from) if diverged else None
        gone = self._store.audited(reuse, bad_from)
        return AuditResult(
            model=reuse.query.root.model,
            kinds=tuple(sorted(self.case.kinds)),
            prompt_tokens=self.end + 1,
            depth_tokens=reuse.depth_tokens,
            cold_from=cold_from,
            steps=self._steps,
            diverged_step=parted,
            distance=apart,
            kv_distance=seen.kv_distance,
            tolerance=near,
            diverged=diverged,
            quarantined_from=bad_from,
            quarantined_blocks=gone,
            took_s=took_s,
        )


def _bad_from(reuse: Reuse, seen: Seen, cold_from: int) -> int:
    """Where the first block is that cannot be trusted; all that was looked at where nobody knows.

    What stands behind a state was computed from it, within its block too.
    """
    if seen.bad_from is not None:
        return seen.bad_from
    return reuse.nodes[-1].start if seen.bad_state else cold_from
