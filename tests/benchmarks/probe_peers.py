"""The scenarios of `mlxd probe` against mlxd, mlx_lm.server and rapid-mlx: what each computes beyond the necessary.

Token counts do not depend on how busy the machine is. What a server says of its cache is checked against what its
model was called with (`counted.py`).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.conversation.text_model import TextModel
from inference.engine.text import load_text
from mlxd.probe.client import ProbeFailed
from mlxd.probe.oracle import Oracle
from mlxd.probe.report import Summary, summaries
from mlxd.probe.run import Target, Turn, play
from tests.benchmarks import counted
from tests.benchmarks.figure import Figure
from tests.benchmarks.processes import Peer, mlx_lm_server, mlxd, rapid_mlx_server
from tests.benchmarks.scenario_models import MODELS, scenario_model
from tests.e2e.daemon import ServedDaemon

SCENARIOS: Final = ("normal", "insert", "branch", "fanout", "sides", "interleaved", "semantic")
"""Those that need no tools and no clocks: the models here have no words for calls."""
ANSWER_TOKENS: Final = 16
THREADS: Final = 1
MAX_RATIO: Final = 1.02
SNAPSHOT_EVERY_TOKENS: Final = 2048
"""What a hybrid model may compute more where a divergence lies on no planned boundary."""
OFF_BOUNDARY: Final = {"insert": 1, "semantic": 1}
"""How often a scenario parts from what was read in the middle of a message."""


@dataclass(frozen=True, slots=True)
class Played:
    """What a server did in one scenario. `source` counts what its model was called with, decode steps left out."""

    summary: Summary
    turns: tuple[Turn, ...]
    source: int

    @property
    def beyond(self) -> int:
        """Tokens computed beyond the necessary, cold turns included; servers' answers may differ, so their prompts."""
        return sum(turn.prefilled - turn.necessary for turn in self.turns)

    @property
    def read_otherwise(self) -> int:
        """Prompts that are not as many tokens as the oracle reads: by another tokenizer nothing can be compared."""
        return sum(turn.prompt != turn.oracle_prompt for turn in self.turns)

    @property
    def unexplained(self) -> int:
        """Tokens at the source that the server did not say, were the last of each prompt fed by a decode step.

        mlxd reads it with the rest where that costs less: then it is at the source, one token for each such turn.
        """
        return self.source + len(self.turns) - sum(turn.prefilled for turn in self.turns)


@dataclass(frozen=True, slots=True)
class Table:
    """What one server did, by scenario; `failed` says why some or all scenarios are not there."""

    played: dict[str, Played]
    failed: str = ""


def run() -> Iterator[Figure]:
    for kind in MODELS:
        yield from compare(kind)


def compare(kind: str) -> Iterator[Figure]:
    model = scenario_model(kind)
    text = load_text(model)
    tables = {name: measured(start, model, text) for name, start in SERVERS.items()}
    for name, table in tables.items():
        if table.failed:
            missing = ", ".join(scenario for scenario in SCENARIOS if scenario not in table.played)
            yield Figure(f"{kind}: {name}", not_run=f"{missing}: {table.failed}")
    ours = tables.pop("mlxd").played
    for scenario, mine in ours.items():
        peers = {name: table.played[scenario] for name, table in tables.items() if scenario in table.played}
        yield against(kind, scenario, mine, peers)
    if ours:
        yield at_the_source(kind, {"mlxd": ours, **{name: table.played for name, table in tables.items()}})


def against(kind: str, scenario: str, mine: Played, peers: dict[str, Played]) -> Figure:
    """One line of the table: ratios over the warm turns, and nobody computes less."""
    allowed = SNAPSHOT_EVERY_TOKENS * OFF_BOUNDARY.get(scenario, 0) if kind == "hybrid" else 0
    enough = mine.summary.ratio <= MAX_RATIO or mine.beyond <= allowed
    least = min((peer.beyond for peer in peers.values() if not peer.read_otherwise), default=mine.beyond)
    sound = not mine.summary.hidden and not mine.read_otherwise
    target = f"<= {MAX_RATIO:.2f}" + (f" or {allowed} tokens" if allowed else "") + ", nobody less"
    return Figure(
        f"{kind}: {scenario}",
        f"{shown(mine)}; " + ", ".join(f"{name} {shown(peer)}" for name, peer in peers.items()),
        target,
        enough and mine.beyond <= least and sound,
        ", ".join(f"{word} {count}" for word, count in mine.summary.verdicts.items()),
    )


