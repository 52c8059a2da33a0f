"""`mlxd probe` against the real daemon, for each class of model: no token is computed twice, and none is hidden."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import echo_models
from tests.e2e.daemon import MLXD, ServedDaemon, clean_environment

ALL = ("normal", "insert", "branch", "fanout", "sides", "interleaved", "semantic")
MOST = ("normal", "insert", "branch", "fanout", "semantic")
PLANNED = ("normal", "branch", "fanout")
"""Scenarios that part from what was read where a recurrent state is kept."""
SNAPSHOT_EVERY_TOKENS = 2048


@dataclass(frozen=True)
class Probed:
    """The exit code and the JSON of one run."""

    code: int
    found: dict[str, Any]

    def ratio(self, scenario: str) -> float:
        return next(float(one["ratio"]) for one in self.found["scenarios"] if one["scenario"] == scenario)

    @property
    def turns(self) -> list[dict[str, Any]]:
        return list(self.found["turns"])


Probe = Callable[..., Probed]


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    """Serves a model of its own and plays scenarios against it, through the command line."""

    def play(architecture: str, *scenarios: str, **model: Any) -> Probed:
        base = tmp_path_factory.mktemp(architecture)
        path = echo_models.build(base / "model", architecture, **model)
        with ServedDaemon(base / "state", ["--model", str(path)]) as served:
            served.wait_ready()
            url = ["--base-url", f"{served.url}/v1", "--tokenizer", str(path)]
            return run(base / "found.json", *url, "--max-tokens", "24", *scenarios)

    yield play


def run(file: Path, *arguments: str) -> Probed:
    command = [*MLXD, "probe", "run", *arguments, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=800)
    assert file.exists(), done.stderr
    return Probed(done.returncode, json.loads(file.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "scenarios"), [("dense", ALL), ("sliding", MOST)], ids=["dense", "sliding"])
def test_attention_computes_exactly_what_is_necessary(
    probed: Probe, architecture: str, scenarios: tuple[str, ...]
) -> None:
    """To the token, in every turn: cold, warm, edited, side by side."""
    done = probed(architecture, *scenarios)
    assert done.code == 0 and done.found["passed"]
    assert [turn for turn in done.turns if turn["prefilled"] != turn["necessary"]] == []
    assert {one["scenario"] for one in done.found["scenarios"]} == set(scenarios)
    assert all(one["warm_turns"] for one in done.found["scenarios"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "template", [echo_models.tiny_models.CHAT_TEMPLATE, echo_models.THINKING_TEMPLATE], ids=["plain", "thinking"]
)
def test_recurrent_layers_resume_at_what_was_planned(probed: Probe, template: str) -> None:
    """Within 2 % where a conversation parts at a planned boundary, and a grid of 2,048 tokens at most elsewhere."""
    done = probed("hybrid", *PLANNED, "insert", template=template)
    assert all(done.ratio(name) <= 1.02 for name in PLANNED)
    assert all(0 <= turn["prefilled"] - turn["necessary"] <= SNAPSHOT_EVERY_TOKENS for turn in done.turns)
    assert not any(one["hidden"] for one in done.found["scenarios"])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["dense", "sliding"])
def test_agents_that_drift_and_respell_cost_nothing_twice(probed: Probe, architecture: str) -> None:
    """But for the words that say which date replaces which; one token an answer is the end that a held model wrote."""
    template = (Path(__file__).parents[1] / "templates" / "chatml.jinja").read_text()
    done = probed(architecture, "drift", "stripped", "pi", template=template)
    assert done.code == 0 and done.ratio("drift") <= 1.05
    assert max(done.ratio("stripped"), done.ratio("pi")) <= 1.02
    assert all(turn["obeyed"] for turn in done.turns)
    assert {turn["scenario"] for turn in done.turns if turn["bound"]} == {"drift"}
    assert not any(one["hidden"] or one["foreign"] for one in done.found["scenarios"])


def test_a_ratio_above_the_limit_is_exit_code_1(daemon: ServedDaemon, tiny_model: Path, tmp_path: Path) -> None:
    """That model's answers come back as other tokens than it wrote, so an impossible limit is not kept."""
    arguments = ["--base-url", f"{daemon.url}/v1", "--tokenizer", str(tiny_model), "--max-ratio", "0.5", "semantic"]
    done = run(tmp_path / "found.json", *arguments)
    assert done.code == 1 and not done.found["passed"]
    assert done.ratio("semantic") > 0.5


def test_a_server_that_is_not_there_is_exit_code_2(tmp_path: Path) -> None:
    command = [*MLXD, "probe", "normal", "--base-url", "http://127.0.0.1:9/v1", "--model", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=240)
    assert done.returncode == 2
    assert "127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_daemon_that_is_ended_and_started_again_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    command = [*MLXD, "probe", "restart", "--model", str(tiny_model), "--turns", "1", "--conversations", "1"]
    done = subprocess.run(
        [*command, "--json", str(file)], capture_output=True, text=True, env=clean_environment(), timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())["resumed"]
    assert [one["mode"] for one in found] == ["SIGTERM", "kill -9"]
    assert found[0]["share"] >= 0.97 and 0 <= found[1]["beyond_tokens"] <= 255
