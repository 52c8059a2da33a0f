"""Log-probabilities of drawn tokens, for the rows that ask: of the model's own logits, before anything is done to them.

Rows that do not ask cost nothing: a lane of none computes none (a log-sum-exp over 152k logits takes 3 ms on a CPU).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from inference.events import TokenLogprob


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one draw, still on the device: (), (top,) and (top,)."""

    logprob: Any
    top_ids: Any
    top_logprobs: Any

    @property
    def arrays(self) -> tuple[Any, ...]:
        return (self.logprob, self.top_ids, self.top_logprobs)

    def read(self, token: int) -> TokenLogprob:
        top = zip(self.top_ids.tolist(), self.top_logprobs.tolist(), strict=True)
        return TokenLogprob(token, self.logprob.item(), tuple(top))


def measure(logits: Any, tokens: Any, asked: Sequence[int | None]) -> list[Measured | None]:
    """For each row that asks, its drawn token's log-probability and those of its `asked` most likely ones.

    `logits` is (rows, vocabulary), unmodified, `tokens` (rows,). Nothing is evaluated.
    """
    at = [row for row, top in enumerate(asked) if top is not None]
    measured: list[Measured | None] = [None] * len(asked)
    if not at:
        return measured
    if len(at) < len(asked):
        logits, tokens = logits[mx.array(at)], tokens[mx.array(at)]
    logits = logits.astype(mx.float32)
    total = mx.logsumexp(logits, axis=-1, keepdims=True)
    drawn = mx.take_along_axis(logits, tokens[:, None], axis=-1) - total
    ids = _best(logits, max(asked[row] or 0 for row in at))
    best = mx.take_along_axis(logits, ids, axis=-1) - total
    for place, row in enumerate(at):
        top = asked[row] or 0
        measured[row] = Measured(drawn[place, 0], ids[place, :top], best[place, :top])
    return measured


def _best(logits: Any, count: int) -> Any:
    """Ids of the largest, best first, (rows, count)."""
    count = min(count, logits.shape[-1])
    if count == 0:
        return mx.zeros((logits.shape[0], 0), dtype=mx.uint32)
    found = mx.argpartition(-logits, count - 1, axis=-1)[:, :count]
    order = mx.argsort(-mx.take_along_axis(logits, found, axis=-1), axis=-1)
    return mx.take_along_axis(found, order, axis=-1)
