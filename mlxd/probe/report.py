"""What a run of the probe comes to: one line a scenario, thresholds, JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from statistics import median
from typing import Any

from mlxd.probe.run import Turn


@dataclass(frozen=True, slots=True)
class Summary:
    """One scenario. Tokens are sums over its warm turns; `hidden` is over all of them and must be 0."""

    scenario: str
    turns: int
    warm_turns: int
    prefilled: int
    necessary: int
    hidden: int
    ttft_warm_s: float
    verdicts: dict[str, int]

    @property
    def ratio(self) -> float:
        """Prefilled over necessary; 1 is perfect, and what a scenario without warm turns has."""
        return self.prefilled / self.necessary if self.necessary else 1.0

    def passes(self, max_ratio: float) -> bool:
        return self.ratio <= max_ratio and not self.hidden


def summaries(turns: Iterable[Turn]) -> list[Summary]:
    """One for each scenario, in order."""
    return [_summary(name, list(group)) for name, group in groupby(turns, key=lambda turn: turn.scenario)]


def _summary(name: str, turns: Sequence[Turn]) -> Summary:
    warm = [turn for turn in turns if turn.warm]
    verdicts: dict[str, int] = {}
    for turn in turns:
        word = turn.verdict.split(";")[0].split("(")[0].strip() or "-"
        verdicts[word] = verdicts.get(word, 0) + 1
    return Summary(
        scenario=name,
        turns=len(turns),
        warm_turns=len(warm),
        prefilled=sum(turn.prefilled for turn in warm),
        necessary=sum(turn.necessary for turn in warm),
        hidden=sum(turn.hidden for turn in turns),
        ttft_warm_s=median(turn.ttft_s for turn in warm) if warm else 0.0,
        verdicts=verdicts,
    )


def as_json(turns: Sequence[Turn], max_ratio: float) -> dict[str, Any]:
    """Everything, for programs."""
    told = summaries(turns)
    return {
        "max_ratio": max_ratio,
        "passed": all(one.passes(max_ratio) for one in told),
        "scenarios": [asdict(one) | {"ratio": round(one.ratio, 4)} for one in told],
        "turns": [asdict(turn) for turn in turns],
    }


def lines(told: Sequence[Summary], max_ratio: float) -> Iterable[str]:
    """The table that people read."""
    yield (
        f"{'scenario':<12} {'turns':>5} {'prefilled':>10} {'necessary':>10} {'ratio':>6} {'hidden':>7} "
        f"{'TTFT':>8}  verdicts"
    )
    for one in told:
        verdicts = ", ".join(f"{name} {count}" for name, count in one.verdicts.items())
        mark = "" if one.passes(max_ratio) else "  <- above the limit"
        yield (
            f"{one.scenario:<12} {one.turns:>5} {one.prefilled:>10} {one.necessary:>10} {one.ratio:>6.2f} "
            f"{one.hidden:>7} {one.ttft_warm_s * 1000:>5.0f} ms  {verdicts}{mark}"
        )
