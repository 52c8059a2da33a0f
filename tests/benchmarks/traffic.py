"""What recorded clients, and agents in their shapes, cost: every cell of client and class of KV, counters included.

`MLXD_TEST_TRAFFIC` names a folder of recordings (see `mlxd probe --traffic`); without it nothing runs. Counts of tokens
do not depend on how busy the machine is.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final

from inference.engine.text import load_text
from mlxd.probe import recording
from mlxd.probe.asks import Ask, Message, Play
from mlxd.probe.client import ProbeFailed
from mlxd.probe.content import prose
from mlxd.probe.oracle import Oracle
from mlxd.probe.report import WORDS, Summary, summaries
from mlxd.probe.run import Target, Turn, play_all
from mlxd.probe.scenarios import SCENARIOS
from mlxd.probe.traffic import Replay
from tests.benchmarks import traffic_models
from tests.benchmarks.figure import Figure
from tests.benchmarks.probe_peers import SNAPSHOT_EVERY_TOKENS
from tests.benchmarks.processes import mlx_lm_server, mlxd
from tests.benchmarks.store import administrator

ANSWER_TOKENS: Final = 32
MAX_RATIO: Final = 1.02
SYSTEM_WORDS: Final = 3650
CACHED_AT_TURN_3: Final = 0.97
KNOWN: Final = {"openclaw (recorded)": 1.19}
"""OpenClaw's last message comes again with every request. Where thoughts would move without it, it is read each time:
the model may go on reading four of them, and behind any more the last answer is computed anew at each step."""
AGENTS: Final = ("drift", "stripped", "pi")
ZERO: Final = (
    "content_lost",
    "exact_key_rejected_by_model_lcp",
    "offset_mismatch",
    "shared_kv_mutated",
    "warm_cold_divergence",
)


def run() -> Iterator[Figure]:
    folder = os.environ.get("MLXD_TEST_TRAFFIC")
    if not folder:
        yield Figure("recorded clients", not_run="name a folder of recordings in MLXD_TEST_TRAFFIC")
        return
    clients = [one for one in recording.read(Path(folder)) if one.exchanges]
    with tempfile.TemporaryDirectory(prefix="mlxd-benchmark-") as made:
        for kind, thinks in product(traffic_models.MODELS, (False, True)):
            name = f"{kind}-thinking" if thinks else kind
            model = traffic_models.build(Path(made) / name, kind, clients, thinks=thinks)
            yield from cells(name, model, clients)
            if not thinks:
                yield drift_elsewhere(name, model)


def cells(kind: str, model: Path, clients: list[recording.Recorded]) -> Iterator[Figure]:
    """One server plays all of a class; no cell reuses what another left."""
    model_text = load_text(model)
    replays = {one.client: Replay(one, lambda _: True) for one in clients}
    plays: Mapping[str, Callable[[], Play]] = {name: SCENARIOS[name] for name in AGENTS}
    plays = {**plays, "text": text, **{f"{name} (recorded)": one.play for name, one in replays.items()}}
    with mlxd(model, "--content-check-every", "1") as served, administrator(served) as http:
        for name, begin in plays.items():
            print(f"# {kind}: {name}", file=sys.stderr, flush=True)
            turns, failed = played(served.url, model, name, begin, Oracle(model_text))
            counters = zeros(http.get("/api/cache/stats").raise_for_status().json())
            note = replays[name.removesuffix(" (recorded)")].note if name not in (*AGENTS, "text") else ""
            yield cell(f"{kind}: {name}", turns, counters, failed or note.partition(": ")[2], failed)
            if name == "text" and turns:
                yield turn_3(kind, turns)


def played(url: str, model: Path, name: str, begin: Callable[[], Play], oracle: Oracle) -> tuple[list[Turn], str]:
    """The turns of a cell, as many as there were, and why it broke off."""
    turns: list[Turn] = []
    target = Target(f"{url}/v1", str(model), ANSWER_TOKENS, salt=name)
    try:
        turns.extend(play_all(target, {name: begin}, oracle))
    except ProbeFailed as error:
        return turns, str(error)
    return turns, ""


def cell(name: str, turns: list[Turn], counters: dict[str, int], note: str, failed: str) -> Figure:
    if not turns:
        return Figure(name, not_run=note or "no turns")
    (told,) = summaries(turns)
    limit = KNOWN.get(told.scenario, MAX_RATIO + WORDS.get(told.scenario, 0.0))
    off = SNAPSHOT_EVERY_TOKENS * sum(_off_plan(turn) for turn in turns if turn.warm)
    wrong = {word: count for word in ZERO if (count := counters.get(word, -1))}  # -1: it is not told
    enough = told.ratio <= limit or told.prefilled - told.necessary <= off
    met = enough and not (told.hidden or wrong or failed)
    target = f"<= {limit:.2f}" + (f" or {off} tokens" if off else "") + ", none hidden, zeros 0"
    return Figure(name, shown(told, turns), target, met, detail(told, wrong, note))


def _off_plan(turn: Turn) -> bool:
    """It began where no state was planned; a repetition to the letter begins before what opens a thought."""
    return turn.verdict.startswith("no_snapshot") or (turn.verdict == "exact" and turn.prefilled > turn.necessary)


def shown(told: Summary, turns: list[Turn]) -> str:
    """The ratio over the warm turns, and what each of them computed beyond the necessary; where some is less, also
    what it has to be at least."""
    beyond = ",".join(f"{turn.prefilled - turn.necessary:+d}" for turn in turns if turn.warm)
    warm = f"{told.warm_turns} of {told.turns} requests warm"
    floor = sum(turn.necessary if turn.floor is None else turn.floor for turn in turns if turn.warm)
    least = f", at least {floor}" if told.prefilled < told.necessary else ""
    return f"{told.ratio:.3f} ({told.prefilled}/{told.necessary}{least}; {warm}: {beyond})"


def detail(told: Summary, wrong: dict[str, int], note: str) -> str:
    counts = {
        "hidden": told.hidden,
        "re-read, thoughts": told.reread_thoughts,
        "re-read, tools": told.reread_tools,
        "foreign answers": told.foreign,
        "disobeyed": told.disobeyed,
        **wrong,
    }
    words = [f"{word} {count}" for word, count in (*told.verdicts.items(), *counts.items()) if count]
    return ", ".join([*words, *([note] if note else [])])


def zeros(stats: Any) -> dict[str, int]:
    """The counters that have to be 0, wherever they stand."""
    if not isinstance(stats, dict):
        return {}
    found = {name: value for name, value in stats.items() if name in ZERO}
    for value in stats.values():
        found |= zeros(value)
    return found


def text() -> Play:
    """Three turns of text below a system prompt of about 4,000 tokens."""
    history: list[Message] = [{"role": "system", "content": prose("text", SYSTEM_WORDS)}]
    for turn in range(3):
        history.append({"role": "user", "content": prose(f"text {turn}", 40)})
        (answer,) = yield [Ask("text", tuple(history))]
        history.append(answer)


def turn_3(kind: str, turns: list[Turn]) -> Figure:
    share = turns[-1].cached / turns[-1].prompt
    of = f"{turns[-1].cached} of {turns[-1].prompt} tokens"
    return Figure(
        f"{kind}: text, cached at turn 3", f"{share:.2%}", f">= {CACHED_AT_TURN_3:.0%}", share >= CACHED_AT_TURN_3, of
    )


def drift_elsewhere(kind: str, model: Path) -> Figure:
    """`drift` on mlx_lm.server, which answers what it likes: where it calls nothing, a user tells it the results."""
    name = f"{kind}: drift, mlx_lm.server"
    with mlx_lm_server(model) as server:
        if isinstance(server, str):
            return Figure(name, not_run=server)
        turns, failed = played(server.url, model, "drift", SCENARIOS["drift"], Oracle(load_text(model)))
    if not turns:
        return Figure(name, not_run=failed)
    (told,) = summaries(turns)
    otherwise = sum(turn.prompt != turn.oracle_prompt for turn in turns)
    words = f"{otherwise} prompts are read otherwise" if otherwise else "all prompts are read alike"
    return Figure(name, shown(told, turns), detail=", ".join(filter(None, (words, failed))))
