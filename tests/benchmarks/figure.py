"""What a benchmark measured, its target, and the one line that says both."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated measurements of one thing: the median counts, least and most are the noise."""

    median: float
    least: float
    most: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = list(values)
        return cls(statistics.median(found), min(found), max(found), len(found))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g} to {self.most:.3g}, {self.runs} runs)"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line. `met` is None where there is no target or nothing was measured (`not_run` says why)."""

    name: str
    measured: str = ""
    target: str = ""
    met: bool | None = None
    detail: str = ""
    not_run: str = ""

    def __str__(self) -> str:
        if self.not_run:
            return f"{self.name:<34} not run: {self.not_run}"
        verdict = "reported" if self.met is None else "met" if self.met else "MISSED"
        target = f"  target {self.target}" if self.target else ""
        detail = f"  [{self.detail}]" if self.detail else ""
        return f"{self.name:<34} {verdict:<8} {self.measured}{target}{detail}"


def at_most(name: str, values: Iterable[float], limit: float, detail: str = "", unit: str = "x") -> Figure:
    """A figure that is met when the median is at most `limit`."""
    spread = Spread.of(values)
    return Figure(name, f"{spread} {unit}", f"<= {limit:.3g}", spread.median <= limit, detail)


def at_least(name: str, values: Iterable[float], limit: float, detail: str = "", unit: str = "x") -> Figure:
    """A figure that is met when the median is at least `limit`."""
    spread = Spread.of(values)
    return Figure(name, f"{spread} {unit}", f">= {limit:.3g}", spread.median >= limit, detail)


def report(name: str, values: Iterable[float], unit: str, detail: str = "") -> Figure:
    """A figure without a target."""
    return Figure(name, f"{Spread.of(values)} {unit}", detail=detail)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
