"""`mlxd doctor`: runs the checks and prints what they found; exit code 1 if one of them fails."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

import click

from mlxd.cli.options import KnobCommand, given, knob_options
from mlxd.paths import StateDir, resolve_state_dir

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(cls=KnobCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@knob_options
def doctor(as_json: bool, **flags: Any) -> None:
    """Check this machine and say what to do about what is wrong.

    Takes the flags of `mlxd serve`, to check what they would do. Exit code 1 if a check fails. Nothing is changed and
    no process is stopped.
    """
    from mlxd.config.load import load
    from mlxd.doctor import Scene, Status, examine

    state = StateDir(resolve_state_dir(flags.get("state_dir"), os.environ))
    loaded = load(given(flags), state.root)
    findings = examine(Scene(loaded.config, state, os.environ, loaded.warnings))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            click.echo(
                f"{click.style(f'{finding.status:<4}', fg=COLOURS[finding.status])}  {finding.name}: {finding.what}"
            )
            if finding.cure:
                click.echo(f"      {finding.cure}")
    sys.exit(1 if any(finding.status is Status.FAIL for finding in findings) else 0)
