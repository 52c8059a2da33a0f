"""The command tree: quick, lazy, and every knob a flag."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mlxd
from mlxd.cli import COMMANDS, cli
from mlxd.config import KNOBS

HEAVY = (
    "pydantic",
    "pydantic_settings",
    "django",
    "mlx",
    "mlx_lm",
    "transformers",
    "huggingface_hub",
    "numpy",
    "httpx",
)
HOME = Path(mlxd.__file__).parent.parent


def mlxd_command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "mlxd", *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["serve", "--help"], ["config", "--help"]], ids=" ".join
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys, json\n"
        "from mlxd.cli import cli\n"
        f"try: cli({arguments!r})\nexcept SystemExit as end: assert end.code == 0\n"
        f"print('\\n' + json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout.splitlines()[-1]) == []


def test_module_and_script_are_the_same():
    script = subprocess.run([str(Path(sys.executable).parent / "mlxd"), "--version"], capture_output=True, text=True)
    module = mlxd_command("--version")
    assert script.stdout == module.stdout == f"mlxd {mlxd.__version__}\n"


def test_packages_in_the_working_directory_do_not_shadow_ours(tmp_path):
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "__init__.py").write_text("raise SystemExit('shadowed')")
    assert mlxd_command("models", "--state-dir", str(tmp_path / "s"), cwd=tmp_path).returncode == 0
    refused = mlxd_command(
        "serve", "--state-dir", str(tmp_path / "s"), cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{HOME}", "HOME": "/"}
    )
    assert refused.returncode == 2
    assert "inference" in refused.stderr and str(tmp_path) in refused.stderr
    assert not (tmp_path / "s").exists()


def test_every_command_is_listed_with_the_help_it_has():
    shown = mlxd_command("--help").stdout
    for name, (_, text) in COMMANDS.items():
        assert f"  {name}" in shown
        command = cli.get_command(None, name)
        assert command is not None and (command.help or "").startswith(text.removesuffix(".")[:20])


def test_every_knob_is_a_flag_of_serve_and_names_its_variable():
    shown = mlxd_command("serve", "--help").stdout
    for knob in KNOBS:
        assert knob.flag in shown and knob.env in shown


@pytest.mark.parametrize(
    "arguments", [["serve", "--nonsense"], ["nonsense"], ["chat", "--max-new-tokens", "0"]], ids=" ".join
)
def test_wrong_usage_is_two(arguments):
    assert mlxd_command(*arguments).returncode == 2


def test_every_command_and_option_of_the_chat_is_documented():
    page = (HOME / "docs" / "command-line.md").read_text()
    for name in COMMANDS:
        assert f"## mlxd {name}" in page
    for parameter in cli.get_command(None, "chat").params:
        for option in parameter.opts:
            assert f"`{option}" in page, option
