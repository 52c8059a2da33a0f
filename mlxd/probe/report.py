"""What a run of the probe comes to: one line a scenario, thresholds, JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from statistics import median
from typing import Any, Final

from mlxd.probe.run import Turn

WORDS: Final = {"drift": 0.03}
"""What a scenario may have above the limit: the words that say what is replaced by which new value."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One scenario. Tokens are sums over its warm turns; `hidden` is over all of them and must be 0.

    `reread_thoughts` and `reread_tools` are necessary tokens that had been read before, `foreign` answers in requests
    that the server did not give, `disobeyed` those it gave otherwise than it was asked to; over all turns.
    """

    scenario: str
    turns: int
    warm_turns: int
    prefilled: int
    necessary: int
    hidden: int
    ttft_warm_s: float
    verdicts: dict[str, int]
    prompt: int = 0
    cached: int = 0
    reread_thoughts: int = 0
    reread_tools: int = 0
    foreign: int = 0
    disobeyed: int = 0

    @property
    def ratio(self) -> float:
        """Prefilled over necessary; 1 is perfect, and what a scenario without warm turns has."""
        return self.prefilled / self.necessary if self.necessary else 1.0

    def passes(self, max_ratio: float) -> bool:
        return self.ratio <= max_ratio + WORDS.get(self.scenario, 0.0) and not self.hidden


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
        prompt=sum(turn.prompt for turn in turns),
        cached=sum(turn.cached for turn in turns),
        reread_thoughts=sum(turn.reread_thoughts for turn in turns),
        reread_tools=sum(turn.reread_tools for turn in turns),
        foreign=sum(turn.foreign for turn in turns),
        disobeyed=sum(not turn.obeyed for turn in turns),
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
    width = max(12, *(len(one.scenario) for one in told))
    yield (
        f"{'scenario':<{width}} {'turns':>5} {'prompt':>8} {'cached':>8} {'prefilled':>10} {'necessary':>10} "
        f"{'ratio':>6} {'hidden':>7} {'TTFT':>8}  verdicts"
    )
    for one in told:
        verdicts = ", ".join(f"{name} {count}" for name, count in one.verdicts.items())
        mark = "" if one.passes(max_ratio) else "  <- above the limit"
        yield (
            f"{one.scenario:<{width}} {one.turns:>5} {one.prompt:>8} {one.cached:>8} {one.prefilled:>10} "
            f"{one.necessary:>10} {one.ratio:>6.2f} {one.hidden:>7} {one.ttft_warm_s * 1000:>5.0f} ms  {verdicts}{mark}"
        )
        yield from _notes(one)


def _notes(one: Summary) -> Iterable[str]:
    """What the ratio does not show."""
    if one.reread_thoughts:
        yield f"    {one.reread_thoughts} of the necessary were read before: the template takes past thoughts out"
    if one.reread_tools:
        yield f"    {one.reread_tools} of the necessary were read before: the tools are others"
    if one.foreign:
        yield f"    {one.foreign} answers in its requests are recorded ones, not this server's"
    if one.disobeyed:
        yield f"    {one.disobeyed} answers are not those that were asked for"
