"""What is kept of loads that killed their process: over as many processes as it takes, and only while it matters."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from inference.engine.scripted import Fault, Script, ScriptedLoader
from inference.errors import InvalidModel
from inference.ports import ModelRef
from mlxd.load_deaths import DEATHS, WINDOW_S, LoadDeaths, NotedLoader
from mlxd.seals import Seals

A = ModelRef("a", Path("a"))


class Clock:
    now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


def process(path: Path, clock: Clock, *, dies: bool) -> LoadDeaths:
    """One process that loads `a`, and is killed in the middle of it or not."""
    deaths = LoadDeaths(path, clock)
    deaths.note("a")
    if not dies:
        deaths.note("")
    return deaths


def test_the_third_death_in_ten_minutes_holds_a_model_back_until_they_are_long_ago(tmp_path: Path) -> None:
    path, clock = tmp_path / "loads.json", Clock()
    for number in range(1, DEATHS + 1):
        process(path, clock, dies=True)
        clock.now_s += WINDOW_S / (DEATHS + 1)
        assert LoadDeaths(path, clock).held_back == (frozenset("a") if number == DEATHS else frozenset())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert process(path, clock, dies=False).held_back == frozenset("a"), "it was seen three times all the same"
    clock.now_s += WINDOW_S
    assert not LoadDeaths(path, clock).held_back


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"loading": 3, "deaths": {"a": 7}}', b"\xff\xfe", b'{"deaths": []}']
)
def test_a_file_that_says_nothing_holds_nobody_back(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "loads.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert not LoadDeaths(path, Clock()).held_back


def test_a_load_that_fails_or_succeeds_killed_nobody_and_one_that_ends_the_thread_did(tmp_path: Path) -> None:
    path, clock = tmp_path / "loads.json", Clock()
    script = Script(load_faults={0: Fault.INVALID_MODEL, 2: Fault.EXIT, 3: Fault.EXIT, 4: Fault.EXIT})
    loader = ScriptedLoader(script)
    with pytest.raises(InvalidModel):
        NotedLoader(loader, LoadDeaths(path, clock), Seals()).load(A)
    NotedLoader(loader, LoadDeaths(path, clock), Seals()).load(A)
    for _ in range(DEATHS):
        deaths = LoadDeaths(path, clock)
        assert not deaths.held_back
        with pytest.raises(SystemExit):
            NotedLoader(loader, deaths, Seals()).load(A)
    assert LoadDeaths(path, clock).held_back == frozenset("a")