def shown(played: Played) -> str:
    one = played.summary
    otherwise = f", {played.read_otherwise} prompts read otherwise" if played.read_otherwise else ""
    return f"{one.ratio:.2f} ({one.prefilled}/{one.necessary}, {played.beyond:+d} in all{otherwise})"


def at_the_source(kind: str, tables: dict[str, dict[str, Played]]) -> Figure:
    """mlxd's word against the calls of its model: equal but for a prompt's last token, which may be read either way,
    and for prefill calls of one token, which look like decode."""
    gaps = {name: [played.unexplained for played in table.values()] for name, table in tables.items()}
    turns = sum(len(played.turns) for played in tables["mlxd"].values())
    return Figure(
        f"{kind}: counted at the source",
        "; ".join(f"{name} {sum(found):+d}" for name, found in gaps.items()) + " tokens beyond what it says",
        f"mlxd within {turns}, one for each turn",
        all(abs(gap) <= len(played.turns) for gap, played in zip(gaps["mlxd"], tables["mlxd"].values(), strict=True)),
        "; ".join(f"{name} {found}" for name, found in gaps.items()),
    )


def measured(start: Start, model: Path, text: TextModel) -> Table:
    """Plays every scenario against one server that runs with its calls counted."""
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made:
        counter = Path(made) / "tokens"
        counted.begin(counter)
        with start(model, counter) as server:
            if isinstance(server, str):
                return Table({}, server)
            return played(Target(f"{server.url}/v1", str(model), ANSWER_TOKENS), Oracle(text), counter)


def played(target: Target, oracle: Oracle, counter: Path) -> Table:
    """All scenarios in one play: a server may say nothing of its cache throughout one in which it cached nothing.

    Where a server fails, the scenario of its last answer is taken for broken off.
    """
    turns: dict[str, list[Turn]] = {}
    ends: dict[str, int] = {}
    began, failed = counted.tokens(counter), ""
    try:
        for turn in play(target, SCENARIOS, oracle):
            if turn.scenario not in turns:
                print(f"# {target.base_url} {turn.scenario}", file=sys.stderr)
            turns.setdefault(turn.scenario, []).append(turn)
            ends[turn.scenario] = counted.tokens(counter)
    except ProbeFailed as error:
        failed = str(error)
    whole = [*ends][: len(ends) - bool(failed)]
    starts = dict(zip(whole, (began, *ends.values()), strict=False))
    return Table({name: one_played(turns[name], ends[name] - starts[name]) for name in whole}, failed)


def one_played(turns: list[Turn], source: int) -> Played:
    (summary,) = summaries(turns)
    return Played(summary, tuple(turns), source)


type Start = Callable[[Path, Path], AbstractContextManager[Peer | ServedDaemon | str]]


def _launch(counter: Path) -> tuple[str, ...]:
    """What follows an interpreter to run a module with its model's calls counted."""
    return ("-P", str(Path(counted.__file__)), str(counter))


def _mlxd(model: Path, counter: Path) -> AbstractContextManager[ServedDaemon]:
    return mlxd(model, threads=THREADS, command=(sys.executable, *_launch(counter), "mlxd"))


def _mlx_lm(model: Path, counter: Path) -> AbstractContextManager[Peer | str]:
    return mlx_lm_server(model, threads=THREADS, launch=(sys.executable, *_launch(counter)))


def _rapid_mlx(model: Path, counter: Path) -> AbstractContextManager[Peer | str]:
    return rapid_mlx_server(model, threads=THREADS, launch=_launch(counter))


SERVERS: Final[dict[str, Start]] = {"mlxd": _mlxd, "mlx_lm.server": _mlx_lm, "rapid-mlx": _rapid_mlx}
