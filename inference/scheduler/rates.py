"""Tokens per second, smoothed over about a second."""

from __future__ import annotations


class Rate:
    """Counts tokens; `read` turns what came since the last reading into a smoothed rate."""

    def __init__(self) -> None:
        self._tokens = 0
        self._read_s: float | None = None
        self.tps = 0.0

    def add(self, tokens: int) -> None:
        self._tokens += tokens

    def read(self, now_s: float) -> float:
        """Tokens per second. Readings closer than 50 ms return the last one."""
        if self._read_s is None:
            self._read_s = now_s
        span_s = now_s - self._read_s
        if span_s >= 0.05:
            share = min(1.0, span_s / 0.5)
            self.tps += share * (self._tokens / span_s - self.tps)
            self._tokens, self._read_s = 0, now_s
        return self.tps
