"""A launch in somebody else's environment: what other programs put before our packages is left aside, or named."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mlxd
from mlxd.config import Config
from mlxd.doctor import Scene, Status
from mlxd.doctor.environment import foreign_code
from mlxd.paths import StateDir
from mlxd.shadowing import leave_foreign_paths

HOME = str(Path(mlxd.__file__).resolve().parent.parent)


def test_places_of_others_go_and_our_own_stays(tmp_path: Path) -> None:
    theirs, more = str(tmp_path / "theirs"), str(tmp_path / "more")
    searched = [theirs, HOME, more, "/usr/lib/python"]
    environ = {"PYTHONPATH": os.pathsep.join((theirs, HOME, "", more))}
    assert leave_foreign_paths(environ, searched) == [theirs, more]
    assert searched == [HOME, "/usr/lib/python"] and environ == {"PYTHONPATH": HOME}
    assert leave_foreign_paths(environ, searched) == []
    environ = {"PYTHONPATH": theirs, "PATH": "/bin"}
    leave_foreign_paths(environ, searched)
    assert environ == {"PATH": "/bin"}, "nor do children go there"


def test_a_place_is_found_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has them on its path without the turns."""
    monkeypatch.chdir(tmp_path)
    for spelled in ("theirs/../theirs", f"{tmp_path}/x/..//theirs/", "./theirs", "theirs"):
        searched = [str(tmp_path / "theirs"), HOME]
        assert leave_foreign_paths({"PYTHONPATH": spelled}, searched) == [spelled]
        assert searched == [HOME]


@pytest.mark.parametrize(("module", "code", "says"), [("django", 0, ""), ("click", 3, "click")])
def test_a_package_of_another_program_is_not_run_or_is_named(module: str, code: int, says: str, tmp_path: Path) -> None:
    """One that is imported later is found where it belongs; one that came in before us cannot be undone."""
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("CANARY = 1")
    run = (
        "import sys; from mlxd.start_errors import ShadowedPackage\n"
        "if sys.argv[1] == 'click': import click\n"
        "from mlxd.shadowing import leave_foreign_paths\n"
        "try: leave_foreign_paths()\n"
        "except ShadowedPackage as error: print(error.message); sys.exit(3)\n"
        "import django; assert not hasattr(django, 'CANARY')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", run, module], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code, ended.stderr
    assert says in ended.stdout


def test_what_an_editor_brings_in_beside_ours_ends_no_start(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import traced")
    (tmp_path / "traced.py").write_text("CANARY = 1")
    run = "import sys; from mlxd.shadowing import leave_foreign_paths; leave_foreign_paths(); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", run], env=environment, capture_output=True, text=True, check=True)
    assert {"sitecustomize", "traced"} <= set(ended.stdout.split())


@pytest.mark.parametrize("name", ["", "PYTHONPATH", "DYLD_INSERT_LIBRARIES", "LD_PRELOAD"])
def test_what_brings_foreign_code_in_is_named(name: str, tmp_path: Path) -> None:
    finding = foreign_code(Scene(Config(state_dir=tmp_path), StateDir(tmp_path), {name: "/x"} if name else {}))
    assert finding.status is (Status.WARN if name else Status.OK)
    assert name in finding.what and name in finding.cure


def test_every_package_of_the_lock_is_pinned_by_its_digest() -> None:
    lock = tomllib.loads((Path(HOME) / "uv.lock").read_text())
    loose = [
        package["name"]
        for package in lock["package"]
        if "registry" in package["source"]
        and not all(
            file.get("hash", "").startswith("sha256:")
            for file in [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        )
    ]
    assert not loose and len(lock["package"]) > 20
