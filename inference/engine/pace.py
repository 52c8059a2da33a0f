"""How much prefill a step may do while other rows wait for their next token.

A chunk is a number of tokens, but not a time: late tokens of a long prompt attend to more (measured, 34M model, CPU:
the first chunk of 512 took 146 ms, the last of a 21k prompt 530). So beside decoding rows a chunk that has become slow
shrinks, by pieces of the grid, to about the time a whole chunk takes at the beginning of a prompt. The pieces, and
so the results, are the same; only where a step ends changes.
"""

from __future__ import annotations

from inference.engine.settings import GRID_TOKENS

_TOLERANCE = 1.5
"""Slower than the best by less than this is noise, not depth."""
_LEAST_TOKENS = GRID_TOKENS // 2
"""Shorter chunks are mostly overhead and teach nothing about the cost of a token."""


class Pace:
    """Learns what a token of prefill costs, from the chunks of one model."""

    def __init__(self, step_tokens: int) -> None:
        self._step_tokens = step_tokens
        self._best_s = float("inf")
        self._last_s = 0.0

    def took(self, tokens: int, elapsed_s: float) -> None:
        """A chunk of so many tokens was computed."""
        if tokens >= _LEAST_TOKENS:
            self._last_s = elapsed_s / tokens
            self._best_s = min(self._best_s, self._last_s)

    def step_tokens(self, *, others_wait: bool) -> int:
        """The budget of the next step, a multiple of 256: all of it when nobody waits, else what fits the time."""
        if not others_wait or self._last_s <= self._best_s * _TOLERANCE:
            return self._step_tokens
        fitting = int(self._step_tokens * self._best_s * _TOLERANCE / self._last_s)
        return max(GRID_TOKENS, fitting // GRID_TOKENS * GRID_TOKENS)
