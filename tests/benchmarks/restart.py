"""`mlxd probe restart` against mlxd, mlx_lm.server and rapid-mlx: what each computes again because it was ended.

Each server begins with nothing and keeps what it keeps between its lives: its state directory, or its home. Token
counts do not depend on how busy the machine is. What a server says is checked against what its model was called with.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from inference.conversation.text_model import TextModel
from inference.engine.text import load_text
from mlxd.probe.client import ProbeFailed
from mlxd.probe.oracle import Oracle
from mlxd.probe.restart import MAX_BEYOND_TOKENS, MIN_CACHED, MODES, Resumed, probe
from mlxd.probe.run import Target
from mlxd.probe.served import Served, free_port
from tests.benchmarks import counted, machine, rapid_mlx
from tests.benchmarks.figure import Figure
from tests.benchmarks.scenario_models import scenario_model

KINDS: Final = ("dense",)
ANSWER_TOKENS: Final = 40
CONVERSATIONS: Final = 3
TURNS: Final = 3
THREADS: Final = 1


@dataclass(slots=True)
class Ended:
    """What came of one server. `source` are the tokens its model was given behind each restart, by mode."""

    resumed: list[Resumed] = field(default_factory=list)
    source: dict[str, int] = field(default_factory=dict)
    failed: str = ""

    def of(self, mode: str) -> list[Resumed]:
        return [one for one in self.resumed if one.mode == mode]


def run() -> Iterator[Figure]:
    for kind in KINDS:
        model = scenario_model(kind)
        text = load_text(model)
        found = {name: ended(command, model, text) for name, command in SERVERS.items()}
        for mode in MODES:
            yield against(kind, mode, found)
        yield at_the_source(kind, found["mlxd"])


def against(kind: str, mode: str, found: dict[str, Ended]) -> Figure:
    ours = found["mlxd"].of(mode)
    if not ours:
        return Figure(f"{kind}: {mode}", not_run=f"mlxd: {found['mlxd'].failed}")
    target = f">= {MIN_CACHED:.0%} cached" if mode == "SIGTERM" else f"<= {MAX_BEYOND_TOKENS} tokens beyond"
    return Figure(
        f"{kind}: {mode}",
        "; ".join(f"{name} {shown(one, mode)}" for name, one in found.items()),
        f"mlxd {target} in each conversation",
        all(one.passes() for one in ours),
        ", ".join(f"{one.turn.cached} of {one.turn.prompt}, {one.beyond_tokens:+d}" for one in ours),
    )


def shown(one: Ended, mode: str) -> str:
    resumed = one.of(mode)
    if not resumed:
        return f"not run ({one.failed})"
    prefilled, necessary = (sum(getattr(each.turn, name) for each in resumed) for name in ("prefilled", "necessary"))
    shares = ", ".join(f"{each.share:.1%}" for each in resumed)
    return f"{prefilled / necessary:.2f} ({prefilled}/{necessary}, {shares} cached)"


def at_the_source(kind: str, ours: Ended) -> Figure:
    """Against the calls of its model: a prompt's last token may be fed by a decode step, or read with the rest."""
    gaps = {
        mode: ours.source[mode] + len(ours.of(mode)) - sum(one.turn.prefilled for one in ours.of(mode))
        for mode in ours.source
    }
    return Figure(
        f"{kind}: counted at the source",
        ", ".join(f"{mode} {gap:+d}" for mode, gap in gaps.items()) + " tokens beyond what mlxd says",
        f"within {CONVERSATIONS}, one for each turn",
        bool(gaps) and all(0 <= gap <= CONVERSATIONS for gap in gaps.values()),
    )


def ended(command: Command, model: Path, text: TextModel) -> Ended:
    """Begins one server with nothing and ends it in every mode."""
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made:
        home, counter, port = Path(made), Path(made) / "tokens", free_port()
        counted.begin(counter)
        words = command(model, counter, port, home)
        if isinstance(words, str):
            return Ended(failed=words)
        quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "RAPID_MLX_TELEMETRY": "0", "HOME": made}
        served = Served(f"http://127.0.0.1:{port}/v1", words, environment=machine.environment(THREADS, **quiet))
        return played(served, str(model), Oracle(text), counter)


def played(served: Served, model: str, oracle: Oracle, counter: Path) -> Ended:
    found, before = Ended(), 0

    def again(number: signal.Signals) -> float:
        nonlocal before
        took_s = served.again(number)
        before = counted.tokens(counter)  # what a start computes by itself is not of the conversations
        return took_s

    try:
        with served:
            target = Target(served.base_url, model, ANSWER_TOKENS)
            for one in probe(target, oracle, again, conversations=CONVERSATIONS, turns=TURNS):
                found.resumed.append(one)
                found.source[one.mode] = counted.tokens(counter) - before
                print(f"# {served.command[-1]} {one.mode} {one.turn.cached}/{one.turn.prompt}", file=sys.stderr)
    except ProbeFailed as error:
        found.failed = str(error)
    return found


type Command = Callable[[Path, Path, int, Path], list[str] | str]
"""What starts a server of a model on a port, counted, with a home; or why there is none."""


def _launch(counter: Path) -> list[str]:
    return ["-P", str(Path(counted.__file__)), str(counter)]


def _mlxd(model: Path, counter: Path, port: int, home: Path) -> list[str]:
    served = ["mlxd", "serve", "--model", str(model), "--port", str(port), "--state-dir", str(home / "state")]
    return [sys.executable, *_launch(counter), *served]


def _mlx_lm(model: Path, counter: Path, port: int, home: Path) -> list[str]:
    return [sys.executable, *_launch(counter), "mlx_lm", "server", "--model", str(model), "--port", str(port)]


def _rapid_mlx(model: Path, counter: Path, port: int, home: Path) -> list[str] | str:
    if (python := rapid_mlx.python()) is None:
        return "rapid-mlx is not installed (--install-peers)"
    return [str(python), *_launch(counter), "rapid_mlx.cli", "serve", str(model), "--port", str(port), "--yes"]


SERVERS: Final[dict[str, Command]] = {"mlxd": _mlxd, "mlx_lm.server": _mlx_lm, "rapid-mlx": _rapid_mlx}
