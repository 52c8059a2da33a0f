"""Each check of `mlxd doctor` finds its fault when it is planted, names a cure, and is content without it."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

from mlxd.doctor import (
    CHECKS,
    Status,
    examine,
    machine,
    model_files,
    other_people,
    python_env,
    settings,
)
from mlxd.shadowing import shadowed_packages
from tests.doctor_scene import healthy, ill

GIB = 1 << 30
HOME = Path(python_env.__file__).parents[2]


# --- Python -----------------------------------------------------------------------------------------------------------


def test_versions_of_everything_that_matters(scene):
    shown = healthy(python_env.versions(scene()))
    for name in ("mlx", "mlx-lm", "django", "daphne"):
        assert f"{name} {metadata.version(name)}" in shown


@pytest.mark.parametrize(("version", "fine"), [((3, 11), False), ((3, 12), True), ((3, 14), True), ((3, 15), False)])
def test_the_python_it_runs_on(version, fine, scene):
    finding = python_env.python_version(scene(), version)
    healthy(finding) if fine else ill(finding)


@pytest.fixture
def venv(tmp_path):
    root = tmp_path / "venv"
    running = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (root / "bin").mkdir(parents=True)
    (root / "lib" / running).mkdir(parents=True)
    (root / "pyvenv.cfg").touch()
    (root / "bin" / running).touch()
    (root / "bin" / "pip3").write_text(f"#!{root}/bin/{running}\n")
    return root


def test_a_clean_venv(scene, venv):
    healthy(python_env.virtual_environment(scene(), venv))


@pytest.mark.parametrize("stray", ["bin/python3.99", "bin/python3.99-config", "lib/python3.99/site-packages"])
def test_another_pythons_files_in_the_venv_are_named(stray, scene, venv):
    (venv / stray).mkdir(parents=True)
    said = ill(python_env.virtual_environment(scene(), venv))
    assert "python3.99" in said and f"rm -r {venv}" in said


def test_a_pip_of_another_python_in_the_venv_is_named(scene, venv):
    (venv / "bin" / "pip3").write_text("#!/usr/bin/python3.99\n")
    assert "pip3 (runs python3.99)" in ill(python_env.virtual_environment(scene(), venv))


def test_outside_a_venv_there_is_nothing_to_pollute(scene, tmp_path):
    healthy(python_env.virtual_environment(scene(), tmp_path))


def test_our_own_requirements_are_met(scene):
    healthy(python_env.requirements(scene()))


def test_missing_and_old_packages_are_named(scene):
    wanted = ["mlx-lm>=999", "surely-not-installed>=1", "django", "other>=1; sys_platform == 'nowhere'"]
    said = ill(python_env.requirements(scene(), wanted))
    assert f"mlx-lm is {metadata.version('mlx-lm')}, wanted >=999" in said
    assert "surely-not-installed is not installed" in said
    assert "django" not in said and "other" not in said


def test_torch_beside_mlx(scene):
    assert "uninstall" in ill(python_env.torch(scene(), "2.9"), Status.WARN)
    healthy(python_env.torch(scene()))


def test_shadowed_packages(scene, tmp_path):
    healthy(python_env.packages_are_ours(scene()))
    for name in ("inference", "dashboard"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    said = ill(python_env.packages_are_ours(scene(), [str(tmp_path), str(HOME)]))
    assert str(tmp_path / "inference") in said and str(tmp_path / "dashboard") in said
    assert shadowed_packages([str(tmp_path / "nowhere")]) == {"inference": None, "dashboard": None}


# --- the machine ------------------------------------------------------------------------------------------------------


def test_metal_is_macos_only(scene):
    assert "not applicable" in healthy(machine.metal_library(scene(), platform="linux"))


def test_a_missing_or_unusable_metal_library(scene, tmp_path):
    usable = machine.Probe("gpu", metal=True)
    assert "mlx.metallib" in ill(machine.metal_library(scene(), "darwin", tmp_path, usable))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mlx.metallib").touch()
    healthy(machine.metal_library(scene(), "darwin", tmp_path, usable))
    broken = machine.Probe("", trouble="Failed to load the default metallib")
    assert "default metallib" in ill(machine.metal_library(scene(), "darwin", tmp_path, broken))
    ill(machine.metal_library(scene(), "darwin", tmp_path, machine.Probe("cpu", metal=False)))


def test_mlx_really_computes_here():
    probe = machine.probe_mlx()
    assert probe.device in ("cpu", "gpu") and not probe.trouble


def test_a_crash_of_mlx_is_reported_not_shared(monkeypatch):
    monkeypatch.setattr(machine, "PROBE", "import os; os.abort()")
    assert machine.probe_mlx().device == ""
    monkeypatch.setattr(machine, "PROBE", "raise RuntimeError('no device')")
    assert "no device" in machine.probe_mlx().trouble


def test_slow_device(scene):
    healthy(machine.speed(scene(), machine.Probe("gpu")))
    ill(machine.speed(scene(), machine.Probe("cpu")), Status.WARN)
    ill(machine.speed(scene(), machine.Probe("", trouble="x")))


def test_little_memory(scene):
    healthy(machine.memory(scene(), 16 * GIB))
    ill(machine.memory(scene(), 8 * GIB), Status.WARN)
    assert machine.memory_bytes() > GIB / 4


def test_the_state_directory(scene, tmp_path):
    healthy(machine.state_directory(scene()))
    (tmp_path / "state").chmod(0o755)
    assert "chmod 700" in ill(machine.state_directory(scene()))
    (tmp_path / "state").chmod(0o700)
    (tmp_path / "state").rmdir()
    healthy(machine.state_directory(scene()))
    assert not (tmp_path / "state").exists()


# --- settings ---------------------------------------------------------------------------------------------------------


def test_names_nobody_reads(scene):
    healthy(settings.unknown_names(scene()))
    assert "MLXD_X" in ill(settings.unknown_names(scene(warnings=["MLXD_X is not a setting"])), Status.WARN)


def test_names_of_other_servers(scene):
    healthy(settings.names_of_other_servers(scene({"OPENAI_API_KEY": "k", "PATH": "/"})))
    names = {"MLX_PORT": "1", "KV_BITS": "4", "MLX_MODEL_CACHE_TTL": "60", "CACHE_VLM_IMAGE_IDENTITY": "1"}
    said = ill(settings.names_of_other_servers(scene(names)), Status.WARN)
    assert "MLX_PORT: MLXD_PORT" in said and "MLX_MODEL_CACHE_TTL: MLXD_MODEL_TTL_S" in said
    assert "KV_BITS: By request" in said and "CACHE_VLM_IMAGE_IDENTITY: Not yet" in said


def test_settings_that_slow_it_down(scene):
    healthy(settings.pace(scene()))
    assert "prefill_step_tokens" in ill(settings.pace(scene(prefill_step_tokens=8192)), Status.WARN)
    ill(settings.pace(scene(max_context_tokens=1 << 20)), Status.WARN)
    ill(settings.pace(scene(debug=3)), Status.WARN)


# --- the round --------------------------------------------------------------------------------------------------------


def test_a_broken_check_does_not_hide_the_others(scene):
    def broken(_scene):
        raise RuntimeError("secret detail")

    findings = examine(scene(), (broken, settings.pace))
    assert [finding.status for finding in findings] == [Status.FAIL, Status.OK]
    assert "RuntimeError" in findings[0].what and "secret" not in findings[0].what


def test_names_are_unique_here(scene):
    findings = examine(
        scene(port=0), tuple(check for check in CHECKS if check not in (machine.speed, model_files.fits))
    )
    assert len({finding.name for finding in findings}) == len(findings)
    assert [finding for finding in findings if finding.status is Status.FAIL] == []


def test_every_check_is_in_the_troubleshooting_page(scene):
    page = (HOME / "docs" / "troubleshooting.md").read_text()
    for finding in examine(scene(port=0), tuple(check for check in CHECKS if check is not machine.speed)):
        assert f"`{finding.name}`" in page, finding.name


# --- other people -----------------------------------------------------------------------------------------------------


def test_without_keys_a_machine_is_one_persons(scene, monkeypatch):
    monkeypatch.setattr(other_people, "count_people", lambda: 1)
    healthy(other_people.who_can_use_it(scene(require_key=False)))
    monkeypatch.setattr(other_people, "count_people", lambda: 2)
    assert "mlxd keys add" in ill(other_people.who_can_use_it(scene(require_key=False)), Status.WARN)
    healthy(other_people.who_can_use_it(scene(require_key=True)))
    assert "2 people" in healthy(other_people.who_can_use_it(scene()))
