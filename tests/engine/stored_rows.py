"""Rows that leave blocks and snapshots behind, rows made of them, and what both draw: plain MLX, no runner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from inference.engine import kv
from inference.engine.assembly import assemble
from inference.engine.blocks import KVBlock, cut, joined, store_needs
from inference.engine.kv import KVState
from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.prefill import pieces
from inference.engine.recorder import BlockRecorder
from inference.engine.settings import GRID_TOKENS
from inference.engine.snapshots import RecurrentSnapshot, snapshot
from inference.params import KVQuantisation
from inference.tokens import TokenIds

CLOSE = 1e-4
"""What rounding in float32 stays below, in log-probabilities."""
ANSWER_TOKENS = 24


@dataclass
class Answer:
    tokens: list[int]
    logprobs: np.ndarray

    def gap(self, other: Answer) -> float:
        """Largest difference of log-probabilities, as far as the same tokens were read."""
        same = next((at for at, (a, b) in enumerate(zip(self.tokens, other.tokens, strict=True)) if a != b), -1)
        shared = slice(None) if same < 0 else slice(same + 1)
        return float(np.abs(self.logprobs[shared] - other.logprobs[shared]).max())


@dataclass
class Stored:
    """What a row left behind."""

    ids: TokenIds
    blocks: list[KVBlock]
    snapshots: dict[int, RecurrentSnapshot] = field(default_factory=dict)

    def up_to(self, depth: int) -> list[KVBlock]:
        return self.blocks[: -(-depth // GRID_TOKENS)]


class RecordedRow:
    """A row that is prefilled on the grid and decoded greedily while its blocks are recorded."""

    def __init__(self, model: Any, state: KVState | None = None, offset: int = 0, begun: KVBlock | None = None) -> None:
        self.model = model
        self.state = make_prompt_cache(model) if state is None else state
        needs = store_needs(self.state)
        self.recorder = BlockRecorder(needs.every_tokens, offset, begun)
        self.blocks: list[KVBlock] = []
        self.snapshots: dict[int, RecurrentSnapshot] = {}
        self.takes_snapshots = needs.snapshots
        self.offset = offset

    def read(self, ids: TokenIds, end: int, snapshots_at: Iterable[int] = ()) -> None:
        for stop in sorted({*snapshots_at, end}):
            for first, last in pieces(self.offset, stop):
                self.model(mx.array(ids[first:last])[None], cache=self.state)
                kv.wait(self.state)
                self.blocks += self.recorder.record(self.state, last)
                self.offset = last
            self.snap()

    def snap(self) -> None:
        if self.takes_snapshots:
            self.snapshots[self.offset] = snapshot(self.state, self.offset)

    def write(self, last: int, count: int) -> list[int]:
        """Feeds `last` and draws `count` tokens; all but the last drawn are read too."""
        drawn: list[int] = []
        for _ in range(count):
            logits = self.model(mx.array([[last]]), cache=self.state)
            last = int(mx.argmax(logits[0, -1]).item())
            self.offset += 1
            drawn.append(last)
            if self.offset >= self.recorder.due_at:
                self.blocks += self.recorder.record(self.state, self.offset)
        return drawn

    def store(self, ids: Sequence[int]) -> Stored:
        """Ends the row: its last, unfinished block is stored too."""
        self.blocks += self.recorder.record(self.state, self.offset)
        self.snap()
        tail = self.recorder.tail()
        return Stored(tuple(ids[: self.offset]), self.blocks + ([tail] if tail else []), self.snapshots)


def read_and_store(model: Any, ids: TokenIds, snapshots_at: Iterable[int] = ()) -> Stored:
    row = RecordedRow(model)
    row.read(ids, len(ids), snapshots_at)
    return row.store(ids)


def resumed(model: Any, stored: Stored, depth: int, quantised: KVQuantisation | None = None, room: int = 0) -> KVState:
    return assemble(
        make_prompt_cache(model),
        stored.up_to(depth),
        depth,
        stored.snapshots.get(depth),
        quantised=quantised,
        room_tokens=room,
    )


def continued(model: Any, stored: Stored, depth: int) -> RecordedRow:
    """A row made of the first `depth` stored tokens that records what follows."""
    state = resumed(model, stored, depth)
    begun = cut(stored.up_to(depth)[-1], depth) if depth % GRID_TOKENS else None
    return RecordedRow(model, state, depth, begun)


def answer(model: Any, ids: TokenIds, state: KVState | None = None, offset: int = 0) -> Answer:
    """Reads `ids` from `offset` on, on the grid, the last by itself, and goes on greedily."""
    state = make_prompt_cache(model) if state is None else state
    for first, last in pieces(offset, len(ids) - 1):
        model(mx.array(ids[first:last])[None], cache=state)
        kv.wait(state)
    tokens, logprobs, token = [], [], ids[-1]
    for _ in range(ANSWER_TOKENS):
        logits = model(mx.array([[token]]), cache=state)[0, -1].astype(mx.float32)
        logprobs.append(np.array(logits - mx.logsumexp(logits)))
        token = int(np.argmax(logprobs[-1]))
        tokens.append(token)
    return Answer(tokens, np.stack(logprobs))


def bits(blocks: Iterable[KVBlock]) -> list[np.ndarray]:
    return [np.array(stack) for block in blocks for stack in joined(block).stacks]


def same_bits(left: Iterable[np.ndarray], right: Iterable[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))
